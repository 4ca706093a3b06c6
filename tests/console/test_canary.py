"""The canary's own checks, on real recordings and a robot that puts things back, or does not."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cloud_trainer.flows.adaptation_engine import Budget, SceneRequest
from cloud_trainer.flows.arm_trials import MOST_ATTEMPTS
from cloud_trainer.flows.other_tasks import may_be_lost, other_tasks
from cloud_trainer.flows.scene_engine import SceneEngine
from cloud_trainer.flows.trials import Trials
from cloud_trainer.jobs.shelf import Shelves
from cloud_trainer.progress import ClosingError
from cloud_trainer.service import Service, ServiceConfig
from cloud_trainer.store.protocols import EpisodeRow
from gymnast_core.episodes import write_episode
from gymnast_core.episodes.spool import file_digest
from gymnast_core.errors import ConfigError, GymnastError
from gymnast_core.evaluation.recognition import SceneRecogniser
from gymnast_core.evaluation.scene import Fingerprint
from gymnast_core.evaluation.scene_book import SceneBook
from gymnast_core.evaluation.sequential import SequentialRule
from gymnast_core.orders import EpisodeAnswer
from gymnast_ros.sim.collect import collect
from gymnast_ros.sim.expert import ScriptedExpert
from tests.console.simulated import arm


class CarelessRobot:
    """Candidate always succeeds, the running policy never; `misplaced` runs start with a block elsewhere."""

    policy_version = "policy-a"

    def __init__(self, service: Service, folder: Path, misplaced: set[int]) -> None:
        self.service, self.folder, self.misplaced, self.runs = service, folder, misplaced, 0
        self.known, self.forgotten = {"lift", "put"}, set()
        self.estops: set[int] = set()
        self.attached: list[tuple[str, str, dict]] = []
        self.looks_until_armed = 0
        with arm("standard") as env:
            (self.episode,) = collect(env, ScriptedExpert(env), "push", [0], frame_size=64)

    @property
    def stopped(self):
        """Until somebody re-arms, who takes a moment."""
        self.looks_until_armed -= 1
        return self.looks_until_armed >= 0

    def wait_staged(self, checkpoint_ids, timeout_s):
        pass

    def flush(self, timeout_s):
        pass

    def turn(self, what):
        return nullcontext()

    @property
    def adapters(self):
        return [{"checkpoint_id": name} for name, _, _ in self.attached]

    def attach(self, checkpoint_id, *, scene, recogniser):
        self.attached.append((checkpoint_id, scene, json.loads(json.dumps(recogniser))))
        return "policy-a"

    def detach(self, checkpoint_id):
        self.attached = [one for one in self.attached if one[0] != checkpoint_id]

    def run_episode(self, *, checkpoint, instruction, **asked):
        self.runs += 1
        if self.runs in self.estops:
            self.looks_until_armed = 3
            return self._answer(instruction, "cut-short", truncated_reason="estop")
        images = {name: frames.copy() for name, frames in self.episode.images.items()}
        if self.runs in self.misplaced:
            for frames in images.values():
                frames[:, 40:56, 4:20] = (250, 20, 20)
        won = checkpoint == "policy-b" or instruction in self.known
        won = won and (checkpoint, instruction) not in self.forgotten
        outcome = type(self.episode.outcome)("success" if won else "failure")
        made = replace(
            self.episode, episode_id=f"run-{self.runs}", instruction=instruction, outcome=outcome, images=images
        )
        path = write_episode(self.folder, made, robot="bridge-1", created_ns=time.time_ns())
        digest = file_digest(path)
        size = path.stat().st_size
        self.service.blobs.put_file(path, digest)
        row = EpisodeRow(
            0, "default", made.episode_id, "bridge-1", digest, size, 1, "valid", "", instruction, outcome.value,
            "operator:sim", made.steps, checkpoint, {"scene": "bench"},
        )  # fmt: skip
        self.service.meta.add_episodes([row])
        return self._answer(instruction, made.episode_id, success=won, labelled_by="operator:sim")

    @staticmethod
    def _answer(instruction, episode_id, **fields):
        usual = {"success": None, "labelled_by": "", "truncated_reason": ""}
        asked = {"task": instruction, "instruction": instruction, "seed": 0, "episode_id": episode_id}
        return EpisodeAnswer(**{**usual, **fields, **asked})


@pytest.fixture
def engine(tmp_path):
    with Service(ServiceConfig(folder=tmp_path / "trainer", insecure=True)) as service:
        (tmp_path / "made").mkdir()
        (tmp_path / "flow").mkdir()
        robot = CarelessRobot(service, tmp_path / "made", set())
        (tmp_path / "flow" / "request.json").write_text(
            '{"policy": "policy-a", "instruction": "push", "world_model": "world_model-a", "judge": "judge-a"}'
        )
        made = SceneEngine(
            connect=lambda name, errand: robot, jobs=service.jobs, catalogue=service.episodes_of("default"),
            shelf=Shelves(tmp_path / "trainer").of("default"),
            book=SceneBook(tmp_path / "scenes.json"), scene="bench", tenant="default", work=tmp_path / "jobs",
            begins=lambda *_: None,
            rule=SequentialRule(max_pairs=20),
        )  # fmt: skip
        yield SimpleNamespace(engine=made, robot=robot, folder=tmp_path / "flow")


def canary(bench):
    told = []
    verdict = bench.engine.canary(
        "policy-b", "bridge-1", bench.folder, lambda kind, data: told.append(kind), lambda: False
    )
    return verdict, told


def test_a_pair_whose_scene_was_not_reset_is_set_aside_and_repeated(engine):
    engine.robot.misplaced = {4}  # the second run of the second pair
    verdict, told = canary(engine)
    assert verdict.keep
    (aside,) = verdict.card["set_aside"]
    assert aside["reason"].startswith("the scene differs from its start in")
    assert verdict.card["pairs"][1]["attempt"] == 2
    assert verdict.card["pairs"][1]["episodes"] == ["run-5", "run-6"]
    assert told.count("pair") == verdict.card["n"]
    assert engine.robot.runs == 2 * verdict.card["n"] + 2


def test_an_estop_pauses_a_trial_and_its_run_is_repeated_however_often(engine):
    engine.robot.estops = {2, 3, 4, 5, 9}  # more than a pair may be set aside
    verdict, told = canary(engine)
    assert verdict.keep, verdict.reason
    assert verdict.card["set_aside"] == []
    assert "cut-short" not in {name for pair in verdict.card["pairs"] for name in pair["episodes"]}
    assert told.count("pair") == verdict.card["n"]


def test_a_trial_that_is_stopped_while_it_is_paused_ends(engine):
    engine.robot.estops, stops = {2}, iter([False, False, True])
    verdict = engine.engine.canary(
        "policy-b", "bridge-1", engine.folder, lambda kind, data: None, lambda: next(stops, True)
    )
    assert not verdict.keep
    assert verdict.card == {}


def test_a_scene_that_is_never_reset_ends_the_canary_and_says_why(engine):
    engine.robot.misplaced = set(range(2, 100, 2))
    with pytest.raises(GymnastError, match=f"set aside {MOST_ATTEMPTS} times.*the scene differs from its start"):
        canary(engine)
    assert engine.robot.runs == 2 * MOST_ATTEMPTS


def test_an_adapter_that_loses_its_canary_is_no_longer_offered_with_the_scene(engine, monkeypatch):
    frame = np.asarray(next(iter(engine.robot.episode.images.values()))[0])
    recogniser = SceneRecogniser.fitted([Fingerprint.of(frame)], [])
    engine.engine.book.keep("bench on bridge-1", recogniser, "policy-b")
    run = engine.robot.run_episode
    monkeypatch.setattr(engine.robot, "run_episode", lambda *, checkpoint, **asked: run(checkpoint="policy-a", **asked))
    verdict, _ = canary(engine)
    assert not verdict.keep
    known = engine.engine.book.find(frame)
    assert known is not None
    assert known.adapters == ()


def test_what_is_kept_is_attached_where_its_recorded_images_are_recognised(engine):
    for instruction in ("push", "lift"):
        engine.robot.run_episode(checkpoint="policy-a", instruction=instruction)
    frame = engine.engine.catalogue.film(engine.engine.catalogue.list()[-1], 1, 128)[0]
    np.save(engine.folder / "start.npy", frame)
    engine.engine.keep("policy-b", "bridge-1", engine.folder)
    ((kept, scene, values),) = engine.robot.attached
    recogniser = SceneRecogniser.from_json(values)
    assert (kept, scene, recogniser.calibration.here) == ("policy-b", "bench", 3)
    assert recogniser.margin(Fingerprint.of(frame)) > 0
    assert engine.engine.book.find(frame).adapters == ("policy-b",)
    engine.engine.revert("policy-b", "bridge-1", engine.folder)
    assert engine.robot.attached == []


def record_others(bench):
    """The robot was seen to lift and put with its running policy; this scene's own task counts as no other."""
    for instruction in ("lift", "put", "push"):
        bench.robot.run_episode(checkpoint="policy-a", instruction=instruction)


