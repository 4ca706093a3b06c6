"""Recorded data of any kind, named on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnast_core.errors import ConfigError

if TYPE_CHECKING:
    from gymnast_core.types import Episode

KINDS = ("mcap", "worldgym", "bridge_raw", "lerobot")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how a dataset is read."""
    parser.add_argument("--kind", choices=KINDS, default="mcap", help="of the data (default mcap)")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="side frames are resized to, as in training")
    parser.add_argument("--lag", type=int, help="steps the stored actions are late (default 0, worldgym 1)")
    parser.add_argument(
        "--actions", choices=("ee_delta", "joint", "text_only"), default="ee_delta", help="what the numbers are"
    )


def described(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the dataset as run.json describes one."""
    found = {"kind": args.kind, "folder": str(folder), "size": args.size, "actions": args.actions}
    return found if args.lag is None else {**found, "lag": args.lag}


def recorded(args: argparse.Namespace, folders: list[Path]) -> list[Episode]:
    """Read every episode of some dataset folders.

    Raises:
        ConfigError: there is none.
    """
    from cloud_trainer.world_model.data.source import iterate
    from cloud_trainer.world_model.train import build_source

    episodes = [episode for folder in folders for episode in iterate(build_source(described(args, folder)))]
    if not episodes:
        raise ConfigError(f"no {args.kind} episodes in {', '.join(map(str, folders))}; is --kind right?")
    return episodes
