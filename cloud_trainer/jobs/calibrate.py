"""Calibrate the gates to a world model that is known to be good: bounds from audits of it, untouched, as each asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from cloud_trainer.jobs.calibrated import GATES
from cloud_trainer.jobs.gates import NO_WORSE
from cloud_trainer.world_model.audit.audit import audit, calibrate_bounds
from cloud_trainer.world_model.audit.cases import AuditCase
from cloud_trainer.world_model.audit.metrics import GripperTracker
from cloud_trainer.world_model.audit.report import AuditReport
from gymnast_core.errors import ConfigError
from gymnast_core.jobs.audit import PARTS, SCENE_PARTS, AuditBounds, PracticeAudit
from gymnast_core.judge import Judge
from gymnast_core.types import Episode

PARTS_OF: Mapping[str, tuple[str, ...]] = {
    "improve": PracticeAudit().parts, "adapt": SCENE_PARTS, "promotion": NO_WORSE.parts,
}  # fmt: skip
"""What each gate measures."""
SIZES: Mapping[str, int] = {"improve": 40, "adapt": 20, "promotion": 20}
"""Episodes of one audit of each gate, about; fewer make its figures vary more."""
SIGMAS: Mapping[str, float] = {"improve": 4.0, "adapt": 4.0, "promotion": 4.0}
AUDITS = 32
KEPT = frozenset({"episodes", "pictures", "lag", "frame_lag", "trusted_steps", "coverage", "cell_correlation"})
"""Bounds that are no measurement of a model, or whole steps."""
KEPT_IN_SCENES = frozenset({"change_recall"})
"""Bounds that a measurement at home says too little of: how well coloured pixels are followed goes by a scene's colours
and light, see scene.CHANGE_RECALL."""


def require_enough(held_out: Sequence[Episode]) -> None:
    """Return if every gate can be calibrated on these episodes; to ask before they are dreamt, which takes minutes.

    Raises:
        ConfigError: there are too few.
    """
    for gate in GATES:
        _require_groups(gate, Counter(_group(gate, episode) for episode in held_out))


def calibrate_gate(
    gate: str, cases: Sequence[AuditCase], judge: Judge, tracker: GripperTracker | None, *, seed: int = 0
) -> dict[str, object]:
    """Return bounds by name for a gate, for bounds.json; see audit.calibrate_bounds().

    Args:
        gate: one of GATES.
        cases: held-out episodes and their dreams by the untouched model, at least half as many again as the gate
            looks at; for adapt of each task.
        judge: labels the last frames.
        tracker: reads the gripper off frames.
        seed: of the draws.

    Raises:
        ConfigError: too few cases.
    """
    if gate not in GATES:
        raise ConfigError(f"gate {gate!r} is not one of {', '.join(GATES)}")
    demanded = _everything().changed(coverage=False).only(PARTS_OF[gate])
    reports, shared = _audits(gate, _groups(gate, cases), judge, tracker, demanded, seed)
    found = calibrate_bounds(reports, demanded, sigmas=SIGMAS[gate], shared=shared)
    kept = KEPT | (KEPT_IN_SCENES if gate == "adapt" else frozenset())
    measured = [name for part in PARTS_OF[gate] for name in PARTS[part] if name not in kept]
    return {name: value for name in measured if (value := getattr(found, name)) is not None}


def _audits(
    gate: str, groups: Sequence[Sequence[AuditCase]], judge: Judge, tracker: GripperTracker | None,
    demanded: AuditBounds, seed: int,
) -> tuple[list[AuditReport], float]:  # fmt: skip
    """Audits of draws from each group in turn, and the share that two of the only group may have in common."""
    size, reports = SIZES[gate], []
    tracker = tracker if "motion" in PARTS_OF[gate] else None
    for number in range(AUDITS):
        group = groups[number % len(groups)]
        chosen = np.random.default_rng((seed, number)).permutation(len(group))[:size]
        cases = [group[row] for row in chosen]
        reports.append(audit(cases, judge=judge, tracker=tracker, bounds=demanded, seed=number))
    # what draws of one group have in common matters little where the groups themselves differ more
    return reports, 0.0 if len(groups) > 1 else size / len(groups[0])


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
    least = SIZES[gate] * 5 // 4
    if short := {task: count for task, count in (counts or {"all tasks": 0}).items() if count < least}:
        each = " of each task" if gate == "adapt" else ""
        raise ConfigError(f"calibrating {gate} needs {least} held-out episodes{each}, got {short}; collect more")


def _everything() -> AuditBounds:
    """Bounds of which none is left out, so that each is set."""
    return AuditBounds(episodes=None, pictures=None, trusted_steps=None)