def test_a_winner_that_forgot_another_task_is_reverted_and_the_task_is_named(engine):
    record_others(engine)
    engine.robot.forgotten = {("policy-b", "put")}
    verdict, told = canary(engine)
    assert not verdict.keep
    assert verdict.card["decision"] == "promote"
    guard = verdict.card["guard"]
    assert (guard["decision"], set(guard["by_task"])) == ("roll_back", {"lift", "put"})
    assert guard["n"] < 30  # seen early: tasks take turns
    assert "harm was shown on all tasks together: 100% -> 50%" in verdict.reason
    assert ", most of it on put: 100% -> 0% [" in verdict.reason
    assert not set(guard["start_seeds"]) & set(verdict.card["start_seeds"])
    assert told.count("pair") == verdict.card["n"] + guard["n"]


def test_a_winner_that_forgot_nothing_is_kept_and_told_how_much_is_excluded(engine):
    record_others(engine)
    verdict, _ = canary(engine)
    assert verdict.keep
    guard = verdict.card["guard"]
    assert guard["n"] == 2 * engine.engine.guard_pairs
    assert verdict.card["versions"]["other_tasks"].startswith(
        "after a win at most 36 pairs of each of lift, put; alpha"
    )
    most = {name: may_be_lost(row) for name, row in guard["by_task"].items()}
    assert 0.05 < most["lift"] < 0.2
    assert f"(lift {most['lift']:.0%}, put {most['put']:.0%})" in verdict.reason
    assert verdict.reason.startswith("it won here and no harm was shown on the other tasks: 100% -> 100% [-")


