"""Entry point of a training run: one JSON file in, states, progress, samples and a checkpoint out.

    python -m cloud_trainer.world_model.dit.train run.json                              one process
    torchrun --nproc-per-node 4 -m cloud_trainer.world_model.dit.train run.json         DDP or FSDP2 ("strategy")
    python -m cloud_trainer.world_model.dit.train run.json --ray 4 --gpu                the same under Ray Train

run.json: {"folder": "runs/wm", "steps": 20000, "parent": "runs/worldgym" or null, "network": {...DiTConfig},
"codec": {"kind": "kl", "folder": "/models/sd3-vae"}, "data": [{"kind": "mcap", "folder": "episodes",
"origin": "on_policy"}, ...], "mixture": {"frames": 10, "proportions": {"expert": 0.5, ...}}, "train": {...TrainConfig}}
A dataset's settings: kind, folder, name, size, actions, origin, lag, robot, camera; state and action (columns of a
LeRobot dataset); "skip_broken": true leaves out what cannot be read; "lag_tolerance": 1 accepts actions a step off.
A run that finds states in its folder resumes.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch

from cloud_trainer.world_model.data.admission import admit
from cloud_trainer.world_model.data.described import one_of
from cloud_trainer.world_model.data.mixture import ClipStream, MixtureConfig
from cloud_trainer.world_model.data.source import EpisodeSource, Origin
from cloud_trainer.world_model.dit.checkpoint import load_world_model
from cloud_trainer.world_model.dit.codec import build_codec
from cloud_trainer.world_model.dit.config import DiTConfig
from cloud_trainer.world_model.dit.distributed import Place, joined, ray_train
from cloud_trainer.world_model.dit.loss import LossConfig
from cloud_trainer.world_model.dit.network import DiT
from cloud_trainer.world_model.dit.sampler import SamplerConfig
from cloud_trainer.world_model.dit.train_config import TrainConfig
from cloud_trainer.world_model.dit.trainer import DiTTrainer
from gymnast_core.errors import ConfigError

_LOG = logging.getLogger(__name__)
_Settings = TypeVar("_Settings", MixtureConfig, SamplerConfig, LossConfig, TrainConfig, DiTConfig)


def run(config: Mapping[str, Any]) -> None:
    """Do one run as described in this module's docstring; all data is read once before the first step.

    Raises:
        CorruptError: episodes that cannot be read, all of them named.
        ConventionError: actions that are off in time.
        ConfigError: a setting is missing, unknown or out of range.
    """
    _check_settings(config)
    sources = admit(config["data"], Path(config["folder"]))
    with joined() as place:
        _train(config, sources, place)


def _train(config: Mapping[str, Any], sources: Sequence[EpisodeSource], place: Place) -> None:
    """The run of one process; what it holds is let go before the processes part."""
    model, parents = _start(config)
    mixture = build_mixture(config.get("mixture", {}))
    longest = model.config.max_frames
    _require_window(mixture, longest)
    stream = ClipStream(sources, mixture, rank=place.rank, world_size=place.world_size)
    settings = build_train_config(config.get("train", {}), window=longest)
    folder = Path(config["folder"])
    trainer = DiTTrainer(
        model, build_codec(config["codec"]), stream, settings, place=place, folder=folder, on_progress=_log
    )
    trainer.resume()
    trainer.train(int(config["steps"]))
    checkpoint = folder / "checkpoint"
    if not checkpoint.exists():
        lineage = {"data": [source.info.name for source in sources], "stream": stream.fingerprint}
        trainer.export(checkpoint, codec_config=config["codec"], parents=parents, lineage=lineage)


def _check_settings(config: Mapping[str, Any]) -> None:
    """Refuse wrong settings before the data is read, which may take hours.

    Raises:
        ConfigError: names the setting.
    """
    mixture = build_mixture(config.get("mixture", {}))
    build_train_config(config.get("train", {}))
    if not config.get("parent"):
        _require_window(mixture, _built(DiTConfig, config.get("network", {}), "network").max_frames)


def _require_window(mixture: MixtureConfig, longest: int) -> None:
    if mixture.frames > longest:
        raise ConfigError(f"mixture.frames {mixture.frames} exceeds the network's max_frames {longest}; lower it")


def read_run(path: Path) -> dict[str, Any]:
    """Return the description of a run.

    Raises:
        ConfigError: no JSON object, or without what every run needs.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no readable JSON file: {error}") from error
    needed = ("folder", "steps", "codec", "data")
    missing = [name for name in needed if not isinstance(config, dict) or name not in config]
    if missing:
        raise ConfigError(
            f"{path} lacks {missing}; a run needs {list(needed)}, see "
            "python -m cloud_trainer.world_model.dit.train --help"
        )
    return dict(config)


def _built(kind: type[_Settings], values: Mapping[str, Any], where: str) -> _Settings:
    """Build a configuration dataclass.

    Raises:
        ConfigError: names the settings it does not have.
    """
    known = [entry.name for entry in fields(kind)]
    if unknown := sorted(set(values) - set(known)):
        raise ConfigError(f"{where} has no setting {unknown}; there are {known}")
    return kind(**values)


def build_mixture(described: Mapping[str, Any]) -> MixtureConfig:
    """Return the mix; proportions are given by origin name."""
    values = dict(described)
    if "proportions" in values:
        values["proportions"] = {
            one_of(Origin, name, "mixture proportions:"): float(share) for name, share in values["proportions"].items()
        }
    return _built(MixtureConfig, values, "mixture")


def build_train_config(described: Mapping[str, Any], *, window: int = 20) -> TrainConfig:
    """Return the settings; nested "sampler" (default window as given) and "loss" become their own configurations."""
    values = dict(described)
    sampler = {"window": window, **values.get("sampler", {})}
    if "betas" in values:
        values["betas"] = tuple(values["betas"])
    values["sampler"] = _built(SamplerConfig, sampler, "train.sampler")
    values["loss"] = _built(LossConfig, values.get("loss", {}), "train.loss")
    return _built(TrainConfig, values, "train")


def _start(config: Mapping[str, Any]) -> tuple[DiT, tuple[str, ...]]:
    if config.get("parent"):
        loaded = load_world_model(Path(config["parent"]))
        wanted = config.get("train", {}).get("objective", loaded.objective.name)
        if wanted != loaded.objective.name:
            _LOG.info("objective changes from=%s to=%s", loaded.objective.name, wanted)
        return loaded.model, (loaded.manifest.id,)
    seed = int(config.get("train", {}).get("seed", 0))
    model = DiT(_built(DiTConfig, config.get("network", {}), "network")).initialise(torch.Generator().manual_seed(seed))
    return model, ()


def _log(line: Mapping[str, Any]) -> None:
    _LOG.info(" ".join(f"{name}={value:.4g}" for name, value in line.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run.json")
    parser.add_argument("--ray", type=int, default=0, metavar="N", help="run on N Ray Train workers")
    parser.add_argument("--gpu", action="store_true", help="one GPU per Ray worker")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    config = read_run(given.run)
    if given.ray:
        ray_train(run, config, workers=given.ray, gpu=given.gpu)
    else:
        run(config)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
