"""Recorded data of any kind, named on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gymnast_core.extensions import DATASETS, installed
from gymnast_core.json_values import JsonObject
from gymnast_core.spec import WIDOWX_250S

if TYPE_CHECKING:
    from cloud_trainer.jobs.desk.datasets import DatasetConfig
    from gymnast_core.types import Episode

KINDS = ("mcap", "worldgym", "bridge_raw", "lerobot", "rlds")
ACTIONS = ("ee_delta7", "joint", "camera", "text", "none")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how a dataset is read."""
    parser.add_argument(
        "--kind", choices=(*KINDS, *installed(DATASETS)), default="mcap", help="of the data (default mcap)"
    )
    add_reading_arguments(parser)


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how a dataset of a kind that is known is read."""
    parser.add_argument("--size", type=int, metavar="PIXELS", help="side frames are resized to, as in training")
    parser.add_argument(
        "--lag", type=int, help="steps the stored actions are late (default 0, worldgym 1, bridge_raw by its dates)"
    )
    parser.add_argument(
        "--actions",
        choices=ACTIONS,
        default=ACTIONS[0],
        help="what the numbers are; text, none: there are none (default %(default)s)",
    )
    parser.add_argument("--camera", metavar="NAME", help="which to read (default the first; bridge_raw: a number)")
    parser.add_argument(
        "--state",
        metavar="COLUMNS",
        help="lerobot, rlds: proprioception, x,y,z,roll,pitch,yaw,gripper, 0-5,7 or none",
    )
    parser.add_argument(
        "--action", dest="action_columns", metavar="COLUMNS", help="lerobot, rlds: columns of the action, as --state"
    )
    parser.add_argument(
        "--robot", metavar="MODEL",
        help=f"which arm it was, by its model (default {WIDOWX_250S.name}; episode files say it themselves)",
    )  # fmt: skip
    parser.add_argument("--fps", type=float, help="rlds: steps a second, which the data does not say (default 5)")
    parser.add_argument("--skip-broken", action="store_true", help="list and leave out episodes that cannot be read")


def described(args: argparse.Namespace, folder: Path) -> DatasetConfig:
    """Return the dataset as run.json describes one."""
    from cloud_trainer.jobs.desk.datasets import DatasetConfig

    return DatasetConfig.model_validate({**reading(args, args.kind), "folder": str(folder)})


def reader(args: argparse.Namespace) -> Callable[[Sequence[Path], int], list[Episode]]:
    """Return what reads episodes from the paths named, whatever their kind, with frames of so many pixels a side."""

    def read(paths: Sequence[Path], image_size: int) -> list[Episode]:
        from cloud_trainer.jobs.desk.datasets import recorded
        from cloud_trainer.jobs.desk.episodes import labelled_episodes

        if args.kind != "mcap":
            return recorded([described(args, path) for path in paths], skip_broken=args.skip_broken)
        return labelled_episodes(paths, args.size or image_size)

    return read


def reading(args: argparse.Namespace, kind: str) -> JsonObject:
    """Return the settings of a dataset but its folder; kind is one of run.json's."""
    given = {
        "size": args.size,
        "lag": args.lag,
        "camera": args.camera,
        "state": args.state,
        "action": args.action_columns,
        "fps": args.fps,
        "robot": args.robot,
    }
    settings = {name: value for name, value in given.items() if value is not None}
    return {"kind": kind, "actions": args.actions, **settings}
