"""What pages show of jobs, audits, lineages and trials."""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cloud_trainer.console.job_pages import event_text
from cloud_trainer.console.media import lineage_graph
from cloud_trainer.flows.adaptation_engine import CanaryVerdict
from cloud_trainer.flows.other_tasks import reason_of
from cloud_trainer.flows.replay_watch import ReplayWatch
from cloud_trainer.flows.trials import Trials
from cloud_trainer.practice.dreams import watched
from cloud_trainer.practice.grpo.scored import Scored
from cloud_trainer.practice.kept_rollouts import keep_rollouts, read_rollouts
from cloud_trainer.records.graph import ProvenanceGraph
from cloud_trainer.store.database import Database
from gymnast_client import Trainer
from gymnast_core.evaluation.sequential import HarmRule, SequentialRule
from gymnast_core.evaluation.trial import Trial
from gymnast_core.evaluation.trial_plan import TrialPlan
from gymnast_core.job import JobEvent
from gymnast_core.records.lineage import Record
from gymnast_core.types import Outcome, RolloutBatch
from tests.cloud.learning_fakes import tiny_world_model
from tests.console.conftest import JSON, wait_for
from tests.console.planted_loop import TASKS, PlantedEngine, planted_config

AUDIT = {"model": "world_model-a", "passed": True, "outcomes": {"agreement": 0.87, "optimism": 0.04}}


