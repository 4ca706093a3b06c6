"""`gymnast serve`: the trainer."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from gymnast_cli.connect import json_argument
from gymnast_core.job import REACHES
from gymnast_core.shipped import shipped_checkpoints

if TYPE_CHECKING:
    from cloud_trainer.app import AppConfig, OpenpiConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from gymnast_cli import service_flags

    service_flags.add_arguments(parser)
    parser.add_argument("--checkpoints", type=Path, default=shipped_checkpoints(), metavar="FOLDER",
                        help="with policy/, world_model/ and judge/ to know from the start (default: the shipped ones)"
                        )  # fmt: skip
    parser.add_argument("--import", dest="imports", type=Path, action="append", default=[], metavar="CHECKPOINT",
                        help="checkpoint folder to know beside them; may be repeated")  # fmt: skip
    parser.add_argument("--policy", type=Path, metavar="CHECKPOINT|FILE",
                        help="run it for robots without a GPU: gymnast up --policy remote:HOST:PORT; a file names a "
                        "planner, its judge and how many plans it chooses from")  # fmt: skip
    parser.add_argument("--policy-device", default="auto", help="auto takes a GPU if there is one; cpu, cuda, cuda:N")
    parser.add_argument("--judge", type=Path, metavar="CHECKPOINT|FILE",
                        help="let it judge real episodes, and label those of tasks and scenes on which its precision "
                        "is proven by operators' labels: gymnast up --judge auto (default: none)")  # fmt: skip
    parser.add_argument("--judge-floor", type=float, default=0.9, metavar="SHARE",
                        help="lower bound that proves its precision (default 0.9)")  # fmt: skip
    _add_openpi_arguments(parser)
    parser.add_argument("--console-host", default="127.0.0.1", help="address of the operator's page (default: this "
                        "machine only, over HTTP; any other over HTTPS, where certificates are logins)")  # fmt: skip
    parser.add_argument("--console-port", type=int, default=8600, help="0 takes a free one (default 8600)")
    parser.add_argument("--no-console", action="store_true", help="serve no page")
    parser.add_argument("--jobs-may", action="append", default=[], choices=REACHES,
                        help="let jobs name judges (addresses, folders and key variables), plug-ins (Python code) or a "
                        "ray cluster in their configuration; whoever may submit a job, robots too, then reads and runs "
                        "what this process can. May be repeated (default: none)")  # fmt: skip
    _add_arm_arguments(parser)
    parser.add_argument("--tensorboard", type=Path, metavar="FOLDER", help="keep the curves of every job there as "
                        "event files: tensorboard --logdir FOLDER (default: the page's curves alone)")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="torch threads of a training job (default 1)")
    parser.add_argument("--job-memory-gib", type=float, metavar="GIB", help="a job that uses more memory fails "
                        "(default: half of what this machine, or its container, has)")  # fmt: skip


def _add_openpi_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how the policy is served to openpi's clients."""
    parser.add_argument("--openpi-port", type=int, metavar="N", help="serve the policy of --policy to openpi's "
                        "clients, too, on this port; 0 takes a free one (default: not)")  # fmt: skip
    parser.add_argument("--openpi-host", default="127.0.0.1", metavar="HOST", help="address of that port (default: "
                        "this machine only; any other over TLS, with the trainer's certificate, and with "
                        "--openpi-token)")  # fmt: skip
    parser.add_argument("--openpi-keys", default="libero", metavar="STYLE|FILE", help="keys of the clients: libero, "
                        "droid, aloha, or a YAML file (default libero)")  # fmt: skip
    parser.add_argument("--openpi-token", type=Path, metavar="FILE", help="clients show the token in this file as "
                        "header Authorization: Api-Key TOKEN")  # fmt: skip


def _add_arm_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the page's adaptations are like."""
    parser.add_argument(
        "--robot-scene", default="standard", metavar="NAME", help="where robots stand whose adaptation names no scene"
    )
    parser.add_argument(
        "--adapt-config", type=json_argument, default={}, metavar="JSON|@FILE", help="of the page's adaptation jobs"
    )
    parser.add_argument(
        "--canary-pairs", type=int, default=0, metavar="N", help="of the page's canaries, at most (default: the rule's)"
    )
    parser.add_argument(
        "--guard-pairs", type=int, metavar="N",
        help="of each other task, to look for harm after a canary is won (default: the rule's; 0 looks at none)",
    )  # fmt: skip
    parser.add_argument(
        "--price-per-hour", type=float, default=0.0, metavar="MONEY",
        help="of training on this machine; the page then takes budgets in money",
    )  # fmt: skip


def run(args: argparse.Namespace, console: Console) -> int:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        ConfigError: another trainer runs on the folder, or a setting makes no sense.
        GymnastError: a port is taken.
    """
    from cloud_trainer.app import App, stop_signals
    from gymnast_core.supervised import Supervised

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    stop = stop_signals()
    app = App(app_config(args))
    console.print(f"trainer in {args.folder}; Ctrl-C stops it")
    with app:
        if app.policy_version:
            console.print(f"running {app.policy_version} for robots: gymnast up --policy remote:HOST:PORT")
        if app.judge_version:
            console.print(f"judging episodes by {app.judge_version} where it is proven: gymnast judge precision")
        if app.openpi is not None:
            console.print(f"and for openpi's clients at {app.openpi.address}; --openpi-keys {args.openpi_keys}")
        if app.page is not None:
            console.print(f"operator's page at {app.page.address}; `gymnast console` gives a token for it")
        supervised = Supervised()
        supervised.ready()
        while not stop.wait(supervised.every_s):
            app.look()  # hangs where the database does, and then no sign of life is given
            supervised.alive()
        supervised.stopping()
    return 0


def app_config(args: argparse.Namespace) -> AppConfig:
    """Return the trainer that the arguments describe.

    Raises:
        ConfigError: a value makes no sense; the message names it.
    """
    from cloud_trainer.app import AppConfig, Arms, at_hand
    from gymnast_cli.service_flags import config_from
    from gymnast_core.evaluation.sequential import HarmRule

    guard_pairs = HarmRule.pairs if args.guard_pairs is None else args.guard_pairs
    return AppConfig(
        config_from(args), imports=(*at_hand(args.checkpoints), *args.imports), policy=args.policy,
        policy_device=args.policy_device, judge=args.judge, judge_floor=args.judge_floor,
        openpi=_openpi(args), console=not args.no_console,
        console_host=args.console_host, console_port=args.console_port, jobs_may=tuple(args.jobs_may),
        arms=Arms(args.robot_scene, args.adapt_config, args.canary_pairs, guard_pairs, args.price_per_hour),
        threads=args.threads, job_memory_gib=args.job_memory_gib, tensorboard=args.tensorboard,
    )  # fmt: skip


def _openpi(args: argparse.Namespace) -> OpenpiConfig | None:
    """Where openpi's clients are served, if they are."""
    from cloud_trainer.app import OpenpiConfig
    from gymnast_core.wire.openpi.keys import Keys, read_keys

    if args.openpi_port is None:
        return None
    return OpenpiConfig(args.openpi_port, read_keys(args.openpi_keys, Keys), args.openpi_host, args.openpi_token)
