"""`gymnast up`: the robot side's nodes without a ROS installation."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from gymnast_core.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; the same names as bridge.launch.py."""
    parser.add_argument("--robot", choices=("sim", "widowx"), default="sim", help="simulated or real arm")
    parser.add_argument("--folder", type=Path, default=Path("robot"), help="spool, checkpoints, logs and results")
    parser.add_argument("--name", default="sim-0", help="robot name, as in its certificate")
    parser.add_argument("--domain", type=int, default=0, help="ROS_DOMAIN_ID")
    parser.add_argument("--namespace", default="", help="of every node, for several arms")
    parser.add_argument("--trainer", default="", help="address of the trainer, host:port; empty runs without a link")
    parser.add_argument("--identity", type=Path, help="identity folder from `gymnast enroll`")
    parser.add_argument("--policy", default="", help="checkpoint folder; empty takes the one last in force")
    parser.add_argument("--page", type=int, default=0, metavar="PORT",
                        help="serve the robot's own page on this machine, e.g. 8081 (default: none)")  # fmt: skip
    parser.add_argument("--paced", action="store_true", help="run the simulated arm at 5 Hz, for watching")


def run(args: argparse.Namespace, console: Console) -> int:
    """Start the graph and stay until Ctrl-C."""
    from gymnast_ros.bringup import GraphConfig, up

    config = GraphConfig(
        robot=args.robot, folder=args.folder, robot_name=args.name, domain_id=args.domain, namespace=args.namespace,
        trainer=args.trainer, identity=args.identity, policy=args.policy, paced=args.paced, page=args.page,
    )  # fmt: skip
    if args.page:
        if find_spec("fastapi") is None:
            raise ConfigError("the page needs a web server; pip install 'gymnast_ros[page]'")
        console.print(f"page at http://127.0.0.1:{args.page}; its token is in {args.folder / 'page' / 'token'}")
    console.print(
        f"starting the {args.robot} graph in domain {args.domain}; logs in {args.folder / 'logs'}; Ctrl-C stops it"
    )
    return up(config)
