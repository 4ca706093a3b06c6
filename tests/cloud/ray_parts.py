"""Parts of the Ray tests that actors in other processes import by name."""

import os
import time

import numpy as np
import torch

from cloud_trainer.world_model.worlds import CompactWorld
from gymnast_core.judge import Verdict
from gymnast_core.types import Outcome
from tests.cloud.learning_fakes import tiny_world_model


class ParityJudge:
    """Pays for the parity of the last frame's sum: arbitrary, exact, and different within a group."""

    version = "judge-parity"

    def judge(self, rollouts):
        sums = rollouts.frames_BFHWC[:, -1].astype(np.int64).sum((1, 2, 3))
        return [Verdict(Outcome.SUCCESS if odd else Outcome.FAILURE, float(odd)) for odd in sums % 2]


class PausingWorld(CompactWorld):
    """The first actor that finds folder/pause claims it, says who it is, and stands still until it is killed."""

    def __init__(self, folder):
        super().__init__(tiny_world_model())
        self.folder = folder

    def env(self, starts):
        try:
            (self.folder / "pause").rename(self.folder / "claimed")
        except FileNotFoundError:
            return super().env(starts)
        (self.folder / "pid.partial").write_text(str(os.getpid()))
        (self.folder / "pid.partial").rename(self.folder / "pid")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            time.sleep(0.05)
        raise TimeoutError("nobody killed this actor")


def told_pid(folder):
    """An anchor that holds nothing and tells which process learns."""
    (folder / f"rank-{os.getpid()}").write_text(str(os.getpid()))
    return lambda policy, rng: torch.zeros(())


class BrokenWorld(CompactWorld):
    def __init__(self):
        super().__init__(tiny_world_model())

    def env(self, starts):
        raise ValueError("this world has no floor")
