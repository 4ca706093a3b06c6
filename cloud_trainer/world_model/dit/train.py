"""Entry point of a training run: one JSON file in, states, progress, samples and a checkpoint out.

    python -m cloud_trainer.world_model.dit.train run.json                              one process
    torchrun --nproc-per-node 4 -m cloud_trainer.world_model.dit.train run.json         DDP or FSDP2 ("strategy")
    python -m cloud_trainer.world_model.dit.train run.json --ray 4 --gpu                the same under Ray Train

run.json: {"folder": "runs/wm", "steps": 20000, "parent": "runs/worldgym" or null, "network": {...DiTConfig},
"codec": {"kind": "kl", "folder": "/models/sd3-vae"}, "data": [{"kind": "mcap", "folder": "episodes",
"origin": "on_policy"}, ...], "mixture": {"frames": 10, "proportions": {"expert": 0.5, ...}}, "train": {...TrainConfig}}
A dataset's settings: kind, folder, name, size, actions (ee_delta7, joint, camera, text or none), origin, lag, robot,
camera; state and action (columns of a LeRobot dataset); "skip_broken": true leaves out what cannot be read;
"lag_tolerance": 1 accepts actions a step off. Datasets of several kinds of actions may be mixed: "network" says what
the network takes beside an arm's, {"camera_motion": true, "text_buckets": 64}.
A run that finds states in its folder resumes.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from cloud_trainer.world_model.data.admission import admit
from cloud_trainer.world_model.data.mixture import ClipStream
from cloud_trainer.world_model.data.source import EpisodeSource
from cloud_trainer.world_model.dit.checkpoint import load_world_model, network_of
from cloud_trainer.world_model.dit.codec import build_codec
from cloud_trainer.world_model.dit.distributed import Place, joined, ray_train
from cloud_trainer.world_model.dit.network import DiT
from cloud_trainer.world_model.dit.run_config import RunConfig, read_run
from cloud_trainer.world_model.dit.trainer import DiTTrainer
from gymnast_core.errors import ConfigError
from gymnast_core.json_values import JsonObject
from gymnast_core.records.manifest import Manifest, read_manifest

_LOG = logging.getLogger(__name__)


def run(config: RunConfig) -> None:
    """Do one run; all data is read once before the first step.

    Raises:
        CorruptError: episodes that cannot be read, all of them named.
        ConventionError: actions that are off in time.
        ConfigError: a setting or a dataset's kind of actions does not fit the network.
    """
    if config.parent is not None:
        config.require_kinds(network_of(read_manifest(config.parent)))
    sources = admit(config.data, config.folder)
    with joined() as place:
        _train(config, sources, place)


def run_described(values: JsonObject) -> None:
    """Do the run that JSON values describe, e.g. in a worker of Ray; raises what run() raises."""
    run(RunConfig.model_validate(values))


def _train(config: RunConfig, sources: Sequence[EpisodeSource], place: Place) -> None:
    """The run of one process; what it holds is let go before the processes part."""
    model, parent = _start(config)
    longest = model.config.max_frames
    config.require_window(longest)
    stream = ClipStream(
        sources, config.mixture, rank=place.rank, world_size=place.world_size, layout=model.config.layout
    )
    trainer = DiTTrainer(
        model, build_codec(config.codec), stream, config.training(longest), place=place, folder=config.folder,
        on_progress=_log,
    )  # fmt: skip
    trainer.resume()
    trainer.train(config.steps)
    checkpoint = config.folder / "checkpoint"
    if not checkpoint.exists():
        lineage = {"data": [source.info.name for source in sources], "stream": stream.fingerprint}
        trainer.export(checkpoint, codec_config=config.codec, parent=parent, lineage=lineage)


def _start(config: RunConfig) -> tuple[DiT, Manifest | None]:
    if config.parent is None:
        generator = torch.Generator().manual_seed(config.train.seed)
        return DiT(config.network).initialise(generator), None
    loaded = load_world_model(config.parent)
    wanted, sizes = config.network.named(), loaded.model.config
    if other := [name for name, value in wanted.items() if value != getattr(sizes, name)]:
        raise ConfigError(f"network {other} differ from those of the parent {config.parent}; leave network out")
    if "objective" in config.train.model_fields_set and config.train.objective != loaded.objective.name:
        _LOG.info("objective changes from=%s to=%s", loaded.objective.name, config.train.objective)
    return loaded.model, loaded.manifest


def _log(line: Mapping[str, float]) -> None:
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
        ray_train(run_described, config.to_json(), workers=given.ray, gpu=given.gpu)
    else:
        run(config)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
