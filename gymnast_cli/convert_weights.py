"""`gymnast weights convert`: a policy somebody else published, as a checkpoint of ours."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from gymnast_cli.connect import emit
from gymnast_core.errors import ConfigError

if TYPE_CHECKING:
    from gymnast_core.policies.openvla.policy import OpenVLAPolicy
    from gymnast_core.policies.pi0.policy import Pi0Policy

OPENVLA_ONLY = ("base", "head", "pipeline")
PI0_ONLY = ("tokenizer", "episodes", "chunk_length", "steps", "wrist_camera", "camera")


def add_arguments(convert: argparse.ArgumentParser) -> None:
    """Declare the arguments; what means nothing for the folder that is named is refused by run()."""
    convert.add_argument(
        "published", type=Path,
        help="folder: OpenVLA's (config.json and model*.safetensors, or lora_adapter/), openpi's or LeRobot's pi0 or "
        "pi0.5, or openpi's JAX checkpoint (params/ and assets/; needs gymnast_ros[jax])",
    )  # fmt: skip
    convert.add_argument("into", type=Path, help="checkpoint folder to write; must not exist")
    convert.add_argument("--statistics-key", default="", metavar="NAME",
                         help="whose statistics scale the actions, of pi0 the asset id (default: the only ones, or of "
                         "an OpenVLA folder's own those of Bridge)")  # fmt: skip
    convert.add_argument("--temperature", type=float, default=1.0, help="of sampling (default 1.0)")
    convert.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), help="(default: as stored)")
    openvla = convert.add_argument_group("OpenVLA")
    openvla.add_argument("--base", type=Path, metavar="FOLDER", help="what a lora_adapter/ alone was trained on")
    openvla.add_argument("--head", choices=("discrete", "l1", "causal"),
                         help="discrete: OFT with probabilities, for RL; l1: OFT regression, inference only; causal: "
                         "plain OpenVLA (default discrete)")  # fmt: skip
    openvla.add_argument("--pipeline", choices=("official", "rl"), help="image preparation: as published, or as "
                         "SimpleVLA-RL and World-Gymnast do (default official)")  # fmt: skip
    pi0 = convert.add_argument_group("pi0 and pi0.5")
    pi0.add_argument("--tokenizer", type=Path, metavar="FILE", help="tokenizer.json of google/paligemma-3b-pt-224, "
                     "where the folder has none")  # fmt: skip
    pi0.add_argument("--episodes", type=Path, nargs="+", metavar="PATH", help="take the statistics of these recorded "
                     "episodes (.mcap files or folders): what a base model needs to learn this arm")  # fmt: skip
    pi0.add_argument("--chunk-length", type=int, metavar="K", help="actions per call (default: as trained)")
    pi0.add_argument("--steps", type=int, metavar="N", help="Euler steps from noise to actions (default: as trained)")
    pi0.add_argument("--camera", metavar="NAME", help="what it takes for the base camera (default: the first)")
    pi0.add_argument("--wrist-camera", metavar="NAME", help="what it takes for the left wrist's camera (default: none, "
                     "masked; training shows a policy one camera)")  # fmt: skip


def run(args: argparse.Namespace, console: Console) -> int:
    """Read by tensor name, run none of the folder's code, write safetensors and a manifest."""
    from gymnast_core.policies.pi0.published import published_as

    if args.into.exists():
        raise ConfigError(f"{args.into} exists; checkpoints are immutable, name a folder that does not")
    kind = published_as(args.published)
    refused = [name for name in (OPENVLA_ONLY if kind else PI0_ONLY) if getattr(args, name) is not None]
    if refused:
        option = f"--{refused[0].replace('_', '-')}"
        raise ConfigError(f"{option} means nothing for {args.published}, which is {kind or 'no pi0'}; leave it out")
    policy = _pi0(args) if kind else _openvla(args)
    manifest = policy.save(args.into, lineage={"stage": "converted", "source": policy.version})
    key = policy.config.statistics_key
    told: dict[str, Any] = {
        "checkpoint_id": manifest.id, "weights_size": manifest.weights_bytes, "architecture": manifest.architecture,
        "statistics_key": key, "folder": str(args.into),
    }  # fmt: skip
    told |= {name: getattr(policy.config, name) for name in ("head", "variant") if hasattr(policy.config, name)}
    text = (
        f"{manifest.id} in {args.into}; actions are scaled by the statistics of {key or 'the folder'}\n"
        f"next: gymnast serve --import {args.into}, or gymnast up --policy {args.into}"
    )
    emit(args, console, told, text)
    return 0


def _openvla(args: argparse.Namespace) -> OpenVLAPolicy:
    from gymnast_core.policies.openvla.published import read_published
    from gymnast_core.policies.published_files import dtype_named

    chosen = {name: getattr(args, name) for name in OPENVLA_ONLY if getattr(args, name) is not None}
    return read_published(
        args.published, statistics_key=args.statistics_key, temperature=args.temperature,
        dtype=dtype_named(args.dtype), **chosen,
    )  # fmt: skip


def _pi0(args: argparse.Namespace) -> Pi0Policy:
    from gymnast_core.policies.pi0.published import Choices, read_pi0
    from gymnast_core.policies.published_files import dtype_named

    statistics = _statistics(args.episodes) if args.episodes else None
    return read_pi0(
        args.published,
        Choices(
            statistics_key=args.statistics_key or ("episodes" if statistics else ""), statistics=statistics,
            tokenizer=args.tokenizer, chunk_length=args.chunk_length, steps=args.steps,
            cameras=(args.camera or "", args.wrist_camera or "", ""), temperature=args.temperature,
            dtype=dtype_named(args.dtype),
        ),
    )  # fmt: skip


def _statistics(paths: list[Path]) -> dict[str, Any]:
    from cloud_trainer.jobs.desk.episodes import labelled_episodes
    from gymnast_core.policies.pi0.norms import statistics_of_episodes

    return statistics_of_episodes(labelled_episodes(paths, 16))
