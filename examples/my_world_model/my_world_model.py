"""A world model of your own: nothing changes but the arm's pose. It is what every other one has to beat in the audit.

python my_world_model.py FOLDER [SIZE] writes its checkpoint; `gymnast wm audit --world-model FOLDER EPISODES` says how
far to trust it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from cloud_trainer.world_model.audit.cases import EnvDreamer
from cloud_trainer.world_model.starts import StartState, start_from_episode
from gymnast_core.arm.targets import commanded_proprioception
from gymnast_core.env import checked_action, instructions_for
from gymnast_core.errors import EpisodeOverError
from gymnast_core.records.manifest import Manifest, read_checkpoint, write_checkpoint
from gymnast_core.spec import EnvSpec
from gymnast_core.types import Episode, FloatArray, Observation, StepResult

ARCHITECTURE = "still_world"


class StillEnv:
    """Keeps gymnast_core.env.Env: row b begins at starts[b] and ends at that start's step.

    Args:
        starts: one a row.
        size: pixels a side.
    """

    def __init__(self, starts: Sequence[StartState], size: int) -> None:
        self._starts = list(starts)
        self.spec = EnvSpec(len(starts), ("camera",), size, size, max(start.episode_steps for start in starts))
        self._left_B = np.zeros(len(starts), np.int64)

    def reset(self, instruction: str | Sequence[str], *, seed: int) -> Observation:
        """Begin again; a dream without noise has no use for the seed."""
        instructions_for(instruction, self.spec.batch_size)
        self._steps_B = np.array([start.step for start in self._starts])
        self._left_B = np.array([start.episode_steps - start.step for start in self._starts])
        self._pose_BP = np.stack([start.pose_P for start in self._starts])
        return self._observation()

    def step(self, action_BA: FloatArray) -> StepResult:
        """Move the pose as the arm's targets move; a row that is over stays as it is."""
        checked_action(action_BA, self.spec.batch_size)
        live_B = self._left_B > 0
        if not live_B.any():
            raise EpisodeOverError("every dream is over or none was begun; call reset() first")
        robot = self.spec.robot
        commanded_BA = np.clip(action_BA, robot.action_low_A, robot.action_high_A)
        commanded_BA = np.where(live_B[:, None], commanded_BA, np.float32(0))
        moved_BP = commanded_proprioception(self._pose_BP, commanded_BA[:, None])[:, 1]
        self._pose_BP = np.where(live_B[:, None], moved_BP, self._pose_BP)
        self._steps_B, self._left_B = self._steps_B + live_B, self._left_B - live_B
        return StepResult(self._observation(), np.zeros_like(live_B), self._left_B <= 0, commanded_BA)

    def close(self) -> None:
        """Nothing is held."""

    def _observation(self) -> Observation:
        frames_BHWC = np.stack([start.frame_HWC for start in self._starts])
        time_ns_B = (self._steps_B * self.spec.robot.step_ns).astype(np.int64)
        return Observation({"camera": frames_BHWC}, self._pose_BP.copy(), time_ns_B)


class StillWorld:
    """Keeps cloud_trainer.world_model.worlds.World."""

    batch_size = None

    def __init__(self, version: str, image_size: int) -> None:
        self.version, self.image_size = version, image_size

    @classmethod
    def load(cls, folder: Path, config: Any = None) -> StillWorld:
        """Read a checkpoint; Gymnast calls this."""
        manifest, _ = read_checkpoint(folder, kind="world_model", architecture=ARCHITECTURE)
        return cls(manifest.id, int(manifest.config["image_size"]))

    def env(self, starts: Sequence[StartState]) -> StillEnv:
        """Where policies practise."""
        return StillEnv(starts, self.image_size)

    def dreamer(self) -> EnvDreamer:
        """What the audit dreams held-out episodes with."""

        def make_env(episodes: Sequence[Episode], start: int) -> StillEnv:
            return self.env([start_from_episode(episode, start) for episode in episodes])

        return EnvDreamer(make_env)

    def in_scene(self, clips: object, *, seed: int) -> StillWorld:
        """The same everywhere: the first picture shows the scene."""
        return self


def save(folder: Path, image_size: int = 64) -> Manifest:
    """Write a checkpoint; there is nothing to learn, and a checkpoint has tensors."""
    weights = safetensors.numpy.save({"nothing": np.zeros(1, np.float32)})
    config = {"image_size": image_size}
    return write_checkpoint(folder, weights, kind="world_model", architecture=ARCHITECTURE, config=config)


if __name__ == "__main__":
    print(save(Path(sys.argv[1]), *map(int, sys.argv[2:3])).id)
