"""Train or refine the compact world model; the run resumes bit for bit.

Flow matching with clean-frame prediction: x_tau = (1 - tau) noise + tau x, the network predicts x, squared error
weighted to objects and motion. Part of the contexts are the model's own predictions, as they will be in a dream.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloud_trainer.progress import Cancelled, Progress, never, silent
from cloud_trainer.training import Descent, ModelTrainer
from cloud_trainer.world_model.compact.data import Clips, median_background
from cloud_trainer.world_model.compact.model import CompactWorldModel
from cloud_trainer.world_model.compact.network import CompactWorldModelConfig, CompactWorldNetwork
from gymnast_core.errors import ConfigError
from gymnast_core.policies.processor import compute_dtype, dtype_name, mixed_precision
from gymnast_core.records.manifest import Manifest
from gymnast_core.types import FloatArray, IntArray


@dataclass(frozen=True)
class WorldModelTraining:
    """How to train.

    Attributes:
        iterations: optimiser steps; the learning rate falls as a cosine over them.
        batch_size: windows a step.
        learning_rate: peak, after `warmup` steps.
        warmup: steps of linear rise.
        weight_decay: of AdamW.
        ema: decay of the averaged weights, which are what is kept.
        chunk_share: share of windows that are whole chunks from a chunk start, what reinforcement asks for.
        own_context_share: share of later windows whose context is the model's own prediction.
        own_context_from: fraction of the run after which that begins.
        object_weight: extra loss weight of saturated colours that the background has not.
        motion_weight: extra loss weight of change since the context frame.
        recent: this many last episodes are drawn `recent_share` of the time; 0 draws all alike.
        recent_share: see recent.
        seed: of initialisation, batches and noise.
    """

    iterations: int = 4400
    batch_size: int = 32
    learning_rate: float = 6e-4
    warmup: int = 100
    weight_decay: float = 1e-3
    ema: float = 0.998
    chunk_share: float = 0.65
    own_context_share: float = 0.25
    own_context_from: float = 0.5
    object_weight: float = 10.0
    motion_weight: float = 6.0
    recent: int = 0
    recent_share: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        if self.iterations < 1 or self.batch_size < 1 or self.learning_rate <= 0 or not 0 <= self.ema < 1:
            raise ConfigError(f"iterations, batch_size >= 1, learning_rate > 0, 0 <= ema < 1; got {self}")


@dataclass(frozen=True)
class Window:
    """Indices of a batch of training windows: (B,) episode, first step, steps ahead."""

    episode_B: IntArray
    step_B: IntArray
    ahead_B: IntArray


def draw_windows(
    clips: Clips, count: int, horizon: int, config: WorldModelTraining, rng: np.random.Generator
) -> Window:
    """Draw windows: whole chunks from chunk starts `chunk_share` of the time, any other stretch otherwise."""
    if config.recent and config.recent < len(clips):
        old, recent = len(clips) - config.recent, rng.random(count) < config.recent_share
        episode = np.where(recent, old + rng.integers(0, config.recent, count), rng.integers(0, old, count))
    else:
        episode = rng.integers(0, len(clips), count)
    length = clips.length_N[episode]
    chunked = rng.random(count) < config.chunk_share
    whole = np.maximum(length // horizon, 1)
    start_of_chunk = horizon * (rng.random(count) * whole).astype(np.int64)
    anywhere = (rng.random(count) * length).astype(np.int64)
    step = np.where(chunked, start_of_chunk, anywhere)
    wanted = np.where(chunked, horizon, 1 + (rng.random(count) * horizon).astype(np.int64))
    return Window(episode, step, np.minimum(wanted, length - step))


def window_conditions(clips: Clips, window: Window, horizon: int) -> tuple[FloatArray, FloatArray]:
    """Return commanded poses (B, K+1, 7), the last repeated, and actions (B, K, 7), zero past the end."""
    offset = np.arange(horizon + 1)
    steps = window.step_B[:, None] + np.minimum(offset, window.ahead_B[:, None])
    poses = clips.poses_NTP[window.episode_B[:, None], steps]
    inside = offset[:-1] < window.ahead_B[:, None]
    index = np.minimum(window.step_B[:, None] + offset[:-1], clips.actions_NTA.shape[1] - 1)
    return poses, np.where(inside[..., None], clips.actions_NTA[window.episode_B[:, None], index], 0).astype(np.float32)


def loss_weights(clean: Tensor, context: Tensor, config: WorldModelTraining) -> Tensor:
    """Return (B, 1, H, W) weights: 1, plus coloured objects now and before, plus motion; batch mean 1."""
    coloured = torch.maximum(_saturation(clean), _saturation(context))
    motion = F.avg_pool2d((clean - context).abs().mean(1, keepdim=True), 3, stride=1, padding=1)
    weight = 1 + config.object_weight * coloured + config.motion_weight * motion
    return weight / weight.mean()


def _saturation(x_BCHW: Tensor) -> Tensor:
    """(B, 1, H, W): spread between colour channels of the difference from the background, about 0..1."""
    return ((x_BCHW.amax(1, keepdim=True) - x_BCHW.amin(1, keepdim=True)) / 1.5).clamp(max=1.0)


def follow(averaged: nn.Module, trained: nn.Module, decay: float, step: int) -> None:
    """Draw averaged weights towards trained ones, faster in the first steps."""
    towards: list[Tensor] = list(averaged.parameters())
    current: list[Tensor] = list(trained.parameters())
    torch._foreach_lerp_(towards, current, 1 - min(decay, (1 + step) / (10 + step)))


class WorldModelTrainer(ModelTrainer):
    """One training run over fixed clips.

    Attributes:
        model: what is trained (the raw weights).
        ema: the averaged weights, what a checkpoint holds.
    """

    stage, title = "world_model", "world model"
    save_every, reported = 200, 20

    def __init__(self, model: CompactWorldModel, clips: Clips, config: WorldModelTraining) -> None:
        self.model, self.clips, self.config = model, clips, config
        self.ema = CompactWorldModel(CompactWorldNetwork(model.config), model.background, domains=model.domains)
        self.ema.network.load_state_dict(model.network.state_dict())
        self._rng = np.random.default_rng(config.seed)
        self._noise = torch.Generator().manual_seed(config.seed)
        descent = Descent(
            config.iterations,
            config.learning_rate,
            config.weight_decay,
            warmup=config.warmup,
            floor=0.03,
            betas=(0.9, 0.99),
        )
        modules = {"model": model.network, "ema": self.ema.network}
        super().__init__(model.network, descent, modules, {"windows": self._rng, "noise": self._noise})

    def loss(self) -> Tensor:
        """Loss of a fresh batch of windows, each at a noise level of its own."""
        config, model = self.config, self.model
        window = draw_windows(self.clips, config.batch_size, model.config.horizon, config, self._rng)
        frames = self.clips.frames_NTHWC
        clean = model.to_input(frames[window.episode_B, window.step_B + window.ahead_B])
        first = model.to_input(frames[window.episode_B, 0])
        context = self._contexts(window, first)
        conditions = self._conditions(window)
        tau = torch.rand(len(clean), generator=self._noise) * 0.9
        tau = tau * (torch.rand(len(clean), generator=self._noise) > 0.35)
        if model.config.sampling_steps == 1:  # nothing between noise and frame is ever asked for
            tau = torch.zeros_like(tau)
        noise = torch.randn(clean.shape, generator=self._noise)
        part = tau[:, None, None, None]
        with mixed_precision():
            predicted = model.network((1 - part) * noise + part * clean, context, first, *conditions, tau)
        loss: Tensor = ((predicted - clean).square() * loss_weights(clean, context, config)).mean()
        return loss

    @torch.no_grad()
    def after_step(self) -> None:
        """Draw the averaged weights towards the new ones."""
        follow(self.ema.network, self.model.network, self.config.ema, self.step)

    def _conditions(self, window: Window) -> tuple[Tensor, Tensor, Tensor]:
        poses, actions = window_conditions(self.clips, window, self.model.config.horizon)
        return torch.from_numpy(poses), torch.from_numpy(actions), torch.from_numpy(window.ahead_B)

    def _contexts(self, window: Window, first: Tensor) -> Tensor:
        """Recorded context frames, some replaced by what the model predicts from a chunk earlier."""
        horizon = self.model.config.horizon
        context = self.model.to_input(self.clips.frames_NTHWC[window.episode_B, window.step_B])
        own = self._rng.random(len(context)) < self.config.own_context_share
        own &= (window.step_B >= horizon) & (self.step >= self.config.own_context_from * self.config.iterations)
        if not own.any():
            return context
        before = Window(window.episode_B[own], window.step_B[own] - horizon, np.full(own.sum(), horizon, np.int64))
        earlier = self.model.to_input(self.clips.frames_NTHWC[before.episode_B, before.step_B])
        noise = torch.randn(earlier.shape, generator=self._noise)
        rows = torch.from_numpy(own)
        context[rows] = self.model.sample(earlier, first[rows], *self._conditions(before), noise)
        return context


def train_world_model(
    clips: Clips,
    config: WorldModelTraining,
    out: Path,
    *,
    parent: Path | None = None,
    sizes: CompactWorldModelConfig | None = None,
    sampling_steps: int | None = None,
    camera_matrix: tuple[float, ...] | None = None,
    arms: Collection[str] = (),
    state: Path | None = None,
    lineage: Mapping[str, Any] | None = None,
    progress: Progress = silent,
    cancelled: Cancelled = never,
) -> Manifest:
    """Train (parent None) or refine a world model and write its checkpoint.

    Args:
        clips: recorded episodes; when refining, old ones first, then `config.recent` new ones.
        config: how.
        out: checkpoint folder to create.
        parent: the checkpoint to refine; its background and sizes are kept.
        sizes: of a fresh model.
        sampling_steps: the parent goes on with these, and keeps them; None keeps its own.
        camera_matrix: the clips were seen by another camera than the parent's: its weights go on with this one, and
            with the clips' own background.
        arms: models of the arms in the clips, beside those that the parent knows; of a fresh model empty is the WidowX
            250s.
        state: state file; when it exists the run continues from it, and it is written every 200 steps.
        lineage: goes into the manifest beside the configuration and the episode ids.
        progress: called every 20 steps.
        cancelled: asked every step.

    Raises:
        ConfigError: neither a parent nor sizes.
        CancelledError: cancelled; the state file, if one was named, has the last whole step.
    """
    model = _starting_model(clips, config, parent, sizes, sampling_steps, camera_matrix)
    if arms:
        model.domains = tuple(sorted({*arms, *(() if parent is None else model.domains)}))
    parents = () if parent is None else (model.version,)
    trainer = WorldModelTrainer(model, clips, config)
    trainer.run(state=state, progress=progress, cancelled=cancelled)
    made_from = {
        "stage": "world_model", "training": asdict(config), "episodes": list(clips.episode_ids),
        "compute_dtype": dtype_name(compute_dtype()),
    }  # fmt: skip
    return trainer.ema.save(out, parents=parents, lineage=made_from | dict(lineage or {}))


def _starting_model(
    clips: Clips, config: WorldModelTraining, parent: Path | None, sizes: CompactWorldModelConfig | None,
    sampling_steps: int | None, camera_matrix: tuple[float, ...] | None,
) -> CompactWorldModel:  # fmt: skip
    if parent is not None:
        model = CompactWorldModel.load(parent, sampling_steps=sampling_steps)
        return model if camera_matrix is None else _before_another_camera(model, camera_matrix, clips, config.seed)
    if sizes is None:
        raise ConfigError("a fresh world model needs sizes with a camera matrix; or name a parent to refine")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = CompactWorldNetwork(sizes)
    return CompactWorldModel(network, median_background(clips.frames_NTHWC, seed=config.seed))


def _before_another_camera(
    model: CompactWorldModel, camera_matrix: tuple[float, ...], clips: Clips, seed: int
) -> CompactWorldModel:
    network = CompactWorldNetwork(replace(model.config, camera_matrix=camera_matrix))
    network.load_state_dict(model.network.state_dict())
    background = median_background(clips.frames_NTHWC, seed=seed)
    return CompactWorldModel(network, background, version=model.version, domains=model.domains)
