"""Trains a world model checkpoint on with the trainer of its own architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from cloud_trainer.progress import Cancelled, CancelledError, Progress, ProgressEvent, never, silent
from cloud_trainer.world_model.compact import model as compact_model
from cloud_trainer.world_model.compact.data import Clips, clips_of
from cloud_trainer.world_model.compact.model import CompactWorldModel
from cloud_trainer.world_model.compact.train import WorldModelTraining, train_world_model
from cloud_trainer.world_model.data.mixture import ClipStream, MixtureConfig
from cloud_trainer.world_model.data.source import MemorySource, Origin, SourceInfo
from cloud_trainer.world_model.dit import checkpoint
from cloud_trainer.world_model.dit.checkpoint import load_world_model
from cloud_trainer.world_model.dit.codec import build_codec
from cloud_trainer.world_model.dit.config import DiTConfig
from cloud_trainer.world_model.dit.distributed import Place
from cloud_trainer.world_model.dit.train_config import TrainConfig
from cloud_trainer.world_model.dit.trainer import DiTTrainer
from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.extensions import WORLD_MODELS, extension, installed
from gymnast_core.records.manifest import read_manifest
from gymnast_core.robots import model_in, one_arm
from gymnast_core.types import Episode

LONGEST_CLIP = 10
"""Frames a DiT is refined on at once; WorldGym's."""
REPORT_EVERY = 20


@dataclass(frozen=True)
class Refinement:
    """How a checkpoint is refined.

    Attributes:
        iterations: optimiser steps.
        learning_rate: the peak.
        seed: of everything random.
        state: where an interrupted run goes on from: a file of the compact trainer, a folder of the DiT's.
        device: a DiT is trained on.
        progress: called every 20 steps.
        cancelled: asked every step.
    """

    iterations: int
    learning_rate: float
    seed: int
    state: Path
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: Progress = silent
    cancelled: Cancelled = never


def refine_world(
    parent: Path, episodes: Sequence[Episode], how: Refinement, out: Path, *, clips: Clips | None = None
) -> None:
    """Write a refined checkpoint.

    Args:
        parent: checkpoint folder of either architecture; the result names it.
        episodes: recorded, with frames of the world's image size.
        how: how long and how fast.
        out: checkpoint folder to create.
        clips: the same episodes stacked at the world's image size, where they are at hand; they are not copied again.

    Raises:
        CheckpointError: no world model, altered, or of an unknown architecture.
        ConfigError: a package adds the architecture, but cannot be imported, or has no way to train it on.
        CancelledError: cancelled; the state has the last whole step.
    """
    architecture = read_manifest(parent).architecture
    train = _TRAINERS.get(architecture) or _added(parent, architecture)
    train(parent, episodes, how, out, clips)


def _added(parent: Path, architecture: str) -> _Trainer:
    """How a package's own world model is trained on."""
    if architecture not in (others := installed(WORLD_MODELS)):
        raise CheckpointError(f"{parent} is a {architecture}, not a world model ({', '.join((*_TRAINERS, *others))})")
    train: _Trainer | None = getattr(extension(WORLD_MODELS, architecture), "refine", None)
    if train is None:
        raise ConfigError(f"{architecture} has no refine(); a world model that is trained on needs one")
    return train


def _refine_compact(parent: Path, episodes: Sequence[Episode], how: Refinement, out: Path, clips: Clips | None) -> None:
    training = WorldModelTraining(
        iterations=how.iterations, learning_rate=how.learning_rate, own_context_from=0.0, seed=how.seed
    )
    if clips is None:
        clips = clips_of(episodes, CompactWorldModel.load(parent).config.image_size)
    train_world_model(
        clips, training, out, parent=parent, arms={model_in(episode.metadata) for episode in episodes}, state=how.state,
        progress=how.progress, cancelled=how.cancelled,
    )  # fmt: skip


def _refine_dit(parent: Path, episodes: Sequence[Episode], how: Refinement, out: Path, clips: Clips | None) -> None:
    loaded = load_world_model(parent)
    stream = on_policy_stream(episodes, loaded.model.config, how.seed)
    config = TrainConfig(
        learning_rate=how.learning_rate, objective=loaded.objective.name, bf16=how.device.type == "cuda",
        seed=how.seed, save_every=200, report_every=REPORT_EVERY,
    )  # fmt: skip

    def on_progress(line: Mapping[str, float]) -> None:
        figures = {name: float(line[name]) for name in ("loss", "grad_norm")}
        how.progress(ProgressEvent("world_model", int(line["step"]), how.iterations, figures))

    codec, place = build_codec(loaded.codec_config, device=how.device), Place(device=how.device)
    trainer = DiTTrainer(loaded.model, codec, stream, config, place=place, folder=how.state, on_progress=on_progress)
    trainer.resume()
    trainer.train(how.iterations, cancelled=how.cancelled)
    if trainer.step < how.iterations:
        raise CancelledError(f"refinement cancelled after {trainer.step} of {how.iterations} iterations")
    lineage = {"episodes": [episode.episode_id for episode in episodes], "stream": stream.fingerprint}
    trainer.export(
        out,
        codec_config=loaded.codec_config,
        parent=loaded.manifest,
        lineage=lineage,
    )


def on_policy_stream(episodes: Sequence[Episode], network: DiTConfig, seed: int) -> ClipStream:
    """Return the clips of a job's episodes that a DiT learns from.

    Args:
        episodes: recorded, with frames of the world's image size.
        network: its sizes.
        seed: of the clips.

    Raises:
        ConfigError: they are of several arms.
    """
    mixture = MixtureConfig(
        frames=min(LONGEST_CLIP, network.max_frames), proportions={Origin.ON_POLICY: 1.0}, seed=seed
    )
    robot = one_arm(model_in(episode.metadata) for episode in episodes)
    source = MemorySource(SourceInfo("job", origin=Origin.ON_POLICY, robot=robot), episodes)
    return ClipStream([source], mixture, layout=network.layout)


class _Trainer(Protocol):
    def __call__(
        self, parent: Path, episodes: Sequence[Episode], how: Refinement, out: Path, clips: Clips | None
    ) -> None: ...


_TRAINERS: Mapping[str, _Trainer] = {
    compact_model.ARCHITECTURE: _refine_compact,
    checkpoint.ARCHITECTURE: _refine_dit,
}
