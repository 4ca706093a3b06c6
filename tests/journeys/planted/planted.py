"""A policy that does what its checkpoint says: behaves, returns NaN, is ten times too fast, hangs, or needs 3 s."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from gymnast_core.records.manifest import read_manifest
from gymnast_core.types import ActionChunk

LOG = "PLANTED_LOG"
"""Variable: a file that gets the version and the process of every question."""
STEP_M = 0.02
NEVER_S = 10_000.0
DOES = ("good", "nan", "fast", "hang", "slow", "crash")


class Planted:
    """See the module."""

    chunk_length = 5

    def __init__(self, version: str, does: str):
        self.version, self._does = version, does

    @classmethod
    def load(cls, folder: Path) -> "Planted":
        manifest = read_manifest(folder)
        if manifest.config["does"] not in DOES:
            raise KeyError(manifest.config["does"])
        return cls(manifest.id, str(manifest.config["does"]))

    def act(self, observation, instruction, *, rng=None) -> ActionChunk:
        with Path(os.environ[LOG]).open("a") as log:
            log.write(f"{self.version} {sys.argv[0]}\n")
        if self._does == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep({"hang": NEVER_S, "slow": 3.0}.get(self._does, 0.0))
        step_m = {"nan": np.nan, "fast": 10 * STEP_M}.get(self._does, STEP_M / 10)
        actions = np.full((observation.batch_size, self.chunk_length, 7), 0.0, np.float32)
        actions[..., 2] = step_m
        return ActionChunk(actions, self.version)
