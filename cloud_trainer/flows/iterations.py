"""A training job's iterations, as the adaptation that asked for it counts them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from cloud_trainer.flows.adaptation_engine import CLOSING, Budget, Emit, Ended
from gymnast_core.job import JobEvent


@dataclass
class Iterations:
    """Passes a training job's iterations on, and cancels it where its own budget does not end it.

    Attributes:
        emit: of the adaptation.
        rollouts_each: of an iteration.
        budget: of the job.
        asked: see Ended.
    """

    emit: Emit
    rollouts_each: int
    budget: Budget
    asked: Ended
    rollouts: int = 0
    began: float = field(default_factory=time.monotonic)

    def take(self, event: JobEvent) -> None:
        """Take in one event of the job."""
        reward = (event.data.get("metrics") or {}).get("imagined_reward")
        if event.kind == "progress" and event.data.get("stage") == "grpo" and reward is not None:
            line = {"iteration": event.data["step"], "imagined_reward": reward, "rollouts": self.rollouts_each}
            self.emit("iteration", line)
            self.rollouts += self.rollouts_each

    def ended(self) -> str:
        """See Ended."""
        why, spent = self.asked(), time.monotonic() - self.began
        within = spent < self.budget.seconds and self.rollouts < self.budget.rollouts
        return why if why == CLOSING or within else ""
