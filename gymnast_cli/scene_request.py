"""What an adaptation is asked for from the command line: the same flags for `gymnast ttt` and `operate adapt`."""

from __future__ import annotations

import argparse
from typing import Any

from gymnast_cli.connect import add_override_argument, json_argument


def add_scene_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --instruction, --scene, --seed, --world-model, --judge, --other-tasks, --config and --override."""
    parser.add_argument("--instruction", required=True, help="what it shall do there; a task's name will do")
    parser.add_argument("--scene", default="", help="the robot's name for where it stands (default: the trainer's)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--world-model", default="", metavar="ID", help="checkpoint (default: the trainer's newest)")
    parser.add_argument("--judge", default="", metavar="ID", help="checkpoint (default: the trainer's newest)")
    parser.add_argument(
        "--other-tasks", default="", metavar="A;B",
        help="instructions on which the canary looks for harm (default: what the robot was seen to succeed at)",
    )  # fmt: skip
    parser.add_argument("--config", type=json_argument, default={}, metavar="JSON|@FILE", help="of the training job")
    add_override_argument(parser)


def scene_asked(args: argparse.Namespace) -> dict[str, Any]:
    """Return these flags as AdaptationsClient.begin() takes them, beside the robot."""
    config = dict(args.config)
    if args.override:
        config["overrides"] = {**config.get("overrides", {}), **dict(args.override)}
    others = tuple(name.strip() for name in args.other_tasks.split(";") if name.strip())
    same = {name: getattr(args, name) for name in ("instruction", "scene", "seed", "world_model", "judge")}
    return {**same, "config": config, "other_tasks": others}
