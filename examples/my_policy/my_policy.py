"""A policy of your own: it moves the gripper to a point, in chunks of four steps.

python my_policy.py FOLDER writes its checkpoint; `gymnast up --robot sim --policy FOLDER` runs it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy

from gymnast_core.errors import ContractError
from gymnast_core.records.manifest import Manifest, read_checkpoint, write_checkpoint
from gymnast_core.types import ActionChunk, FloatArray, Observation

ARCHITECTURE = "my_policy"
"""In the manifest of each checkpoint, and in the entry point: this is how a folder finds its class."""
CHUNK = 4
STEP_M = 0.02


class MyPolicy:
    """Keeps gymnast_core.policy.Policy.

    Args:
        goal_X: (3,) where the gripper should go [m], in the arm's base frame.
        version: id of the checkpoint.
    """

    chunk_length = CHUNK

    def __init__(self, goal_X: FloatArray, version: str) -> None:
        self._goal_X, self.version = goal_X, version

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Choose four steps towards the goal for every row; it knows one way, so rng changes nothing."""
        if len(instruction) != observation.batch_size:
            raise ContractError(f"{len(instruction)} instructions for {observation.batch_size} rows; pass one per row")
        actions_BKA = np.zeros((observation.batch_size, CHUNK, 7), np.float32)
        way_BX = (self._goal_X - observation.proprio_BP[:, :3]) / CHUNK
        actions_BKA[:, :, :3] = np.clip(way_BX, -STEP_M, STEP_M)[:, None]
        actions_BKA[:, :, 6] = 1.0  # the gripper stays open
        return ActionChunk(actions_BKA, self.version)

    @classmethod
    def load(cls, folder: Path) -> MyPolicy:
        """Read a checkpoint; Gymnast calls this."""
        manifest, weights = read_checkpoint(folder, kind="policy", architecture=ARCHITECTURE)
        return cls(safetensors.numpy.load(weights)["goal_X"], manifest.id)


def save(folder: Path, goal_X: Sequence[float]) -> Manifest:
    """Write a checkpoint: tensors, and a manifest that says what they are."""
    weights = safetensors.numpy.save({"goal_X": np.asarray(goal_X, np.float32)})
    return write_checkpoint(folder, weights, kind="policy", architecture=ARCHITECTURE, config={"chunk": CHUNK})


if __name__ == "__main__":
    print(save(Path(sys.argv[1]), (0.30, 0.0, 0.15)).id)
