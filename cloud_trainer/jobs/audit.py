"""Is the dream to be believed? Recorded held-out episodes, imagined again and judged, against what really happened."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cloud_trainer.jobs.imagine import replay_clips
from cloud_trainer.progress import Cancelled, never
from cloud_trainer.world_model.audit_compact import AuditReport, audit_report
from cloud_trainer.world_model.compact_data import Clips
from cloud_trainer.world_model.compact_model import CompactWorldModel
from gymnast_core.errors import ConfigError
from gymnast_core.judge import Judge, Verdict
from gymnast_core.types import BoolArray, FloatArray, Outcome


def audit(
    model: CompactWorldModel,
    judge: Judge,
    held_out: Clips,
    *,
    seed: int = 0,
    step: int = 0,
    cancelled: Cancelled = never,
) -> AuditReport:
    """Compare imagined with recorded outcomes; check_audit(report, bounds) then refuses what is not good enough.

    Args:
        model: the world model.
        judge: scores the imagined end.
        held_out: labelled full-length episodes that neither model nor judge was trained on.
        seed: of the model's noise.
        step: where the dream takes over from the recording.
        cancelled: asked before every step.

    Raises:
        ConfigError: an episode has no label, or is shorter than the others.
    """
    if not held_out.labelled_N.all() or (held_out.length_N < held_out.actions_NTA.shape[1]).any():
        raise ConfigError("the audit needs labelled episodes of full length; leave the others out")
    rollouts = replay_clips(model, held_out, seed=seed, step=step, cancelled=cancelled)
    imagined, judged, score = outcomes_of(judge.judge(rollouts))
    return audit_report(imagined, judged, score, held_out.success_N, held_out.instructions)


def outcomes_of(verdicts: Sequence[Verdict]) -> tuple[BoolArray, BoolArray, FloatArray]:
    """Return (B,) success, (B,) decided, (B,) score of verdicts."""
    success = np.array([verdict.outcome is Outcome.SUCCESS for verdict in verdicts])
    decided = np.array([verdict.outcome in (Outcome.SUCCESS, Outcome.FAILURE) for verdict in verdicts])
    return success, decided, np.array([verdict.score for verdict in verdicts], np.float32)
