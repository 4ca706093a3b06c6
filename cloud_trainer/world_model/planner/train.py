"""Train the compact planner on recorded successes, and its inverse dynamics on whatever was recorded.

Flow matching with clean-frame prediction, as the compact world model. Half of the frame pairs that inverse dynamics
learns from are what the planner makes of the recorded ones after some noise: it will look at drawn frames.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cloud_trainer.progress import Cancelled, Progress, never, silent
from cloud_trainer.training import Descent, ModelTrainer
from cloud_trainer.world_model.compact.data import Clips, median_background
from cloud_trainer.world_model.compact.train import WorldModelTraining, follow, loss_weights
from cloud_trainer.world_model.planner.model import CompactPlanner
from cloud_trainer.world_model.planner.network import PlannerConfig
from gymnast_core.errors import ConfigError
from gymnast_core.policies.text import bag_of_words
from gymnast_core.records.manifest import Manifest
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.types import FloatArray, IntArray


@dataclass(frozen=True)
class PlannerTraining:
    """How to train.

    Attributes:
        iterations: optimiser steps of the planner; the learning rate falls as a cosine over them.
        inverse_iterations: of inverse dynamics, afterwards.
        batch_size: plans a step; of inverse dynamics half of it.
        learning_rate: peak.
        ema: decay of the averaged weights, which are what is kept.
        drawn_share: share of the pairs that the planner has drawn.
        seed: of initialisation, batches and noise.
    """

    iterations: int = 2000
    inverse_iterations: int = 800
    batch_size: int = 16
    learning_rate: float = 1e-3
    ema: float = 0.997
    drawn_share: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        if min(self.iterations, self.inverse_iterations) < 1 or self.batch_size < 2 or self.learning_rate <= 0:
            raise ConfigError(f"iterations >= 1, batch_size >= 2, learning_rate > 0; got {self}")


class PlanWindows:
    """Where plans begin in recorded episodes: at every chunk start; what comes after an end repeats it.

    Args:
        clips: recorded episodes.
        config: of the planner.
    """

    def __init__(self, clips: Clips, config: PlannerConfig) -> None:
        self._clips = clips
        self._offset_F = np.arange(config.chunks + 1) * config.chunk
        self._inside_K = np.arange(config.chunk * config.chunks)
        rows = [(n, s) for n in range(len(clips)) for s in range(0, int(clips.length_N[n]), config.chunk)]
        self._rows = np.array(rows, np.int64)
        self.bags = bag_of_words(clips.instructions, config.text_buckets)

    def draw(self, count: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Return (B,) episodes and (B, F) steps of the frames of random plans."""
        episode, start = self._rows[rng.integers(len(self._rows), size=count)].T
        return episode, np.minimum(start[:, None] + self._offset_F, self._clips.length_N[episode, None])

    def film(self, planner: CompactPlanner, episode_B: IntArray, step_BF: IntArray) -> Tensor:
        """Return their (B, F, 3, H, W) frames."""
        return planner.to_input(self._clips.frames_NTHWC[episode_B[:, None], step_BF])

    def actions(self, episode_B: IntArray, step_BF: IntArray) -> tuple[FloatArray, FloatArray]:
        """Return their (B, T, 7) actions and (B, T) 1 where one was recorded."""
        step = step_BF[:, :1] + self._inside_K
        there = step < self._clips.length_N[episode_B, None]
        index = np.minimum(step, self._clips.actions_NTA.shape[1] - 1)
        return self._clips.actions_NTA[episode_B[:, None], index], there.astype(np.float32)


class PlannerTrainer(ModelTrainer):
    """Teaches a planner to draw what successes look like."""

    stage, title = "planner", "planner"
    save_every, reported = 200, 20

    def __init__(self, planner: CompactPlanner, clips: Clips, config: PlannerTraining) -> None:
        self.planner, self.config, self._windows = planner, config, PlanWindows(clips, planner.config)
        self.ema = CompactPlanner.fresh(planner.config, planner.background, seed=config.seed, robot=planner.robot)
        self.ema.network.load_state_dict(planner.network.state_dict())
        self._rng, self._noise = np.random.default_rng(config.seed), torch.Generator().manual_seed(config.seed)
        self._weights = WorldModelTraining(iterations=config.iterations)
        descent = Descent(config.iterations, config.learning_rate, 1e-3, warmup=100, floor=0.03, betas=(0.9, 0.99))
        modules = {"planner": planner.network, "ema": self.ema.network}
        super().__init__(planner.network, descent, modules, {"windows": self._rng, "noise": self._noise})

    def loss(self) -> Tensor:
        """Loss of a fresh batch of plans, each at a noise level of its own."""
        episode, step = self._windows.draw(self.config.batch_size, self._rng)
        film = self._windows.film(self.planner, episode, step)
        now, later = film[:, 0], film[:, 1:]
        clean = later.flatten(1, 2)
        tau = torch.rand(len(clean), generator=self._noise) * 0.9
        tau = tau * (torch.rand(len(clean), generator=self._noise) > 0.3)
        noisy = noised(clean, tau, self._noise)
        predicted = self.planner.denoised(noisy, now, torch.from_numpy(self._windows.bags[episode]), tau)
        error = (predicted - clean).square().reshape(later.shape)
        weight = loss_weights(later.flatten(0, 1), now.repeat_interleave(later.shape[1], 0), self._weights)
        loss: Tensor = (error.flatten(0, 1) * weight).mean()
        return loss

    @torch.no_grad()
    def after_step(self) -> None:
        """Draw the averaged weights towards the new ones."""
        follow(self.ema.network, self.planner.network, self.config.ema, self.step)