def test_without_pairs_for_the_other_tasks_none_is_tried(engine):
    record_others(engine)
    engine.engine.guard_pairs = 0
    verdict, _ = canary(engine)
    assert verdict.keep
    assert "guard" not in verdict.card
    assert verdict.reason == (
        "it won its canary; of the other tasks none is tried: the trainer runs with --guard-pairs 0"
    )


def test_both_parts_are_declared_before_the_first_run_and_told(engine):
    record_others(engine)
    told = []
    engine.engine.canary("policy-b", "bridge-1", engine.folder, lambda *entry: told.append(entry), lambda: True)
    (folder, runs) = (engine.folder, engine.robot.runs)
    assert runs == 3
    assert all((folder / f"{part}.jsonl").read_text().count("commitment") == 1 for part in ("canary", "guard"))
    ((kind, said),) = told
    assert (kind, said["max_pairs"], "36 pairs of each of lift, put" in said["other_tasks"]) == ("declared", 20, True)


def test_a_task_that_appears_after_the_declaration_changes_nothing(engine):
    engine.robot.known = set()
    record_others(engine)  # it succeeds at nothing yet, so there is nothing to lose
    engine.engine.canary("policy-b", "bridge-1", engine.folder, lambda *_: None, lambda: True)
    engine.robot.known = {"lift"}
    engine.robot.run_episode(checkpoint="policy-a", instruction="lift")
    verdict, _ = canary(engine)
    assert verdict.keep
    assert "none is tried: this robot was not seen to succeed at any" in verdict.reason


def test_the_adaptation_can_name_the_other_tasks_but_none_that_cannot_be_lost(engine):
    record_others(engine)
    assert other_tasks(engine.engine.catalogue, "bridge-1", "push", ("put",)) == ("put",)
    request = SceneRequest("bridge-1", "push", other_tasks=("put", "fold"))
    with pytest.raises(ConfigError, match=r"not seen to succeed at \['fold'\], so nothing can be lost; it was at"):
        engine.engine.check(request)


def test_a_canary_stopped_among_the_other_tasks_goes_on_there(engine):
    record_others(engine)
    asked = []

    def after_the_win():
        asked.append(engine.robot.runs)
        return (engine.folder / "guard.jsonl").exists() and len(asked) % 9 == 0

    verdicts = []
    while not verdicts or not verdicts[-1].card:
        verdicts.append(engine.engine.canary("policy-b", "bridge-1", engine.folder, lambda *_: None, after_the_win))
    assert len(verdicts) > 5
    assert verdicts[-1].keep
    card = verdicts[-1].card
    assert engine.robot.runs == 3 + 2 * (card["n"] + card["guard"]["n"])


def test_a_task_named_in_short_is_found_under_what_it_was_recorded_as(engine):
    run = engine.robot.run_episode
    engine.robot.run_episode = lambda *, instruction, **asked: run(instruction=f"{instruction} it far away", **asked)
    engine.robot.misplaced = {4}
    verdict, _ = canary(engine)
    assert verdict.keep
    assert [row["reason"][:31] for row in verdict.card["set_aside"]] == ["the scene differs from its star"]


@pytest.mark.parametrize("why", ["closing", "cancelled"])
def test_a_trainer_that_is_stopped_leaves_its_training_job_to_whoever_resumes(engine, why):
    (engine.folder / "request.json").write_text(
        '{"robot": "bridge-1", "policy": "policy-a", "instruction": "push", "world_model": "w", "judge": "j"}'
    )
    with pytest.raises(ClosingError) if why == "closing" else nullcontext():
        practised = engine.engine.train("full", Budget(), engine.folder, lambda kind, data: None, lambda: why)
        assert practised.candidate is None
    (job,) = engine.engine.jobs.list(None)
    assert (job.state == "cancelled") == (why == "cancelled")


def test_a_trial_that_has_ended_never_looks_like_an_earlier_state_of_itself(tmp_path):
    """An open page is drawn anew when the version differs: a quick trial ended at the number it had after one pair."""
    trials = Trials(tmp_path, lambda tenant: None)
    trials._asked["trial-1"] = SimpleNamespace(tenant="lab")
    seen = {trials.version("lab")}
    for pairs in range(60):
        trials._running["trial-1"] = SimpleNamespace(counts=SimpleNamespace(n=pairs))
        seen.add(trials.version("lab"))
    trials._ends["trial-1"] = {}
    ending = trials.version("lab")
    trials._running.clear()
    assert not {ending, trials.version("lab")} & seen
