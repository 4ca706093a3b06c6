"""What the operator's page asks of a scene is what training asks again: episodes, judge, bounds, overrides, seed."""

from __future__ import annotations

import functools
import io
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cloud_trainer.app.jobs import JobProcesses
from cloud_trainer.flows.adaptation_engine import SceneRequest
from cloud_trainer.flows.scene_counts import decided_share, of_job, to_collect, too_few
from cloud_trainer.flows.scene_engine import SceneEngine
from cloud_trainer.jobs import adapt as adapting
from cloud_trainer.jobs import scene as scenes
from cloud_trainer.jobs.adapt import adapt
from cloud_trainer.jobs.calibrated import calibrated_bounds, write_bounds
from cloud_trainer.jobs.runner import Recorded
from cloud_trainer.jobs.scene import FILMS, divide, nothing_succeeds, preview, trust
from cloud_trainer.jobs.shelf import Shelves
from cloud_trainer.service import Service, ServiceConfig
from cloud_trainer.store.protocols import EpisodeRow
from cloud_trainer.world_model.compact.data import clips_of
from cloud_trainer.world_model.compact.model import CompactWorldModel
from cloud_trainer.world_model.worlds import CompactWorld
from gymnast_core.episodes import read_summary
from gymnast_core.episodes.spool import file_digest
from gymnast_core.errors import ConfigError, CorruptError, NotTrustedError
from gymnast_core.evaluation.scene_book import SceneBook
from gymnast_core.records.manifest import Manifest
from gymnast_core.types import Outcome
from tests.cloud.jobs import TINY_SCENE, in_another_scene, job_of, scene_job
from tests.cloud.learning_fakes import episode, tiny_world_model

TASK = "lift the red cube"