class InverseTrainer(ModelTrainer):
    """Teaches inverse dynamics to read actions off frames, half of them drawn by the planner."""

    stage, title = "inverse_dynamics", "inverse dynamics"
    save_every, reported = 200, 20

    def __init__(self, planner: CompactPlanner, clips: Clips, config: PlannerTraining) -> None:
        self.planner, self.config, self._windows = planner, config, PlanWindows(clips, planner.config)
        self._rng, self._noise = np.random.default_rng(config.seed + 1), torch.Generator().manual_seed(config.seed + 1)
        descent = Descent(config.inverse_iterations, config.learning_rate, 1e-3, warmup=50)
        modules = {"inverse": planner.inverse}
        super().__init__(planner.inverse, descent, modules, {"windows": self._rng, "noise": self._noise})

    def loss(self) -> Tensor:
        """Loss of a fresh batch of frame pairs: scaled deltas, and whether the gripper opens."""
        config, inverse = self.planner.config, self.planner.inverse
        episode, step = self._windows.draw(self.config.batch_size // 2, self._rng)
        film = self._windows.film(self.planner, episode, step)
        if self._rng.random() < self.config.drawn_share:
            film = self._drawn(film, torch.from_numpy(self._windows.bags[episode]))
        actions, there = self._windows.actions(episode, step)
        shape = (-1, config.chunk, actions.shape[-1])
        told, known = torch.from_numpy(actions).reshape(shape), torch.from_numpy(there).reshape(shape[:2])
        said = inverse.train()(film[:, :-1].flatten(0, 1), film[:, 1:].flatten(0, 1))
        moved = F.smooth_l1_loss(said[..., :6], told[..., :6] / inverse.action_scale[:6], beta=0.1, reduction="none")
        grip = F.binary_cross_entropy_with_logits(said[..., 6], told[..., 6].clamp(0, 1), reduction="none")
        loss: Tensor = ((moved.sum(-1) + 0.3 * grip) * known).sum() / known.sum().clamp(min=1)
        return loss

    @torch.no_grad()
    def _drawn(self, film: Tensor, bags: Tensor) -> Tensor:
        """The recorded plan as the planner draws it from some noise on: its look, the recorded motion."""
        clean = film[:, 1:].flatten(1, 2)
        tau = 0.2 + 0.6 * torch.rand(len(film), generator=self._noise)
        drawn = self.planner.denoised(noised(clean, tau, self._noise), film[:, 0], bags, tau)
        return torch.cat([film[:, :1], drawn.reshape(film[:, 1:].shape)], dim=1)


def noised(clean: Tensor, tau_B: Tensor, generator: torch.Generator) -> Tensor:
    """Return (1 - tau) noise + tau clean."""
    part = tau_B[:, None, None, None]
    return (1 - part) * torch.randn(clean.shape, generator=generator) + part * clean


def train_planner(
    clips: Clips, config: PlannerTraining, out: Path, *, sizes: PlannerConfig | None = None,
    robot: RobotSpec = WIDOWX_250S, state: Path | None = None, progress: Progress = silent,
    cancelled: Cancelled = never,
) -> Manifest:  # fmt: skip
    """Train a planner and write its checkpoint.

    Args:
        clips: recorded episodes; the planner learns from the successes, inverse dynamics from all.
        config: how.
        out: checkpoint folder to create.
        sizes: of the planner; None is the usual.
        robot: the arm of the episodes.
        state: file name that both stages' states begin with; a run that was stopped goes on from them, one that ends
            takes them away.
        progress: called every 20 steps.
        cancelled: asked every step.

    Raises:
        ConfigError: no success among the episodes.
        CancelledError: cancelled; the states, if a file was named, have the last whole step.
    """
    won = np.flatnonzero(clips.success_N)
    if not len(won):
        raise ConfigError(f"none of {len(clips)} episodes is labelled a success; a planner learns from those alone")
    background = median_background(clips.frames_NTHWC, seed=config.seed)
    trainer = PlannerTrainer(
        CompactPlanner.fresh(sizes or PlannerConfig(), background, seed=config.seed, robot=robot),
        clips.take(won),
        config,
    )
    trainer.run(state=_beside(state, "planner"), progress=progress, cancelled=cancelled)
    inverse = InverseTrainer(trainer.ema, clips, config)
    inverse.run(state=_beside(state, "inverse"), progress=progress, cancelled=cancelled)
    lineage = {
        "stage": "planner", "training": asdict(config), "episodes": list(clips.episode_ids), "successes": len(won),
    }  # fmt: skip
    manifest = trainer.ema.save(out, lineage=lineage)
    for stage in ("planner", "inverse"):
        if (left := _beside(state, stage)) is not None:
            left.unlink(missing_ok=True)
    return manifest


def _beside(state: Path | None, stage: str) -> Path | None:
    return None if state is None else state.with_name(f"{state.name}.{stage}")
