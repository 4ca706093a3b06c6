"""What a researcher does with a world model at a desk, without a service: convert, train, roll out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cloud_trainer.jobs.desk.datasets import open_dataset
from cloud_trainer.jobs.desk.lab import film_rollout
from cloud_trainer.world_model.capabilities import (
    CAPABILITIES,
    capabilities_of,
    require_practice,
    require_rollouts,
)
from cloud_trainer.world_model.data.described import DatasetConfig
from cloud_trainer.world_model.data.source import of_arm
from cloud_trainer.world_model.dit.codec import CodecConfig
from cloud_trainer.world_model.dit.convert import convert_pt
from cloud_trainer.world_model.dit.run_config import read_run
from cloud_trainer.world_model.dit.train import run
from gymnast_core.errors import ConfigError
from gymnast_core.records.manifest import Manifest, read_manifest


def shown(folder: Path) -> dict[str, Any]:
    """Return what a world model's checkpoint is and declares, as JSON values.

    Raises:
        CheckpointError: no world model.
    """
    manifest, able = read_manifest(folder), capabilities_of(folder)
    about = {
        "id": manifest.id, "architecture": manifest.architecture, "bytes": manifest.weights_bytes,
        "parents": list(manifest.parents), "declared": CAPABILITIES in manifest.config,
    }  # fmt: skip
    refused: dict[str, str] = {}
    for use, require in (("rollouts", require_rollouts), ("practice", require_practice)):
        try:
            require(able, manifest.id)
        except ConfigError as refusal:
            refused[use] = str(refusal)
    return {**about, **able.model_dump(mode="json"), "refused": refused}


def convert_world_model(source: Path, folder: Path, *, rope: str, vae: str, heads: int, max_frames: int) -> Manifest:
    """Make a checkpoint of a published WorldGym file; arguments as convert_pt() has them.

    Args:
        source: the .pt file.
        folder: to write; must not exist.
        rope: standard or pixel.
        vae: folder of the codec.
        heads: of attention.
        max_frames: longest window.
    """
    codec = CodecConfig(kind="kl", folder=vae)
    return convert_pt(source, folder, rope=rope, codec_config=codec, heads=heads, max_frames=max_frames)


def train_world_model(path: Path, *, skip_broken: bool) -> tuple[Path, dict[str, Any]]:
    """Train or refine a world model; a run that was stopped goes on.

    Args:
        path: of run.json.
        skip_broken: leave out episodes that cannot be read.

    Returns:
        The checkpoint's folder, and the last line of its progress.
    """
    config = read_run(path)
    if skip_broken:
        config = config.changed(data=tuple(one.changed(skip_broken=True) for one in config.data))
    run(config)
    progress = config.folder / "progress.jsonl"
    lines = progress.read_text(encoding="utf-8").splitlines() if progress.is_file() else []
    return config.folder / "checkpoint", json.loads(lines[-1]) if lines else {}


def roll_out(
    config: DatasetConfig, number: int, world_model: Path, out: Path, *, steps: int | None, start: int, seed: int
) -> tuple[str, list[float]]:
    """Replay one recorded episode's actions in a world model, as a video; see film_rollout().

    Args:
        config: of the dataset.
        number: of the episode in it.
        world_model: checkpoint folder.
        out: the video.
        steps: denoising steps per frame of a DiT; None is the checkpoint's own.
        start: step from which the model goes on alone.
        seed: of the model's noise.

    Returns:
        The episode's id, and the PSNR of every imagined step in decibels.

    Raises:
        ConfigError: the dataset has no such episode.
    """
    source = open_dataset(config)
    if not 0 <= number < len(source):
        raise ConfigError(f"--episode {number}: {config.folder} has episodes 0..{len(source) - 1}")
    episode = of_arm(source.episode(number), source.info)
    return episode.episode_id, film_rollout(episode, world_model, out, steps=steps, start=start, seed=seed)
