"""What stands before practice: promotion over the parent, the horizon's cap, the judge's drift."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cloud_trainer.jobs import calibrate
from cloud_trainer.jobs import gates as gate
from cloud_trainer.jobs.calibrate import calibrate_gate
from cloud_trainer.jobs.calibrated import calibrated_bounds, inherit, write_bounds
from cloud_trainer.jobs.gates import (
    Gates,
    no_worse_than_parent,
    pass_gates,
    practice_bounds,
    starts_within,
)
from cloud_trainer.judge.drift import drift_of, kept_reference
from cloud_trainer.progress import silent
from cloud_trainer.world_model.audit.cases import AuditCase, imagine_cases
from cloud_trainer.world_model.audit.run import run_audit
from cloud_trainer.world_model.audit.statistics import obedience
from cloud_trainer.world_model.compact.data import clips_of
from cloud_trainer.world_model.compact.model import CompactWorldModel
from cloud_trainer.world_model.worlds import CompactWorld
from gymnast_core.errors import ConfigError, NotTrustedError
from gymnast_core.jobs.audit import AuditBounds, AuditConfig, PracticeAudit, SceneBounds
from gymnast_core.judge import Verdict
from gymnast_core.policies.processor import use_threads
from gymnast_core.records.manifest import Manifest
from gymnast_core.types import Outcome
from tests.cloud.learning_fakes import episode, tiny_world, tiny_world_model

EPISODES = [episode(seed) for seed in range(10)]


class Always:
    """Says success, more or less surely."""

    version = "always"

    def judge(self, rollouts):
        return [Verdict(Outcome.SUCCESS, 0.5 + 0.01 * row) for row in range(len(rollouts.instructions))]


class Oracle:
    """Says what really happened, whatever it sees; `wrong` of every ten are said to be the opposite."""

    version = "oracle"

    def __init__(self, wrong: int = 0) -> None:
        self.wrong = wrong

    def judge(self, rollouts):
        real = [seed % 2 == 1 for seed in range(len(rollouts.instructions))]
        said = [won != (row % 10 < self.wrong) for row, won in enumerate(real)]
        return [Verdict(Outcome.SUCCESS if won else Outcome.FAILURE, float(won)) for won in said]


def gates(**options) -> Gates:
    bounds = AuditBounds(episodes=8).only(["outcomes"])
    return Gates(**{"audit": AuditConfig(parts=("outcomes",)), "bounds": bounds, "judge_floor": None, **options})


def passed(tmp_path, judge, demanded):
    return pass_gates(tiny_world(), judge, EPISODES, demanded, tmp_path, progress=silent, seed=0)


def test_a_refined_model_that_dreams_worse_than_its_parent_is_named_with_the_loss():
    parent = tiny_world()
    spoilt = CompactWorld(CompactWorldModel(tiny_world_model(1).network, np.full((64, 64, 3), 20, np.uint8)))
    demanded = gates(audit=AuditConfig(pictures=8), bounds=AuditBounds())
    assert no_worse_than_parent(parent, parent, EPISODES, demanded, seed=0) == ""
    assert "not promoted" in no_worse_than_parent(spoilt, parent, EPISODES, demanded, seed=0)
    why = dict.fromkeys(("psnr_db", "jump", "change_recall", "gripper_change"), "a new camera, on purpose")
    assert no_worse_than_parent(spoilt, parent, EPISODES, replace(demanded, overrides=why), seed=0) == ""


def test_a_judge_passes_only_with_proven_precision(tmp_path):
    found = passed(tmp_path, Oracle(), gates(judge_floor=0.5))
    assert found.judge.tasks[0].precision.mean == 1.0
    assert found.judge.tasks[0].precision.low == pytest.approx(0.5655, abs=1e-3)  # Wilson, 5 of 5
    with pytest.raises(NotTrustedError, match=r"lower bound 0\.57 of 10 labels is under the floor 0\.6"):
        passed(tmp_path, Oracle(), gates(judge_floor=0.6))
    with pytest.raises(NotTrustedError, match="lower bound"):
        passed(tmp_path, Oracle(), gates(judge_task_floor=0.5))
    assert passed(tmp_path, Oracle(), gates(judge_floor=0.99, check=False)).report.outcomes.agreement == 1.0


def test_bounds_are_overridden_by_name_alone(tmp_path):
    with pytest.raises(NotTrustedError, match=r"agreement 0\.6 < 0\.7"):
        passed(tmp_path, Oracle(wrong=4), gates())
    named = dict.fromkeys(("agreement", "correlation", "false_success", "jump"), "the cup hides the cube")
    found = passed(tmp_path, Oracle(wrong=4), gates(overrides=named))
    assert found.report.broken
    assert found.figures()["overridden"] == {name: named[name] for name in found.report.broken}, "those that acted"
    found = passed(tmp_path, Oracle(), gates(judge_floor=0.6, overrides={"judge_floor": "few labels yet"}))
    assert found.overridden == {"judge_floor": "few labels yet"}
    with pytest.raises(ConfigError, match=r"overrides \['luck'\] are no bounds; there are \['agreement', "):
        gates(overrides={"luck": "x"})
    with pytest.raises(ConfigError, match=r"say why \['jump'\] may be ignored"):
        gates(overrides={"jump": " "})


def test_where_trust_ends_dreams_begin_late_enough_to_end_inside_it():
    clips = clips_of(EPISODES[:2], 64)
    begin, later = starts_within(clips, 15, None)
    assert [s.step for s in begin] == [0, 0]
    assert [s.step for s in later] == [5, 10, 5, 10]
    begin, later = starts_within(clips, 15, 5)
    assert [s.step for s in begin] == [10, 10]
    assert later == []


def test_no_trust_for_one_chunk_refuses_practice_unless_overridden(tmp_path):
    use_threads()
    audit = AuditConfig(parts=("outcomes", "trust"))
    bounds = AuditBounds(episodes=8, trusted_error=1e-6, trusted_steps=None, coverage=False)
    demanded = gates(audit=audit, bounds=bounds)
    with pytest.raises(NotTrustedError, match="ends after 0 steps, less than one chunk of 5"):
        passed(tmp_path, Oracle(), demanded)
    free = gates(audit=audit, bounds=bounds, overrides={"trusted_steps": "one chunk is enough"})
    assert passed(tmp_path, Oracle(), free).horizon is None


def test_a_drifted_judge_is_noticed_by_fresh_labels():
    rng = np.random.default_rng(0)
    reference = kept_reference(rng.uniform(0, 1, 50), {"abstained": 0.0, "precision": (0.95, 0.9, 0.99)})
    manifest = Manifest("judge", "a", {}, "0", 0, lineage={"reference": reference})
    many = [episode(seed) for seed in range(60)]

    def verdicts(right: bool):
        outcome = [won if right else Outcome.SUCCESS for won in (e.outcome for e in many)]
        return [Verdict(o, float(s)) for o, s in zip(outcome, rng.uniform(0, 1, 60), strict=True)]

    assert not drift_of(manifest, verdicts(right=True), many).alarm
    assert "precision" in drift_of(manifest, verdicts(right=False), many).signs
    assert drift_of(Manifest("judge", "a", {}, "0", 0), verdicts(right=True), many) is None


def test_practice_measures_all_but_the_gripper_and_demands_no_calibration_of_twenty_episodes():
    demanded = practice_bounds({}).only(PracticeAudit().parts)
    assert (demanded.gripper_response, demanded.coverage) == (None, False)
    assert (demanded.psnr_db, demanded.trusted_steps, demanded.agreement) == (18.0, 1, 0.7)


def test_obedience_is_read_off_frames_alone():
    real = [next(iter(e.images.values())) for e in EPISODES[:4]]
    late = [np.concatenate((frames[:1], frames[:-1])) for frames in real]

    def told(dreams, flipped):
        rows = zip(EPISODES, real, dreams, flipped, strict=False)
        return obedience([AuditCase(e, frames, dream[None], 0, other) for e, frames, dream, other in rows])

    good, deaf = told(real, late), told(late, late)
    assert (good["frame_lag"], deaf["frame_lag"]) == (0, -1), "-1: the dream is one step late"
    assert good["gripper_change"] > deaf["gripper_change"] == 0.0


def test_bounds_are_calibrated_for_each_gate_and_inherited_by_what_is_refined(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "AUDITS", 5)
    monkeypatch.setattr(calibrate, "SIZES", {"adapt": 4})
    dreams = tiny_world().dreamer()
    held = [replace(episode(seed), instruction="lift") for seed in range(6)]
    cases = imagine_cases(dreams, held, draws=1, seed=0)
    found = calibrate_gate("adapt", cases, Always())
    assert {"agreement", "false_success", "gripper_change"} <= set(found)
    assert not {"jump", "change_recall"} & set(found), "a scene is held to bounds that were measured in scenes"
    with pytest.raises(ConfigError, match=r"needs 5 held-out episodes of each task, got \{'lift': 3\}"):
        calibrate_gate("adapt", cases[:3], Always())
    leaping = [replace(case, imagined_KFHWC=case.imagined_KFHWC[:, ::-1].copy()) for case in cases]
    both = calibrate_gate("adapt", cases, Always(), refined=[leaping])
    alone = calibrate_gate("adapt", leaping, Always())
    assert both["gripper_change"] == min(found["gripper_change"], alone["gripper_change"]), "the looser"
    assert both["agreement"] == found["agreement"]
    parent, child = tmp_path / "parent", tmp_path / "child"
    for folder in (parent, child):
        folder.mkdir()
    write_bounds(parent, {"gates": {"adapt": found}})
    inherit(parent, child)
    demanded = practice_bounds(calibrated_bounds(child, "adapt"), SceneBounds(jump=0.5))
    assert (demanded.jump, demanded.gripper_change) == (0.5, found["gripper_change"])


def test_the_gripper_is_learned_from_every_task_however_ids_sort(tmp_path, monkeypatch):
    others = [
        replace(episode(seed), episode_id=f"{task}-{seed}", instruction=task) for task in "ab" for seed in range(70)
    ]
    seen = []

    def audited(*arguments, tracker_episodes, **options):
        seen.extend(other.instruction for other in tracker_episodes)
        return run_audit(*arguments, tracker_episodes=tracker_episodes, **options)

    monkeypatch.setattr(gate, "run_audit", audited)
    pass_gates(tiny_world(), Oracle(), EPISODES, gates(), tmp_path, tracker_episodes=others, progress=silent, seed=0)
    assert sorted(seen) == ["a"] * 30 + ["b"] * 30
