"""Distil the compact world model into one that takes fewer sampling steps, and may be narrower.

Every context after the first is the student's own prediction, as it will be in a dream. Of recorded frames only an
episode's first is looked at: its actions may be changed freely, and are, so that the student obeys those, too, that
nobody recorded.

Source:
    Huang et al., "Self Forcing", 2025: training on the student's own rollouts; the loss is own_path.own_path_loss().
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cloud_trainer.training import Descent, ModelTrainer
from cloud_trainer.world_model.compact.data import Clips
from cloud_trainer.world_model.compact.model import CompactWorldModel
from cloud_trainer.world_model.compact.narrow import narrowed
from cloud_trainer.world_model.compact.network import CompactWorldNetwork
from cloud_trainer.world_model.compact.train import WorldModelTraining, follow, loss_weights
from cloud_trainer.world_model.own_path import check_steps, own_path_loss
from gymnast_core.arm.targets import commanded_proprioception
from gymnast_core.errors import ConfigError
from gymnast_core.policies.processor import mixed_precision
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.types import FloatArray

EMA = 0.998
WEIGHTS = WorldModelTraining()
"""How errors are weighted: as in training."""


@dataclass(frozen=True)
class CompactDistillation:
    """How to distil.

    Attributes:
        iterations: optimiser steps; the learning rate falls as a cosine over them.
        batch_size: rollouts a step, each of as many chunks as an episode has.
        learning_rate: peak, after `warmup` steps.
        warmup: steps of linear rise.
        sampling_steps: of the student; a divisor of the teacher's.
        widths: of the student; None keeps the teacher's.
        swapped: share of rollouts that play another episode's actions.
        jitter: standard deviation of noise on the others' actions, as a share of the arm's limits.
        between: share of rollouts whose frame within each chunk is learned, too.
        seed: of batches and noise.
    """

    iterations: int = 1500
    batch_size: int = 12
    learning_rate: float = 5e-4
    warmup: int = 30
    sampling_steps: int = 1
    widths: tuple[int, int, int] | None = None
    swapped: float = 0.25
    jitter: float = 0.1
    between: float = 0.35
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        if min(self.iterations, self.batch_size, self.sampling_steps) < 1 or self.learning_rate <= 0:
            raise ConfigError(f"iterations, batch_size, sampling_steps >= 1 and learning_rate > 0; got {self}")


class _Asked(NamedTuple):
    """What a frame is predicted from, row by row; see CompactWorldNetwork.forward()."""

    context: Tensor
    first: Tensor
    poses: Tensor
    actions: Tensor
    ahead: Tensor


class CompactDistiller(ModelTrainer):
    """One distillation run over the start frames and actions of recorded episodes.

    Attributes:
        teacher: imitated, never changed.
        robot: the arm of the clips.
        student: what is trained (the raw weights).
        ema: the averaged weights, what a checkpoint holds.

    Raises:
        ConfigError: the student's steps do not divide the teacher's, it would be wider, or every episode is too short.
    """

    stage, title = "distil", "distillation"
    save_every, reported = 100, 20

    def __init__(
        self, teacher: CompactWorldModel, clips: Clips, config: CompactDistillation, robot: RobotSpec = WIDOWX_250S
    ) -> None:
        check_steps(config.sampling_steps, teacher.config.sampling_steps)
        if (longest := clips.actions_NTA.shape[1]) < (drawn := teacher.config.horizon):
            raise ConfigError(f"no episode has the {drawn} steps drawn at once, but at most {longest}; name longer")
        self.teacher, self.clips, self.config, self.robot = teacher, clips, config, robot
        self.student, self.ema = (_student(teacher, config) for _ in range(2))
        self._rng = np.random.default_rng(config.seed)
        self._noise = torch.Generator().manual_seed(config.seed)
        descent = Descent(
            config.iterations, config.learning_rate, 1e-3, warmup=config.warmup, floor=0.03, betas=(0.9, 0.99)
        )
        modules = {"student": self.student.network, "ema": self.ema.network}
        super().__init__(self.student.network, descent, modules, {"batches": self._rng, "noise": self._noise})

    def loss(self) -> Tensor:
        """Mean loss over the chunks of fresh rollouts, each from where the last one came out."""
        episode_B = self._rng.integers(0, len(self.clips), self.config.batch_size)
        actions_BTA = self._actions(episode_B)
        poses_BTP = commanded_proprioception(self.clips.poses_NTP[episode_B, 0], actions_BTA, self.robot)
        first = self.teacher.to_input(self.clips.frames_NTHWC[episode_B, 0])
        horizon, losses, context = self.teacher.config.horizon, [], first
        for begin in range(0, actions_BTA.shape[1] - horizon + 1, horizon):
            chunk = slice(begin, begin + horizon)
            asked = self._asked(context, first, poses_BTP[:, begin : begin + horizon + 1], actions_BTA[:, chunk])
            loss, drawn = self._distilled(asked)
            losses.append(loss)
            context = self.student.to_input(self.student.to_frames(drawn[: len(first)]))  # rounded, as in a dream
        return torch.stack(losses).mean()

    @torch.no_grad()
    def after_step(self) -> None:
        """Draw the averaged weights towards the new ones."""
        follow(self.ema.network, self.student.network, EMA, self.step)

    def _actions(self, episode_B: np.ndarray) -> FloatArray:
        """(B, T, 7): recorded, another episode's, or recorded with noise; within the arm's limits."""
        config, rng, robot = self.config, self._rng, self.robot
        own = rng.random(len(episode_B)) >= config.swapped
        others = rng.integers(0, len(self.clips), len(episode_B))
        actions = self.clips.actions_NTA[np.where(own, episode_B, others)].copy()
        spread = config.jitter * np.array([*robot.action_high_A[:6], 0.0], np.float32)
        noisy = actions + spread * rng.standard_normal(actions.shape, dtype=np.float32) * own[:, None, None]
        clipped: FloatArray = np.clip(noisy, robot.action_low_A, robot.action_high_A)
        return clipped

    def _asked(self, context: Tensor, first: Tensor, poses: FloatArray, actions: FloatArray) -> _Asked:
        """Every rollout's chunk end, then some rollouts' frames within the chunk."""
        horizon, rows = actions.shape[1], np.arange(len(actions))
        some = np.flatnonzero(self._rng.random(len(rows)) < self.config.between) if horizon > 1 else rows[:0]
        index = np.concatenate((rows, some))
        ahead = np.concatenate((np.full(len(rows), horizon), self._rng.integers(1, max(2, horizon), len(some))))
        offset = np.arange(horizon + 1)
        reached = np.minimum(offset, ahead[:, None])
        inside = (offset[:-1] < ahead[:, None])[..., None]
        return _Asked(
            context[index], first[index], torch.from_numpy(poses[index[:, None], reached]),
            torch.from_numpy(np.where(inside, actions[index], np.float32(0))), torch.from_numpy(ahead.astype(np.int64)),
        )  # fmt: skip

    def _distilled(self, asked: _Asked) -> tuple[Tensor, Tensor]:
        """Loss of the student's steps from noise to frame, and where they come out."""
        steps, noise = self.config.sampling_steps, torch.randn(asked.context.shape, generator=self._noise)

        def teacher(x: Tensor, step: int) -> Tensor:
            return self.teacher.walk(x, *asked, begin=step / steps, end=(step + 1) / steps)

        def student(x: Tensor, step: int) -> Tensor:
            with mixed_precision():
                clean: Tensor = self.student.network(x, *asked, torch.full((len(x),), step / steps))
            return x + (clean - x) / (steps - step)

        def error(came: Tensor, wanted: Tensor) -> Tensor:
            return ((came - wanted).square() * loss_weights(wanted, asked.context, WEIGHTS)).mean()

        return own_path_loss(noise, steps, teacher, student, error)


def _student(teacher: CompactWorldModel, config: CompactDistillation) -> CompactWorldModel:
    network = narrowed(teacher.network, config.widths or teacher.config.widths)
    sizes = replace(network.config, sampling_steps=config.sampling_steps)
    student = CompactWorldNetwork(sizes)
    student.load_state_dict(network.state_dict())
    return CompactWorldModel(student, teacher.background, domains=teacher.domains)
