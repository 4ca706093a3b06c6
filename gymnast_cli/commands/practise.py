"""`gymnast practise`: a started robot practises a task and what undoes it, in turns; nobody lays the scene."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from gymnast_cli.connect import add_robot_arguments, emit, robot, temperature, whole
from gymnast_core.errors import ConfigError
from gymnast_core.practice import MOST_HOURS
from gymnast_core.practice_status import PracticeStatus, practice_line
from gymnast_core.sampling import USUAL_TEMPERATURE

if TYPE_CHECKING:
    from gymnast_ros.nodes.client import GraphClient

ASKED = (
    "task",
    "reset",
    "hours",
    "episodes",
    "tries",
    "scene",
    "checkpoint",
    "sample",
    "temperature",
    "seed",
    "judge",
    "resume",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_robot_arguments(parser)
    parser.add_argument("--task", help="what is to be learned: an instruction, or a task's name")
    parser.add_argument("--reset", help="what undoes it, e.g. take for put, open for drawer, push_back for push")
    parser.add_argument("--hours", type=_hours, help=f"ends so long after it began, at most {MOST_HOURS:g}")
    parser.add_argument("--episodes", type=whole("practise", "episodes"), help="ends after so many, too (0: no limit)")
    parser.add_argument(
        "--tries", type=whole("practise", "tries"),
        help="failures in a row of one skill, then a person is called to lay the scene (default: so many that "
             "luck alone calls at most twice in 100 episodes, 8 at 30 %% success)",
    )  # fmt: skip
    parser.add_argument("--scene", help="look of the simulated world, or name of where the arm stands")
    parser.add_argument("--checkpoint", help="id in the robot's store (default: the one in force at each episode)")
    parser.add_argument("--sample", type=whole("practise", "sample"), metavar="SEED", help="of exploration; -1: greedy")
    parser.add_argument("--temperature", type=temperature, help="at which the policy explores "
                        f"(default {USUAL_TEMPERATURE:g}; its own where it cannot be given one)")  # fmt: skip
    parser.add_argument(
        "--seed", type=whole("practise", "seed"), help="of the start states, where the arm is simulated"
    )
    parser.add_argument("--judge", choices=("trainer", "simulator"), help="who watches (default: the simulator "
                        "where it labels episodes, else the trainer's judge)")  # fmt: skip
    parser.add_argument("--resume", help="a name of yours for the run: asked for again by it, it goes on")
    parser.add_argument("--detach", action="store_true", help="begin it and return; it goes on by itself")
    there = parser.add_mutually_exclusive_group()
    there.add_argument("--status", action="store_true", help="where the newest run is")
    there.add_argument("--stop", action="store_true", help="end it after the present step")
    there.add_argument(
        "--go-on", metavar="NAME", help="NAME has done what the run waits for: the arm moves again; at the robot"
    )
    parser.add_argument("--folder", type=Path, default=Path("robot"), help="the robot's, for --go-on (default: robot)")


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of hours") from None
    if not 0 < hours <= MOST_HOURS:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most {MOST_HOURS:g}, got {text}")
    return hours


def run(args: argparse.Namespace, console: Console) -> int:
    """Begin a run and follow it, or show, end or answer the newest one."""
    with robot(args, args.folder if args.go_on else None) as client:
        if args.status:
            return _shown(args, console, client.practice)
        if args.stop:
            return _stop(args, console, client)
        if args.go_on:
            said = client.go_on_practising(args.go_on)
            emit(args, console, {"answered": said}, said)
            return 0
        return _practise(args, console, client)


def _practise(args: argparse.Namespace, console: Console, client: GraphClient) -> int:
    from gymnast_cli.stages import Stages

    missing = [f"--{name}" for name in ("task", "reset", "hours") if getattr(args, name) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)} missing; e.g. gymnast practise --task put --reset take --hours 3")
    asked = {name: getattr(args, name) for name in ASKED if getattr(args, name) is not None}
    if args.detach:
        run_id = client.begin_practice(**asked)
        emit(args, console, {"run": run_id}, f"{run_id} has begun; see gymnast practise --status")
        return 0
    try:
        with Stages(console) as stages, stages.stage("practise") as advance:
            result = client.practise(progress=_following(advance), **asked)["practice"]
    except KeyboardInterrupt:
        console.print("it goes on without us: gymnast practise --status, or --stop to end it")
        raise
    return _shown(args, console, result)


def _following(advance: Callable[[int, int, str], None]) -> Callable[[PracticeStatus], None]:
    def show(status: PracticeStatus) -> None:
        advance(status["episodes"], 0, practice_line(status))

    return show


def _stop(args: argparse.Namespace, console: Console, client: GraphClient) -> int:
    practice = client.practice
    if practice is None or practice["state"] == "ended":
        raise ConfigError("no practice is under way on this robot")
    client.cancel()
    emit(args, console, {"stopped": practice["run"]}, "it ends after the present step")
    return 0


def _shown(args: argparse.Namespace, console: Console, status: PracticeStatus | None) -> int:
    emit(args, console, status or {}, practice_line(status) if status else "this robot has not practised yet")
    return 0
