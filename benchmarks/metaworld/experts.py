"""Meta-World's scripted experts, and how they are made worse: a base policy has to leave something to learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from metaworld.policies import ENV_POLICY_MAP

from benchmarks.metaworld.env import MetaWorld
from benchmarks.metaworld.tasks import REPEAT
from gymnast_core.types import ActionChunk, FloatArray, Observation

UNIT_M = 0.01 * REPEAT
"""Metres in one of our steps at the expert's full speed."""


class Expert:
    """Keeps gymnast_core.policy.Policy for one row; it looks at the state, not at the picture.

    Degraded, it slips: with chance `slip` a run of five steps begins in which its hand drifts one way. Base policies do
    that, miss and go on; noise that averages out would leave their demonstrations as good as new.

    Args:
        task: whose expert.
        env: whose state it sees.
        slip: chance at each step; 0 is the expert itself at our rate.
    """

    chunk_length = 1

    def __init__(self, task: str, env: MetaWorld, slip: float) -> None:
        self._policy, self._env, self._slip = ENV_POLICY_MAP[task](), env, slip
        self._left, self._drift = 0, np.zeros(3)
        self.version = f"metaworld-expert-slip-{slip:g}"

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Choose the next step; see Policy."""
        rng = rng or np.random.default_rng(0)
        theirs = np.clip(self._policy.get_action(self._env.latest), -1.0, 1.0)
        if self._left == 0 and rng.random() < self._slip:
            self._left, self._drift = 5, rng.uniform(-1.0, 1.0, 3)
        if self._left:
            self._left -= 1
            theirs[:3] = self._drift
        ours: FloatArray = np.zeros((1, 1, 7), np.float32)
        ours[0, 0, :3] = np.array([theirs[1], -theirs[0], theirs[2]]) * UNIT_M  # see env.BASE_M
        ours[0, 0, 6] = (1.0 - theirs[3]) / 2.0
        return ActionChunk(ours, self.version)
