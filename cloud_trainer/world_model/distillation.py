"""Distils a world model checkpoint with the distiller of its own architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from cloud_trainer.progress import Cancelled, CancelledError, Progress, ProgressEvent, never, silent
from cloud_trainer.world_model.capabilities import declared_by, require_rollouts
from cloud_trainer.world_model.compact import model as compact_model
from cloud_trainer.world_model.compact.data import clips_of
from cloud_trainer.world_model.compact.distil import CompactDistillation, CompactDistiller
from cloud_trainer.world_model.compact.model import CompactWorldModel
from cloud_trainer.world_model.dit import checkpoint
from cloud_trainer.world_model.dit.checkpoint import load_world_model
from cloud_trainer.world_model.dit.codec import build_codec
from cloud_trainer.world_model.dit.distil import DiTDistillation, DiTDistiller
from cloud_trainer.world_model.dit.distributed import Place
from cloud_trainer.world_model.dit.train_config import TrainConfig
from cloud_trainer.world_model.refinement import REPORT_EVERY, on_policy_stream
from cloud_trainer.world_model.worlds import CompactWorld, DiTWorld, World
from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.jobs.distil import DistilSettings
from gymnast_core.jobs.practice import DreamConfig
from gymnast_core.policies.processor import compute_dtype, dtype_name
from gymnast_core.records.manifest import read_manifest
from gymnast_core.robots import arm_of_all
from gymnast_core.types import Episode

_DISTILLED = (compact_model.ARCHITECTURE, checkpoint.ARCHITECTURE)


@dataclass(frozen=True)
class Distilling:
    """How a checkpoint is distilled.

    Attributes:
        settings: how long, to how many steps.
        seed: of everything random.
        state: where an interrupted run goes on from: a file of the compact distiller, a folder of the DiT's.
        device: a DiT is distilled on.
        progress: called every 20 steps.
        cancelled: asked every step.
    """

    settings: DistilSettings
    seed: int
    state: Path
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: Progress = silent
    cancelled: Cancelled = never


def as_it_teaches(teacher: Path, settings: DistilSettings) -> DreamConfig:
    """Return how a teacher draws: a DiT with the steps and the guidance that are distilled, a compact one as always."""
    own = DreamConfig(device=settings.device)
    compact = read_manifest(teacher).architecture == compact_model.ARCHITECTURE
    return own if compact else own.changed(steps=settings.teacher_steps, guidance=settings.guidance)


def distil_world(teacher: Path, episodes: Sequence[Episode], how: Distilling, out: Path) -> World:
    """Write a student's checkpoint, which names its teacher; returns the teacher as it taught, to compare it with.

    Args:
        teacher: checkpoint folder of either architecture.
        episodes: where rollouts begin, and whose actions they play; frames of the world's image size.
        how: how long and to how many steps.
        out: checkpoint folder to create.

    Raises:
        CheckpointError: no world model, altered, or of an architecture that has no distiller.
        ConfigError: a setting that this architecture does not have, or steps that do not divide the teacher's; or
            the episodes are of an arm that the teacher does not know.
        CancelledError: cancelled; the state has the last whole step.
    """
    manifest = read_manifest(teacher)
    architecture = manifest.architecture
    if architecture in _DISTILLED:
        require_rollouts(declared_by(manifest), manifest.id, robot=arm_of_all(episode.metadata for episode in episodes))
    if architecture == compact_model.ARCHITECTURE:
        return _distil_compact(teacher, episodes, how, out)
    if architecture == checkpoint.ARCHITECTURE:
        return _distil_dit(teacher, episodes, how, out)
    raise CheckpointError(f"{teacher} is a {architecture}; {', '.join(_DISTILLED)} can be distilled")


def _distil_compact(folder: Path, episodes: Sequence[Episode], how: Distilling, out: Path) -> World:
    asked = how.settings
    _refuse(asked, "a compact world model", ("teacher_steps", "guidance", "device"))
    teacher = CompactWorldModel.load(folder)
    config = CompactDistillation(
        asked.iterations, asked.batch_size, asked.learning_rate, sampling_steps=asked.steps, widths=asked.widths,
        seed=how.seed,
    )  # fmt: skip
    robot = arm_of_all(episode.metadata for episode in episodes)
    distiller = CompactDistiller(teacher, clips_of(episodes, teacher.config.image_size), config, robot)
    distiller.run(state=how.state, progress=how.progress, cancelled=how.cancelled)
    lineage = {
        "stage": "distil", "distillation": asdict(config), "episodes": [episode.episode_id for episode in episodes],
        "compute_dtype": dtype_name(compute_dtype()),
    }  # fmt: skip
    distiller.ema.save(out, parents=(teacher.version,), lineage=lineage)
    return CompactWorld(teacher, robot)


def _distil_dit(folder: Path, episodes: Sequence[Episode], how: Distilling, out: Path) -> World:
    asked, loaded = how.settings, load_world_model(folder)
    _refuse(asked, "a DiT", ("widths",))
    stream = on_policy_stream(episodes, loaded.model.config, how.seed)
    config = TrainConfig(
        batch_size=asked.batch_size, learning_rate=asked.learning_rate, objective=loaded.objective.name,
        bf16=how.device.type == "cuda", seed=how.seed, save_every=100, report_every=REPORT_EVERY,
    )  # fmt: skip

    def on_progress(line: Mapping[str, float]) -> None:
        how.progress(ProgressEvent("distil", int(line["step"]), asked.iterations, {"loss": float(line["loss"])}))

    distiller = DiTDistiller(
        loaded, build_codec(loaded.codec_config, device=how.device),
        DiTDistillation(asked.steps, asked.teacher_steps, asked.guidance), stream, config,
        place=Place(device=how.device), folder=how.state, on_progress=on_progress,
    )  # fmt: skip
    distiller.resume()
    distiller.train(asked.iterations, cancelled=how.cancelled)
    if distiller.step < asked.iterations:
        raise CancelledError(f"distillation cancelled at step {distiller.step} of {asked.iterations}")
    distiller.export_student(out, {"episodes": [e.episode_id for e in episodes], "stream": stream.fingerprint})
    return DiTWorld.of(loaded, as_it_teaches(folder, asked), arm_of_all(episode.metadata for episode in episodes))


def _refuse(settings: DistilSettings, what: str, names: Sequence[str]) -> None:
    if given := [name for name in names if name in settings.model_fields_set]:
        raise ConfigError(f"{', '.join(given)}: {what} has no such setting; leave it out")
