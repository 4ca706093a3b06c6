"""What pages show of jobs, audits, lineages and trials."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from cloud_trainer.console.job_pages import told
from cloud_trainer.console.media import lineage_graph
from cloud_trainer.grpo.scored import Scored
from cloud_trainer.jobs.dreams import keep_rollouts, read_rollouts, watched
from gymnast_core.job import JobEvent
from gymnast_core.lineage import Record
from gymnast_core.provenance import ProvenanceGraph
from gymnast_core.types import RolloutBatch
from tests.console.planted_loop import PlantedLoop

AUDIT = {"model": "world_model-a", "passed": True, "outcomes": {"agreement": 0.87, "optimism": 0.04}}


def imagined(groups: int, size: int, shade: int) -> Scored:
    """Rollouts of two frames; the first row of a group succeeds, the second is undecided."""
    rows = groups * size
    batch = RolloutBatch(
        instructions=tuple(f"task {row // size}" for row in range(rows)), frame_steps_F=np.array([0, 5]),
        frames_BFHWC=np.full((rows, 2, 8, 8, 3), shade, np.uint8), actions_BTA=np.zeros((rows, 5, 7), np.float32),
        tokens_BTA=np.zeros((rows, 5, 7), np.int64), log_probs_BTA=np.zeros((rows, 5, 7), np.float32),
        length_B=np.full(rows, 5), policy_version="policy-a", group_B=np.repeat(np.arange(groups), size),
    )  # fmt: skip
    row_B = np.arange(rows) % size
    return Scored(batch, (row_B == 0).astype(np.float32), row_B != 1)


def test_rollouts_of_the_newest_iteration_replace_those_before(tmp_path: Path) -> None:
    assert read_rollouts(tmp_path) == ([], [])
    sampled = iter([imagined(2, 2, 10), imagined(9, 2, 200)])
    sampler = watched(lambda policy, rng: next(sampled), tmp_path)
    for _ in range(2):
        sampler(None, np.random.default_rng(0))  # type: ignore[arg-type]  # nobody acts here
    rows, films = read_rollouts(tmp_path)
    assert [row["instruction"] for row in rows] == ["task 0", "task 3", "task 5", "task 8"]
    assert {row["outcome"] for row in rows} == {"success"}
    assert len(films) == 4
    assert films[0].shape == (2, 8, 8, 3)
    assert films[0].min() == 200


def test_a_running_job_shows_its_rollouts_its_audit_and_its_story(bench) -> None:
    ana = bench.client("ana", "operator")
    job = bench.service.jobs.submit("default", "improve", {"policy": "policy-a"}, "key", "ana")
    folder = bench.folder / "jobs" / job.job_id
    folder.mkdir(parents=True)
    assert "Imagined last" not in ana.get(f"/jobs/{job.job_id}").text
    refused = ana.get(f"/jobs/{job.job_id}/audit", headers={"Accept": "application/json"})
    assert (refused.status_code, "measured no audit" in refused.json()["error"]) == (409, True)
    keep_rollouts(folder, imagined(2, 2, 90))
    (folder / "audit.json").write_text(json.dumps(AUDIT))
    (folder / "audit.html").write_text("<h1>Audit of world_model-a</h1>")
    metrics = {"imagined_reward": 0.47, "clipped": 0.1}
    bench.service.jobs.append(job.job_id, "progress", {"stage": "grpo", "step": 3, "total": 8, "metrics": metrics})
    page = ana.get(f"/jobs/{job.job_id}").text
    for text in ("Imagined last", "submitted by ana", "grpo 3 of 8: imagined reward 0.47", "task 1"):
        assert text in page
    assert ana.get(f"/jobs/{job.job_id}/imagined/1.webp").content[8:12] == b"WEBP"
    assert ana.get(f"/jobs/{job.job_id}/imagined/7.webp").status_code == 409
    assert "Audit of world_model-a" in ana.get(f"/jobs/{job.job_id}/audit").text


def test_events_are_told_in_words() -> None:
    lines = {
        "failed: no space left": JobEvent(1, 0, "state", {"state": "failed", "error": "no space left"}),
        "policy-b is offered as release 4": JobEvent(2, 0, "published", {"checkpoint_id": "policy-b", "sequence": 4}),
        "refused: agreement 0.4": JobEvent(3, 0, "refused", {"reason": "agreement 0.4"}),
        "read episodes 50 of 136": JobEvent(4, 0, "progress", {"stage": "read_episodes", "step": 50, "total": 136}),
    }
    assert {told(event) for event in lines.values()} == set(lines)


def test_a_lineage_of_thousands_is_a_few_boxes() -> None:
    graph = ProvenanceGraph(":memory:")
    outside = [Record(f"episode-{n}", "external", {}, ()) for n in range(4000)]
    parents = tuple(("episodes", record.id) for record in outside)
    graph.add_many([*outside, Record("world_model-a", "world_model", {}, parents)])
    drawn = str(lineage_graph(graph.why("world_model-a"), {}))
    graph.close()
    assert drawn.count("<rect") == 2
    assert drawn.count("<path") == 1
    assert "4,000" in drawn


def test_a_trial_shows_the_films_of_a_pair_that_differed(bench) -> None:
    interval = {"mean": 0.5, "low": 0.2, "high": 0.8}
    pairs = [
        {"pair": n, "start_seed": n, "candidate_first": n == 1, "candidate": True, "incumbent": n == 0,
         "episodes": [f"ep-{n}-1", f"ep-{n}-2"]}
        for n in range(2)
    ]  # fmt: skip
    card = {
        "trial_id": "t1", "instruction": "lift", "decision": "promote",
        "candidate": "policy-b", "incumbent": "policy-a",
        "candidate_success": interval, "incumbent_success": interval, "difference": interval, "n": 2, "rule": {},
        "counts": {"wins": 1, "losses": 0}, "judge": "operator", "commitment": "c" * 64, "secret": "s" * 64,
        "judge_calibration": None, "versions": None,
        "set_aside": [{"run": "t1-p001-a1-2", "reason": "the scene differs from its start"}], "pairs": pairs,
    }  # fmt: skip
    (bench.desk.trials / "t1.card.json").write_text(json.dumps(card))
    page = bench.client("ana", "operator").get("/evaluations/t1").text
    assert page.index("/episodes/ep-1-1/film.webp") < page.index("/episodes/ep-1-2/film.webp")  # the candidate began
    for text in ("Pair 2", "the scene differs from its start", 'href="/episodes/ep-0-2"'):
        assert text in page


def test_a_budget_in_money_is_asked_for_where_training_has_a_price(bench) -> None:
    ana = bench.client("ana", "operator")
    adaptation_id = bench.adapt(ana, "ready")
    assert "Money, at 3.6 an hour" in ana.get(f"/adapt/{adaptation_id}").text
    assert bench.step(ana, adaptation_id, "train", money="0.5", price_per_hour="0").status_code == 200
    bench.until(adaptation_id, "preview")
    assert bench.view(adaptation_id).budget["price_per_hour"] == 3.6  # the trainer's, whatever the form says
    assert bench.view(adaptation_id).budget["money"] == 0.5


def test_the_adapter_kept_for_a_scene_is_offered_when_it_comes_back(bench) -> None:
    bench.engine.known = ["policy-kept"]
    ana = bench.client("ana", "operator")
    adaptation_id = bench.adapt(ana, "ready")
    page = ana.get(f"/adapt/{adaptation_id}").text
    assert "policy-kept was kept for it" in page
    assert "Try it again" in page
    wrong = bench.step(ana, adaptation_id, "reuse", adapter="policy-b")
    assert (wrong.status_code, "kept were: policy-kept" in wrong.json()["error"]) == (422, True)
    assert bench.step(ana, adaptation_id, "reuse", adapter="policy-kept").status_code == 200
    bench.until(adaptation_id, "preview")
    assert "train" not in bench.engine.calls


def test_the_loop_page_tells_every_round_with_intervals_and_what_became_of_it(bench):
    names = [bench.add_policy(offset) for offset in (0.026, 0.011, 0.012)]
    history = PlantedLoop(bench.folder / "loop", names).run()
    page = bench.client("ana", "operator").get("/loop").text
    outcomes = re.findall(r'class="tag[^"]*">(promoted|kept the old one|refused)<', page)
    assert outcomes == ["promoted", "kept the old one", "refused"]
    assert history["rounds"][0]["policy"] in page
    gain = history["rounds"][0]["difference"]
    assert f"{100 * gain['mean']:+.1f} <small>{100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}</small>" in page
    assert "agreement 0.71 is below 0.80; collect more first" in page
    assert f"{names[1]}: promote after {history['rounds'][0]['canary'][0]['n']} pairs" in page
