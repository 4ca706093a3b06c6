"""Recorded data of any kind, named on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gymnast_core.errors import ConfigError
from gymnast_core.extensions import DATASETS, installed

if TYPE_CHECKING:
    from cloud_trainer.world_model.data.check import Checked
    from cloud_trainer.world_model.data.described import DatasetConfig
    from cloud_trainer.world_model.data.source import EpisodeSource
    from gymnast_core.types import Episode

KINDS = ("mcap", "worldgym", "bridge_raw", "lerobot")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how a dataset is read."""
    parser.add_argument(
        "--kind", choices=(*KINDS, *installed(DATASETS)), default="mcap", help="of the data (default mcap)"
    )
    parser.add_argument("--size", type=int, metavar="PIXELS", help="side frames are resized to, as in training")
    parser.add_argument(
        "--lag", type=int, help="steps the stored actions are late (default 0, worldgym 1, bridge_raw by its dates)"
    )
    parser.add_argument(
        "--actions", choices=("ee_delta", "joint", "text_only"), default="ee_delta", help="what the numbers are"
    )
    parser.add_argument("--camera", metavar="NAME", help="which to read (default the first; bridge_raw: a number)")
    parser.add_argument(
        "--state", metavar="COLUMNS", help="lerobot: proprioception, as x,y,z,roll,pitch,yaw,gripper, 0-5,7 or none"
    )
    parser.add_argument(
        "--action", dest="action_columns", metavar="COLUMNS", help="lerobot: columns of the action, as --state"
    )
    parser.add_argument("--skip-broken", action="store_true", help="list and leave out episodes that cannot be read")


def described(args: argparse.Namespace, folder: Path) -> DatasetConfig:
    """Return the dataset as run.json describes one."""
    from cloud_trainer.world_model.data.described import DatasetConfig

    given = {
        "size": args.size,
        "lag": args.lag,
        "camera": args.camera,
        "state": args.state,
        "action": args.action_columns,
    }
    settings = {name: value for name, value in given.items() if value is not None}
    return DatasetConfig(kind=args.kind, folder=str(folder), actions=args.actions, **settings)


def dataset(args: argparse.Namespace, folder: Path) -> EpisodeSource:
    """Return the reader of a folder; nothing is read but what says how many episodes there are.

    Raises:
        ConfigError: there is none.
    """
    from cloud_trainer.world_model.data.described import build_source

    source = build_source(described(args, folder))
    if not len(source):
        raise ConfigError(f"no {args.kind} episodes in {folder}; is --kind right?")
    return source


def checked(args: argparse.Namespace, folder: Path) -> Checked:
    """Read a dataset once: which episodes can be read, and their lag.

    Raises:
        CorruptError: something is broken, without --skip-broken.
        ConfigError: there is none.
    """
    from cloud_trainer.world_model.data.check import check

    found = check(dataset(args, folder))
    found.kept(skip_broken=args.skip_broken)
    return found


def recorded(args: argparse.Namespace, folders: list[Path]) -> list[Episode]:
    """Read every episode of some dataset folders.

    Raises:
        CorruptError: something is broken, without --skip-broken.
        ConfigError: there is none.
    """
    from cloud_trainer.world_model.data.source import iterate

    sources = [dataset(args, folder) for folder in folders]
    if not args.skip_broken:
        return [episode for source in sources for episode in iterate(source)]
    from cloud_trainer.world_model.data.check import check

    kept = [check(source, measure=False).kept(skip_broken=True) for source in sources]
    return [episode for source in kept for episode in iterate(source)]
