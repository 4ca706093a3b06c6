"""The forgetting guard: imagined success on everything else, before and after an adaptation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cloud_trainer.jobs.audit import outcomes_of
from cloud_trainer.jobs.imagine import imagine
from cloud_trainer.world_model.compact_data import Clips, starts_of
from cloud_trainer.world_model.compact_env import CompactWorldModelEnv
from cloud_trainer.world_model.compact_model import CompactWorldModel
from gymnast_core.judge import Judge
from gymnast_core.policies.compact import CompactPolicy


@dataclass(frozen=True)
class Forgetting:
    """Imagined success rates on the same starts, greedy; abstentions are left out of both.

    Attributes:
        before: of the policy that was adapted.
        after: of the adapted one.
    """

    before: float
    after: float

    @property
    def loss(self) -> float:
        """What was lost, 0..1; negative is a gain."""
        return self.before - self.after


def check_forgetting(
    model: CompactWorldModel, judge: Judge, clips: Clips, before: Path, after: Path, *, seed: int, most: int = 96
) -> Forgetting:
    """Imagine both policies from up to `most` recorded starts, spread over the episodes, and judge the ends."""
    starts = starts_of(clips.take(np.unique(np.linspace(0, len(clips) - 1, min(most, len(clips))).astype(np.int64))))
    texts = [start.instruction for start in starts]
    rates = []
    for folder in (before, after):
        env = CompactWorldModelEnv(model, starts, in_order=True)
        policy = CompactPolicy.load(folder, row_by_row=False)
        success, decided, _ = outcomes_of(judge.judge(imagine(env, policy, texts, seed=seed)))
        rates.append(float(success[decided].mean()) if decided.any() else 0.0)
    return Forgetting(*rates)
