"""Calibrate the gates to world models that are known to be good: bounds from audits of them, as each gate asks.

Everything that differs from one asking to the next is drawn anew for each audit: the episodes, and the tracker that
reads the gripper. With one tracker for all, the bound of its error was so tight that good models broke it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from cloud_trainer.jobs.calibrated import GATES
from cloud_trainer.jobs.gates import NO_WORSE
from cloud_trainer.jobs.scene_amounts import TRACKER_EPISODES
from cloud_trainer.world_model.audit.audit import audit, calibrate_bounds, judged_cases
from cloud_trainer.world_model.audit.cases import AuditCase
from cloud_trainer.world_model.audit.metrics import GripperTracker
from cloud_trainer.world_model.audit.report import AuditReport
from gymnast_core.errors import ConfigError
from gymnast_core.jobs.audit import AT_LEAST, PARTS, SCENE_PARTS, AuditBounds, PracticeAudit
from gymnast_core.judge import Judge
from gymnast_core.types import Episode

PARTS_OF: Mapping[str, tuple[str, ...]] = {
    "improve": PracticeAudit().parts, "adapt": SCENE_PARTS, "promotion": NO_WORSE.parts,
}  # fmt: skip
"""What each gate measures."""
SIZES: Mapping[str, int] = {"improve": 40, "adapt": 20, "promotion": 20}
"""Episodes of one audit of each gate, about; fewer make its figures vary more."""
PICTURES: Mapping[str, int] = {"improve": PracticeAudit().pictures or 20}
"""Of them, those that are dreamt frame by frame, where not all are."""
SIGMAS: Mapping[str, float] = {"improve": 4.0, "adapt": 4.0, "promotion": 4.0}
AUDITS = 32
KEPT = frozenset({"episodes", "pictures", "lag", "frame_lag", "trusted_steps", "coverage", "cell_correlation"})
"""Bounds that are no measurement of a model, or whole steps."""
KEPT_IN_SCENES = frozenset({"change_recall", "jump"})
"""Bounds that a measurement at home says too little of: how well coloured pixels are followed goes by a scene's colours
and light, see scene.CHANGE_RECALL and scene.JUMP."""


def require_enough(held_out: Sequence[Episode], gates: Sequence[str] = GATES) -> None:
    """Return if the gates can be calibrated on these episodes; to ask before they are dreamt, which takes minutes.

    Raises:
        ConfigError: there are too few, or a gate is none.
    """
    for gate in gates:
        _require_known(gate)
        _require_groups(gate, Counter(_group(gate, episode) for episode in held_out))


def calibrate_gate(
    gate: str, cases: Sequence[AuditCase], judge: Judge, *, refined: Sequence[Sequence[AuditCase]] = (), seed: int = 0
) -> dict[str, object]:
    """Return bounds by name for a gate, for bounds.json; see audit.calibrate_bounds().

    Args:
        gate: one of GATES.
        cases: held-out episodes and their dreams by the untouched model, at least half as many again as the gate
            looks at, for adapt of each task; where it reads the gripper, as many more as a tracker learns from.
        judge: labels the last frames.
        refined: dreams of the same episodes by models refined from it that are known to be good as well. Of what they
            draw, a bound is the loosest that one of them needs; refinement moves some figures by more than they vary.
            Outcomes are left out: a judge is refined with its model.
        seed: of the draws.

    Raises:
        ConfigError: too few cases.
    """
    _require_known(gate)
    found = _bounds(gate, cases, judge, seed)
    for dreams in refined:
        for name, value in _bounds(gate, dreams, judge, seed).items():
            if name not in PARTS["outcomes"]:
                found[name] = (min if name in AT_LEAST else max)(found[name], value)
    return dict(found)


def _bounds(gate: str, cases: Sequence[AuditCase], judge: Judge, seed: int) -> dict[str, float]:
    """Bounds of one model."""
    demanded = _everything().changed(coverage=False).only(PARTS_OF[gate])
    reports, shared = _audits(gate, _groups(gate, cases), judge, demanded, seed)
    found = calibrate_bounds(reports, demanded, sigmas=SIGMAS[gate], shared=shared)
    kept = KEPT | (KEPT_IN_SCENES if gate == "adapt" else frozenset())
    measured = [name for part in PARTS_OF[gate] for name in PARTS[part] if name not in kept]
    return {name: value for name in measured if (value := getattr(found, name)) is not None}


def _audits(
    gate: str, groups: Sequence[Sequence[AuditCase]], judge: Judge, demanded: AuditBounds, seed: int
) -> tuple[list[AuditReport], float]:
    """Audits of draws from each group in turn, and the share that two of the only group may have in common."""
    size, reports = SIZES[gate], []
    for number in range(AUDITS):
        group = groups[number % len(groups)]
        drawn = [group[row] for row in np.random.default_rng((seed, number)).permutation(len(group))]
        others = [case.episode for case in drawn[size : size + TRACKER_EPISODES]]
        tracker = GripperTracker.fit(others, seed=number) if _reads_gripper(gate) else None
        outcomes = judged_cases(drawn[:size], judge, np.random.default_rng(number))
        looked_at = drawn[: PICTURES.get(gate, size)]
        reports.append(audit(looked_at, outcomes=outcomes, tracker=tracker, bounds=demanded, seed=number))
    # what draws of one group have in common matters little where the groups themselves differ more
    return reports, 0.0 if len(groups) > 1 else size / len(groups[0])


def _require_known(gate: str) -> None:
    if gate not in GATES:
        raise ConfigError(f"gate {gate!r} is not one of {', '.join(GATES)}")


def _reads_gripper(gate: str) -> bool:
    return bool({"motion", "gripper"} & set(PARTS_OF[gate]))


def _groups(gate: str, cases: Sequence[AuditCase]) -> list[list[AuditCase]]:
    """Where an audit of the gate draws from: all, or one task."""
    by_task: dict[str, list[AuditCase]] = {}
    for case in cases:
        by_task.setdefault(_group(gate, case.episode), []).append(case)
    _require_groups(gate, {task: len(group) for task, group in by_task.items()})
    return list(by_task.values())


def _group(gate: str, episode: Episode) -> str:
    return episode.instruction if gate == "adapt" else "all tasks"


def _require_groups(gate: str, counts: Mapping[str, int]) -> None:
    least = SIZES[gate] + (TRACKER_EPISODES if _reads_gripper(gate) else SIZES[gate] // 4)
    if short := {task: count for task, count in (counts or {"all tasks": 0}).items() if count < least}:
        each = " of each task" if gate == "adapt" else ""
        raise ConfigError(f"calibrating {gate} needs {least} held-out episodes{each}, got {short}; collect more")


def _everything() -> AuditBounds:
    """Bounds of which none is left out, so that each is set."""
    return AuditBounds(episodes=None, pictures=None, trusted_steps=None)