def imagined(groups: int, size: int, shade: int) -> Scored:
    """Rollouts of two frames; the first row of a group succeeds, the second is undecided."""
    rows = groups * size
    batch = RolloutBatch(
        instructions=tuple(f"task {row // size}" for row in range(rows)), frame_steps_F=np.array([0, 5]),
        frames_BFHWC=np.full((rows, 2, 8, 8, 3), shade, np.uint8), actions_BTA=np.zeros((rows, 5, 7), np.float32),
        log_probs_BTA=np.zeros((rows, 5, 7), np.float32),
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


def test_what_is_not_here_is_not_found(bench) -> None:
    ana = bench.client("ana", "operator")
    for page in ("checkpoints/policy-x", "episodes/ep-x", "jobs/job-x", "adapt/adapt-x", "evaluations/x"):
        assert ana.get(f"/{page}").status_code == 404, page


def test_a_running_job_shows_its_rollouts_its_audit_and_its_story(bench) -> None:
    ana = bench.client("ana", "operator")
    job = bench.service.jobs.submit("default", "improve", {"policy": "policy-a"}, "key", "ana")
    folder = bench.folder / "jobs" / job.job_id
    folder.mkdir(parents=True)
    assert "Imagined last" not in ana.get(f"/jobs/{job.job_id}").text
    refused = ana.get(f"/jobs/{job.job_id}/audit", headers={"Accept": "application/json"})
    assert (refused.status_code, "measured no audit" in refused.json()["error"]) == (404, True)
    keep_rollouts(folder, imagined(2, 2, 90))
    (folder / "audit.json").write_text(json.dumps(AUDIT))
    (folder / "audit.html").write_text("<h1>Audit of world_model-a</h1>")
    metrics = {"imagined_reward": 0.47, "clipped": 0.1}
    bench.service.jobs.append(
        "default", job.job_id, "progress", {"stage": "grpo", "step": 3, "total": 8, "metrics": metrics}
    )
    page = ana.get(f"/jobs/{job.job_id}").text
    for text in ("Imagined last", "submitted by ana", "grpo 3 of 8: imagined reward 0.47", "task 1"):
        assert text in page
    assert ana.get(f"/jobs/{job.job_id}/imagined/1.webp").content[8:12] == b"WEBP"
    assert ana.get(f"/jobs/{job.job_id}/imagined/7.webp").status_code == 404
    assert "Audit of world_model-a" in ana.get(f"/jobs/{job.job_id}/audit").text


def test_a_world_model_shows_its_sight_on_every_policy(bench) -> None:
    name = tiny_world_model().save(bench.folder / "checkpoints" / "world").id
    job = bench.service.jobs.submit("default", "improve", {"policy": "policy-a"}, "key", "ana")
    folder = bench.folder / "jobs" / job.job_id
    folder.mkdir(parents=True)
    sight = {"policy-a": {"sight": 0.68, "low": 0.51, "high": 0.79, "succeeded": 24, "failed": 48}}
    audit = {**AUDIT, "model": name, "outcomes": {"agreement": 0.87, "sight": sight}}
    (folder / "audit.json").write_text(json.dumps(audit))
    page = bench.client("ana", "operator").get("/world-models").text
    for text in (name, "87 %", "0.68 <small>0.51 to 0.79 on", "/checkpoints/policy-a"):
        assert text in page


def test_events_are_told_in_words() -> None:
    lines = {
        "failed: no space left": JobEvent(1, 0, "state", {"state": "failed", "error": "no space left"}),
        "policy-b is offered as release 4": JobEvent(2, 0, "published", {"checkpoint_id": "policy-b", "sequence": 4}),
        "refused: agreement 0.4": JobEvent(3, 0, "refused", {"reason": "agreement 0.4"}),
        "read episodes 50 of 136": JobEvent(4, 0, "progress", {"stage": "read_episodes", "step": 50, "total": 136}),
    }
    assert {event_text(event) for event in lines.values()} == set(lines)


def test_a_lineage_of_thousands_is_a_few_boxes(tmp_path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'store.db'}")
    graph = ProvenanceGraph(database)
    outside = [Record(f"episode-{n}", "external", {}, ()) for n in range(4000)]
    parents = tuple(("episodes", record.id) for record in outside)
    graph.add_many([*outside, Record("world_model-a", "world_model", {}, parents)])
    drawn = str(lineage_graph(graph.why("world_model-a"), {}))
    database.close()
    assert drawn.count("<rect") == 2
    assert drawn.count("<path") == 1
    assert "4,000" in drawn


def try_out(bench, client, candidate, **values):
    against = values.get("against") or bench.add_policy(0.015)
    data = {"robot": "bridge-1", "instruction": "lift", "against": against, "pairs": "20", **values}
    return client.post(f"/checkpoints/{candidate}/try", data=data, headers=JSON)


def offered(bench, offset_m=0.01):
    name = bench.add_policy(offset_m)
    assert bench.client("root", "admin").post(f"/checkpoints/{name}/publish", headers=JSON).status_code == 200
    return name


def test_a_checkpoint_is_tried_blinded_and_only_then_promoted(bench) -> None:
    ana, root, name = bench.client("ana", "operator"), bench.client("root", "admin"), offered(bench)
    refused = root.post(f"/checkpoints/{name}/promote", headers=JSON)
    assert refused.status_code == 412
    assert "try it on a robot first" in refused.json()["error"]
    bench.engine.hold["trial"].clear()
    began = try_out(bench, ana, name, scene="evening")
    assert began.status_code == 200, began.text
    assert bench.engine.inside["trial"].wait(10)
    assert bench.engine.calls == ["trial in evening"]
    page = ana.get("/evaluations").text
    for text in ("Not decided", "0 <small>of at most 20</small>", name, "is hidden until the trial is decided"):
        assert text in page
    assert "Decided" not in page
    bench.engine.calls.append("trip")
    bench.engine.hold["trial"].set()
    wait_for(lambda: bench.ask.flows.cards("default"), "the card")
    (card,) = bench.ask.flows.cards("default")
    assert (card["decision"], card["judge"], card["versions"]["robot"]) == ("promote", "operator", "bridge-1")
    assert {pair["labelled_by"] for pair in card["pairs"]} == {"operator:ana"}
    page = ana.get(f"/evaluations/{card['trial_id']}").text
    first = card["pairs"][0]
    films = [f"/episodes/{episode}/film.webp" for episode in first["episodes"]]
    by_candidate, by_incumbent = films if first["candidate_first"] else reversed(films)
    assert page.index(by_candidate) < page.index(by_incumbent)
    for text in ("Pair 1", "the scene differs from its start", f'href="/episodes/{first["episodes"][0]}"'):
        assert text in page
    assert root.post(f"/checkpoints/{name}/promote", headers=JSON).status_code == 200
    assert [entry.kind for entry in bench.service.trails.of("default").log.entries][-2:] == ["try", "promote"]


def test_a_trial_that_cannot_be_is_refused_with_what_would_help(bench) -> None:
    ana, name = bench.client("ana", "operator"), bench.add_policy(0.01)
    for candidate, values, status, message in (
        (name, {}, 409, "was never offered to bridge-1"),
        ("policy-x", {}, 404, "not known here"),
        (offered(bench, 0.02), {"robot": "bridge-9"}, 409, "has not reported here"),
        (offered(bench, 0.02), {"against": ""}, 409, "bridge-1 runs '', which is no checkpoint of this trainer"),
        (offered(bench, 0.02), {"against": "policy-x"}, 409, "'policy-x' is no checkpoint of this trainer"),
        (offered(bench, 0.02), {"pairs": "3"}, 422, "min_pairs"),
        (offered(bench, 0.02), {"pairs": "many"}, 422, "'many'"),
        (offered(bench, 0.02), {"against": offered(bench, 0.02)}, 422, "are both"),
    ):
        refused = try_out(bench, ana, candidate, **values)
        assert (refused.status_code, message in refused.json()["error"]) == (status, True), refused.text
    watcher = bench.client("eve", "trainer")
    assert try_out(bench, watcher, name).status_code == 403
    assert bench.ask.flows.trials.views("default") == []


def test_another_operator_may_stop_a_trial_and_a_second_one_waits_in_the_queue(bench) -> None:
    ana, bea, name = bench.client("ana", "operator"), bench.client("bea", "operator"), offered(bench)
    bench.engine.hold["trial"].clear()
    assert try_out(bench, ana, name).status_code == 200
    trial = bench.ask.flows.trials.views("default")[0]["trial_id"]
    assert bench.engine.inside["trial"].wait(10)
    assert try_out(bench, bea, name).status_code == 200, "the queue has them take turns"
    second = bench.ask.flows.trials.views("default")[0]["trial_id"]
    assert bea.post(f"/evaluations/{second}/stop", headers=JSON).status_code == 200
    assert bea.post(f"/evaluations/{trial}/stop", headers=JSON).status_code == 200
    bench.engine.hold["trial"].set()
    wait_for(lambda: bench.ask.flows.trials.on("default", "bridge-1") is None, "the end of the run at hand")
    for view in bench.ask.flows.trials.views("default"):
        assert (view["state"], view["reason"], view["card"]) == ("stopped", "stopped by bea", {})
    again = bea.post(f"/evaluations/{trial}/stop", headers=JSON)
    assert (again.status_code, "nothing to stop" in again.json()["error"]) == (409, True)


def test_a_trial_goes_on_after_a_restart_and_counts_its_run_once(bench) -> None:
    name = offered(bench)
    bench.engine.hold["trial"].clear()
    assert try_out(bench, bench.client("ana", "operator"), name).status_code == 200
    assert bench.engine.inside["trial"].wait(10)
    closing = threading.Thread(target=bench.ask.flows.trials.close)
    closing.start()
    bench.engine.hold["trial"].set()
    closing.join()
    (view,) = bench.ask.flows.trials.views("default")
    assert view["state"] == "running"
    again = Trials(bench.folder / "console" / "trials", lambda tenant: bench.engine)
    wait_for(lambda: again.views("default")[0]["card"], "the card")
    (view,) = again.views("default")
    assert view["card"]["counts"]["wins"] == view["card"]["n"] == view["pairs_done"]
    assert [view["state"] for view in Trials(bench.folder / "console" / "trials", None).views("default")] == ["decided"]


def test_the_next_trial_of_the_same_two_takes_other_starts_and_says_so(bench) -> None:
    ana, name = bench.client("ana", "operator"), offered(bench)
    for number in (1, 2):
        assert try_out(bench, ana, name).status_code == 200
        wait_for(lambda number=number: len(bench.ask.flows.cards("default")) == number, "the card")
        wait_for(lambda: bench.ask.flows.trials.on("default", "bridge-1") is None, "its end")
    second, first = bench.ask.flows.cards("default")
    assert not set(first["start_seeds"]) & set(second["start_seeds"])
    assert [card["versions"]["earlier_trials_of_the_same"] for card in (first, second)] == [0, 1]


def decided(path, plan, forgotten):
    trial = Trial.declare(path, plan, bytes(range(32)))
    while (run := trial.next_run()) is not None:
        won = (trial.checkpoint_of(run.run_id) == "policy-candidate") != (run.instruction in forgotten)
        outcome = Outcome.SUCCESS if won else Outcome.FAILURE
        trial.record(run.run_id, outcome, labelled_by="operator:ana")
    trial.close()
    return trial.card()


def test_harm_on_another_task_is_told_on_the_adaptation_and_its_card(bench, tmp_path, monkeypatch) -> None:
    plan = TrialPlan("canary-1", "policy-a", "policy-candidate", "lift", SequentialRule(), tuple(range(100)))
    others = replace(
        plan, trial_id="guard-1", rule=HarmRule(tasks=2), tasks=("push", "put"), start_seeds=tuple(range(72))
    )
    card = {**decided(tmp_path / "c.jsonl", plan, ()), "guard": decided(tmp_path / "g.jsonl", others, ("put",))}
    del card["looser"]  # as in a trial that was decided before cards named it
    held = threading.Event()

    def canary(candidate, robot, folder, emit, stop):
        emit("declared", {"max_pairs": 20, "other_tasks": "after a win at most 25 pairs of each of push, put"})
        for pair, part in enumerate(("scene", "scene", "other tasks")):
            emit("pair", {"pair": pair, "part": part})
        assert held.wait(20)
        return CanaryVerdict(False, card, reason_of(card))

    monkeypatch.setattr(bench.engine, "canary", canary)
    ana = bench.client("ana", "operator")
    name = bench.adapt(ana, "preview")
    bench.step(ana, name, "approve")
    wait_for(lambda: len(bench.view(name).canary) == 3, "the pairs")
    page = ana.get(f"/adapt/{name}").text
    assert "2 pairs done. It won here; 1 pair on the other tasks so far" in page
    assert "here at most 20 pairs; of the other tasks after a win at most 25 pairs of each of push, put." in page
    held.set()
    bench.until(name, "reverted")
    assert "harm was shown on put: 100% -&gt; 0% [" in ana.get(f"/adapt/{name}").text
    page = ana.get("/evaluations/canary-1").text
    assert page.count("harm shown") == 1
    assert "<td>put</td>" in page
    assert page.count("won here, harm elsewhere") == 1
    assert "won here, harm elsewhere" in ana.get("/evaluations").text
    assert not bench.ask.flows.has_won("default", "policy-candidate")


def test_a_candidate_goes_through_the_gate_before_its_canary_and_one_that_fails_meets_no_arm(bench, monkeypatch):
    held = threading.Event()

    def admit(candidate, robot, folder, emit, ended):
        emit("gate", {"done": 15, "total": 100, "note": ""})
        assert held.wait(20)
        return "gate-00 against policy-a: it oscillates"

    monkeypatch.setattr(bench.engine, "admit", admit)
    ana = bench.client("ana", "operator")
    name = bench.adapt(ana, "preview")
    bench.step(ana, name, "approve")
    wait_for(lambda: bench.view(name).gate, "the gate")
    assert (
        "15 of 100 pairs; bridge-1 gets the candidate when it has passed this gate." in ana.get(f"/adapt/{name}").text
    )
    held.set()
    bench.until(name, "reverted")
    assert "no arm has run it: gate-00 against policy-a: it oscillates" in ana.get(f"/adapt/{name}").text
    assert "canary" not in bench.engine.calls


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


def until_over(bench: Any, name: str) -> Any:
    loops = bench.ask.flows.loops
    wait_for(lambda: loops.get("default", name).state != "running", f"loop {name} to end")
    return loops.get("default", name)


def test_the_loop_page_tells_every_round_with_intervals_and_what_became_of_it(bench):
    names = [bench.add_policy(offset) for offset in (0.026, 0.011, 0.012)]
    bench.looping = PlantedEngine(names)
    ana = bench.client("ana", "operator")
    settings = {**planted_config().to_json(), "name": "will be", "tasks": ["no"]}
    begun = ana.post("/loop", data={"config": json.dumps(settings), "name": "night", "tasks": ";".join(TASKS)})
    assert begun.status_code == 303, begun.text
    history = until_over(bench, "night").history
    page = ana.get("/loop").text
    assert "night on bridge-1" in page
    outcomes = re.findall(r'class="tag[^"]*">(promoted|kept the old one|refused)<', page)
    assert outcomes == ["promoted", "kept the old one", "refused"]
    assert history["rounds"][0]["policy"] in page
    gain = history["rounds"][0]["difference"]
    assert f"{100 * gain['mean']:+.1f} <small>{100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}</small>" in page
    assert "agreement 0.71 is below 0.80; collect more first" in page
    assert f"{names[1]}: promote after {history['rounds'][0]['canary'][0]['n']} pairs" in page


def test_who_acted_in_a_run_is_hidden_everywhere_until_its_trial_is_over(bench) -> None:
    ana, name, other = bench.client("ana", "operator"), offered(bench), bench.add_policy(0.03)
    bench.add_episode("ep-before", policy=other, purpose="trial")
    bench.engine.hold["trial"].clear()
    assert try_out(bench, ana, name, against=other).status_code == 200
    assert bench.engine.inside["trial"].wait(10)
    for number, acting in enumerate((name, other)):
        bench.add_episode(f"ep-run-{number}", policy=acting, purpose="trial", at_ns=time.time_ns())
    bench.add_episode("ep-other", policy=name, at_ns=time.time_ns())

    def seen() -> dict[str, str]:
        with Trainer(bench.service.address, None, insecure=True).episodes as client:
            return {row.episode_id: row.policy_version for row in client.list()}

    def shown(episode_id: str) -> bool:
        return any(policy in ana.get(f"/episodes/{episode_id}").text for policy in (name, other))

    bench.service.start()
    assert seen() == {"ep-before": other, "ep-run-0": "", "ep-run-1": "", "ep-other": name}
    assert [shown(f"ep-run-{number}") for number in (0, 1)] == [False, False]
    assert shown("ep-other")
    listed = ana.get("/episodes").text
    assert (listed.count(name), listed.count(other)) == (1, 1)
    for number, acting in enumerate((name, other)):
        why = ana.get(f"/checkpoints/ep-run-{number}/lineage.json").text
        assert acting not in why
    service = bench.service
    watch = ReplayWatch(service.episodes, service.jobs, service.ledgers.of, lambda *_: True, service.blinded)
    for _ in range(3):
        watch.look()
    assert [job.spec["episodes"] for job in bench.service.jobs.list(None)] == [["ep-before"]]
    bench.engine.hold["trial"].set()
    wait_for(lambda: bench.ask.flows.trials.on("default", "bridge-1") is None, "the end of the trial")
    assert seen()["ep-run-1"] == other
    assert shown("ep-run-0")
