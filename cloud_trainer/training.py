"""One supervised training run: AdamW under a cosine, saved whole, cancelled between steps, resumed bit for bit."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from cloud_trainer.progress import Cancelled, CancelledError, Progress, ProgressEvent, never, silent
from cloud_trainer.training_state import Trained, load_state, save_state


@dataclass(frozen=True)
class Descent:
    """How the loss is descended.

    Attributes:
        iterations: optimiser steps; the learning rate falls as a cosine over them.
        learning_rate: peak, after `warmup` steps.
        weight_decay: of AdamW.
        warmup: steps of linear rise.
        floor: share of the peak at which the cosine ends; 1 is no cosine at all.
        betas: of AdamW.
        grad_clip: largest gradient norm.
        fused: AdamW in one kernel, which rounds otherwise than the one of many.
    """

    iterations: int
    learning_rate: float
    weight_decay: float
    warmup: int = 1
    floor: float = 0.02
    betas: tuple[float, float] = (0.9, 0.999)
    grad_clip: float = 1.0
    fused: bool = True

    def rate(self, step: int) -> float:
        """Learning rate of the step that follows `step` others."""
        cosine = self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * (step / self.iterations)))
        return self.learning_rate * min(1.0, (step + 1) / self.warmup) * cosine


class ModelTrainer(ABC):
    """One run over fixed data; whoever derives from it says what a step's loss is.

    Attributes:
        stage: name of the progress events.
        title: how a cancelled run is called.
        save_every: steps between writes of the state file.
        reported: a progress event shows the mean of this many last losses.
        step: optimiser steps done.
        losses: one per step.
        grad_norm: of the last step's gradients before clipping; sharded where they are.

    Args:
        network: what is trained; in eval mode between steps.
        descent: how.
        modules: name -> module that a state file holds, the network among them.
        generators: name -> generator that a state file holds.
        averages: name -> tensors that a state file holds.
    """

    stage: ClassVar[str]
    title: ClassVar[str]
    save_every: ClassVar[int] = 100
    reported: ClassVar[int] = 1

    def __init__(
        self,
        network: nn.Module,
        descent: Descent,
        modules: Mapping[str, nn.Module],
        generators: Mapping[str, np.random.Generator | torch.Generator],
        averages: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.step = 0
        self.losses: list[float] = []
        self.grad_norm = torch.zeros(())
        self._network, self._descent = network, descent
        self._optimiser = torch.optim.AdamW(
            network.parameters(),
            lr=descent.learning_rate,
            betas=descent.betas,
            weight_decay=descent.weight_decay,
            fused=descent.fused,
        )
        self._trained = Trained(modules, {"adamw": self._optimiser}, generators, averages or {})

    @abstractmethod
    def loss(self) -> Tensor:
        """Draw a batch and return its loss, a scalar with its graph."""

    def after_step(self) -> None:
        """Follow an optimiser step that `step` does not count yet: here, back to eval mode."""
        self._network.eval()

    def save(self, path: Path) -> None:
        """Write the state file."""
        save_state(path, self._trained, {"step": self.step, "losses": self.losses})

    def load(self, path: Path) -> None:
        """Continue from a state file.

        Raises:
            CorruptError: not such a file, or made by a run of another shape.
        """
        values, _ = load_state(path, self._trained)
        self.step, self.losses = int(values["step"]), list(values["losses"])

    def run_step(self) -> float:
        """One optimiser step; returns the loss."""
        for group in self._optimiser.param_groups:
            group["lr"] = self._descent.rate(self.step)
        loss = self.loss()
        loss.backward()  # type: ignore[no-untyped-call]
        self.grad_norm = torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._descent.grad_clip)
        self._optimiser.step()
        self._optimiser.zero_grad()  # now: the next batch finds their memory free
        self.after_step()
        self.step += 1
        self.losses.append(float(loss.detach()))
        return self.losses[-1]

    def run(self, *, state: Path | None = None, progress: Progress = silent, cancelled: Cancelled = never) -> None:
        """Do the steps that are left.

        Args:
            state: state file; when it exists the run continues from it, and it is written every `save_every` steps.
            progress: called every 20 steps and after the last.
            cancelled: asked every step.

        Raises:
            CancelledError: cancelled; the state file, if one was named, has the last whole step.
            CorruptError: the state file is of another run.
        """
        total = self._descent.iterations
        if state is not None and state.exists():
            self.load(state)
        while self.step < total:
            if cancelled():
                if state is not None:
                    self.save(state)
                raise CancelledError(f"{self.title} cancelled at step {self.step} of {total}")
            self.run_step()
            if state is not None and self.step % self.save_every == 0:
                self.save(state)
            if self.step % 20 == 0 or self.step == total:
                loss = float(np.mean(self.losses[-self.reported :]))
                progress(ProgressEvent(self.stage, self.step, total, {"loss": loss}))