def placed(seed: int, *, robot: str = "wx-0", scene: str = "bench", shade: int = 0, task: str = TASK):
    """An episode of a robot in a scene; `shade` darkens its picture."""
    made = episode(seed)
    images = {name: (frames // (1 + shade)).astype(np.uint8) for name, frames in made.images.items()}
    metadata = {**made.metadata, "robot": robot, "scene": scene}
    return replace(made, instruction=task, images=images, metadata=metadata)


def test_a_scene_is_this_robots_of_this_name_and_looks_as_it_does_now():
    recorded = [
        placed(0, shade=2), placed(1, robot="wx-1"), placed(2, scene="other"), placed(3), placed(4, task="push"),
        placed(5),
    ]  # fmt: skip
    found = divide(recorded, robot="wx-0", scene="bench", instruction=TASK)
    assert [e.episode_id for e in found.mine] == ["fake-3", "fake-5"]
    assert [e.episode_id for e in found.here] == ["fake-3", "fake-4", "fake-5"]
    assert [e.episode_id for e in found.others] == ["fake-0", "fake-1", "fake-2"]
    again = divide([*recorded, placed(6)], robot="wx-0", scene="bench", instruction=TASK, checked=found.checked)
    assert [e.episode_id for e in again.mine] == ["fake-3", "fake-5"], "what came later was not checked"
    assert again.checked == found.checked
    with pytest.raises(ConfigError, match=r"no episode of 'lift the red cube' in scene 'bench' of wx-9; collect"):
        divide(recorded, robot="wx-9", scene="bench", instruction=TASK)


def row_of(entry: Recorded, service: Service, number: int, folder: Path) -> EpisodeRow:
    """A recording as the trainer's catalogue knows it; the drawer's are another robot's."""
    summary, digest, size = read_summary(entry.path), file_digest(entry.path), entry.path.stat().st_size
    service.blobs.put_file(Path(shutil.copy(entry.path, folder)), digest)
    header = summary.header
    robot = "wx-0" if "lift" in header.episode_id else "wx-1"
    purpose = "trial" if number % 8 == 7 else "collect"
    return EpisodeRow(
        0, "default", header.episode_id, robot, digest, size, time.time_ns(), "valid", "",
        header.instruction, entry.outcome, "operator:sim", summary.steps, "p", {**header.metadata, "purpose": purpose},
    )  # fmt: skip


def test_training_asks_what_the_operator_saw(material, tmp_path):
    checkpoints, files = material
    trainer = tmp_path / "trainer"
    shelves = Shelves(trainer)
    shelf = shelves.of("default")
    ids = {kind: shelf.add(folder).id for kind, folder in checkpoints.items()}
    why = dict.fromkeys(("agreement", "correlation"), "an untrained model, for the test")
    config = {**TINY_SCENE, "grpo_iterations": 1, "scene_episodes": 5, "overrides": why, "bounds": {"jump": 0.9}}
    write_bounds(shelf.path(ids["world_model"]), {"gates": {"adapt": {"agreement": 0.99}}})
    with Service(ServiceConfig(folder=trainer, insecure=True), JobProcesses(trainer, shelves)) as service:
        service.meta.add_episodes([row_of(entry, service, number, tmp_path) for number, entry in enumerate(files)])
        catalogue = service.episodes_of("default")
        engine = SceneEngine(
            connect=lambda name, errand: None, jobs=service.jobs, catalogue=catalogue, shelf=shelf,
            book=SceneBook(tmp_path / "book.json"), scene="standard", tenant="default", work=tmp_path / "jobs",
            begins=lambda *_: None,
        )  # fmt: skip
        asked = {**ids, "robot": "wx-0", "scene": "standard", "instruction": TASK, "seed": 3, "config": config}
        folder = tmp_path / "flow"
        folder.mkdir()
        (folder / "request.json").write_text(json.dumps({**asked, "other_tasks": []}))
        seen = engine.trust(folder, lambda: "")
        rows = {row.episode_id: row for row in catalogue.all()}
        checked = json.loads((folder / "request.json").read_text())["checked"]
        assert {rows[name].metadata["purpose"] for name in checked} == {"collect"}
        learnable = [row for row in rows.values() if row.metadata["purpose"] == "collect"]
        recorded = [Recorded(catalogue.path(row), row.outcome, row.episode_id, row.robot) for row in learnable]
        spec = {**asked, "checked": checked, "budget_s": 600}
        job = replace(
            scene_job((checkpoints, recorded), tmp_path / "job", **spec),
            checkpoints={kind: shelf.path(ids[kind]) for kind in checkpoints},
        )
        result = adapt(job).to_json()
    numbers = {name for name, value in seen.figures.items() if name in result["audit"]}
    assert {"agreement", "jump", "frame_lag", "gripper_change"} <= numbers
    assert {name: seen.figures[name] for name in numbers} == {name: result["audit"][name] for name in numbers}
    assert seen.figures["overridden"] == result["overridden"]
    assert result["overridden"]["agreement"] == why["agreement"]
    assert result["episodes"] == seen.figures["real_episodes_here"]
    assert "agreement" in result["audit"]["broken"], "held to what it was calibrated to"


def test_an_episode_withdrawn_since_the_check_stops_the_training(material, tmp_path):
    asked = {"scene": "standard", "instruction": TASK, "checked": ["ep-gone"]}
    with pytest.raises(
        ConfigError, match="episodes ep-gone of the trust check were withdrawn since; check trust again"
    ):
        adapt(scene_job(material, tmp_path, **asked))


def test_bounds_that_are_no_table_are_named(tmp_path):
    assert calibrated_bounds(tmp_path, "adapt") == {}
    write_bounds(tmp_path, {"gates": {"improve": {"agreemnt": 1}}})
    with pytest.raises(CorruptError, match="agreemnt"):
        calibrated_bounds(tmp_path, "improve")
    (tmp_path / "bounds.json").write_text("[" * 100_000)
    with pytest.raises(CorruptError, match="calibrate again"):
        calibrated_bounds(tmp_path, "improve")


def test_a_judge_that_abstains_is_reckoned_with_when_more_episodes_are_asked_for():
    def judge(**calibration: object) -> Manifest:
        return Manifest("judge", "learned_judge", {}, "0" * 64, 1, lineage=calibration)

    assert decided_share(judge(calibration={"overall": {"abstained": 0.2}})) == pytest.approx(0.8)
    for unknown in ({}, {"calibration": "none"}, {"calibration": {"overall": {"abstained": 7.0}}}):
        assert decided_share(judge(**unknown)) == 1.0
    asked = too_few(1, 20, judge(calibration={"overall": {"abstained": 0.2}}))
    assert (asked.ok, asked.figures["more_needed"]) == (False, 24), "25 recorded ones make 20 decided"
    assert "collect 24 more" in asked.reason
    figures = {"episodes": 18, "real_episodes_here": 20}
    found = of_job({"ok": False, "reason": "episodes 18 < 20", "figures": figures}, 20, overridden=False)
    assert found.figures["more_needed"] == 3, "2 more decided at 18 of 20 are 2.2 recorded"
    assert "decided on 18 of 20 dreams" in found.reason
    for left in (
        of_job({"ok": False, "reason": "jump", "figures": {**figures, "episodes": 20}}, 20, overridden=False),
        of_job({"ok": False, "reason": "jump", "figures": figures}, 20, overridden=True),
        of_job({"ok": True, "reason": "", "figures": figures}, 20, overridden=False),
        of_job(
            {"ok": False, "reason": "jump", "figures": {"real_episodes_here": 41, "dreamt": 0}}, 20, overridden=False
        ),
    ):
        assert (left.reason, "more_needed" in left.figures) == ("jump" if not left.ok else "", False)
    assert to_collect(20, 0, 0.0) == 80


def test_a_world_model_keeps_its_name_in_a_scene():
    world = CompactWorld(CompactWorldModel(tiny_world_model().network, tiny_world_model().background, version="wm-1"))
    assert world.in_scene(clips_of([episode(0)], 64), seed=0).version == "wm-1"


def test_nothing_is_practised_that_will_be_refused_for_what_it_forgets(material, tmp_path, monkeypatch):
    monkeypatch.setattr(adapting, "require_gates", lambda *_: None)  # the scene itself is believed
    monkeypatch.setattr(adapting, "reinforce", lambda *_, **__: pytest.fail("it was practised"))
    checkpoints, files = material
    lost = [replace(entry, outcome="failure") for entry in files]
    job = scene_job((checkpoints, [*lost, *in_another_scene(material, tmp_path)]), tmp_path / "job", scene="bench",
                    instruction=TASK, config={**TINY_SCENE, "check": True})  # fmt: skip
    with pytest.raises(
        NotTrustedError, match=r"forget elsewhere cannot be measured: .* 0 are successes and \d+ failures"
    ):
        adapt(job)


def test_no_success_counts_as_none_to_learn_from_where_chance_does_not_explain_it():
    lost = [replace(episode(seed), outcome=Outcome.FAILURE) for seed in range(23)]
    assert "none of 21 real episodes of this task here succeeded, so at most 10%" in nothing_succeeds(lost[:21], 8)
    assert nothing_succeeds(lost[:18], 8), ".875 to the 18th is .09"
    assert not nothing_succeeds(lost[:17], 8), ".875 to the 17th is .103"
    assert not nothing_succeeds([*lost, replace(lost[0], outcome=Outcome.SUCCESS)], 8)
    assert not nothing_succeeds([], 8)


def test_a_scene_where_nothing_ever_succeeded_is_refused_before_anything_is_dreamt(material, tmp_path, monkeypatch):
    def dreamt(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(scenes, "measure_gates", dreamt)
    here = [replace(entry, outcome="failure") for entry in in_another_scene(material, tmp_path / "recorded")]
    names = [read_summary(entry.path).header.episode_id for entry in here]
    lost = [replace(entry, episode_id=name) for entry, name in zip(here, names, strict=True)]
    config = {**TINY_SCENE, "check": True, "group_size": 2}
    asked = {"scene": "bench", "instruction": TASK}
    job = functools.partial(job_of, (material[0], lost), tmp_path / "job", **asked)
    with pytest.raises(NotTrustedError, match=r"scene_success: none of 6 .* Demonstrate or tele-operate"):
        adapt(job(kind="adapt", config=config))
    seen = trust(job(kind="trust", config=config, episodes=names))
    assert (seen.ok, seen.figures["real_episodes_here"]) == (False, 6)
    assert "override scene_success with a reason" in seen.reason
    for let in ({"check": False}, {"overrides": {"scene_success": "the drawer was locked"}}):
        with pytest.raises(ZeroDivisionError):
            trust(job(kind="trust", config={**config, **let}, episodes=names))


def test_an_adaptation_that_will_be_refused_does_not_begin(material, tmp_path):
    checkpoints, files = material
    shelf = Shelves(tmp_path / "trainer").of("default")
    ids = {kind: shelf.add(folder).id for kind, folder in checkpoints.items()}
    with Service(ServiceConfig(folder=tmp_path / "trainer", insecure=True)) as service:
        lost = [replace(entry, outcome="failure") for entry in files]
        service.meta.add_episodes([row_of(entry, service, number, tmp_path) for number, entry in enumerate(lost)])
        engine = SceneEngine(
            connect=lambda name, errand: None, jobs=service.jobs, catalogue=service.episodes_of("default"), shelf=shelf,
            book=SceneBook(tmp_path / "book.json"), scene="standard", tenant="default", work=tmp_path / "jobs",
            begins=lambda *_: None,
        )  # fmt: skip
        asked = SceneRequest("wx-0", TASK, "pink_cube", ids["world_model"], ids["judge"])
        with pytest.raises(NotTrustedError, match="0 are successes"):
            engine.check(asked)
        engine.check(replace(asked, config={"forgetting": 1}))
        with pytest.raises(ConfigError, match=r"dream\.steps 4"):
            engine.check(replace(asked, config={"forgetting": 1, "dream": {"steps": 4}}))
        engine.check(replace(asked, scene="standard"))  # where it has been before, the job knows what looks otherwise


def test_a_preview_films_both_policies_from_the_captured_start(material, tmp_path):
    checkpoints, _ = material
    here = in_another_scene(material, tmp_path / "recorded")
    names = [read_summary(entry.path).header.episode_id for entry in here]
    recorded = [replace(entry, episode_id=name) for entry, name in zip(here, names, strict=True)]
    twice = {**checkpoints, "candidate": checkpoints["policy"]}
    asked = {"scene": "bench", "instruction": TASK, "episodes": names, "candidate": "policy-x", "config": TINY_SCENE}
    job = job_of((twice, recorded), tmp_path / "job", kind="preview", start=names[0], **asked)
    preview(job)
    old, new = ((tmp_path / "job" / f"{name}.webp").read_bytes() for name in FILMS)
    with Image.open(io.BytesIO(old)) as strip:
        assert strip.width > strip.height, "frames side by side"
    assert old == new, "the candidate is the policy itself here, and both begin at the captured frame"
    with pytest.raises(ConfigError, match="the captured start ep-gone was withdrawn"):
        preview(job_of((twice, recorded), tmp_path / "job", kind="preview", start="ep-gone", **asked))
