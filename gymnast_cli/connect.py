"""How a command reaches a started robot, a trainer, or a trainer's folder: the same flags everywhere."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from gymnast_core.errors import ConfigError
from gymnast_core.sampling import MOST_TEMPERATURE

if TYPE_CHECKING:
    from gymnast_client import Trainer
    from gymnast_core.wire.identity import Identity
    from gymnast_ros.nodes.client import GraphClient

TRAINER_VARIABLE, IDENTITY_VARIABLE = "GYMNAST_TRAINER", "GYMNAST_IDENTITY"


def add_robot_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --domain, --namespace and --wait-s."""
    parser.add_argument("--domain", type=int, help="ROS_DOMAIN_ID of the robot (default: the environment's)")
    parser.add_argument("--namespace", default="", help="of the robot's nodes")
    parser.add_argument("--wait-s", type=float, default=30.0, help="how long to wait for the robot to answer")


def add_trainer_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --trainer, --identity and --insecure."""
    parser.add_argument(
        "--trainer",
        default=os.environ.get(TRAINER_VARIABLE, ""),
        help=f"address, host:port (default: ${TRAINER_VARIABLE})",
    )
    parser.add_argument(
        "--identity",
        type=Path,
        default=_environment_path(IDENTITY_VARIABLE),
        help=f"folder from `gymnast enroll` (default: ${IDENTITY_VARIABLE})",
    )
    parser.add_argument("--insecure", action="store_true", help="no TLS: for a closed test bench only")


def robot(args: argparse.Namespace, folder: Path | None = None) -> GraphClient:
    """Connect to the started robot and wait until its nodes answer.

    Args:
        args: of add_robot_arguments.
        folder: of the robot on this machine, needed to re-arm it.

    Raises:
        ConfigError: ROS 2 is not installed.
        RobotSilentError: no robot in this domain.
    """
    try:
        from gymnast_ros.nodes.client import GraphClient
    except ImportError as error:
        raise ConfigError(
            f"{error}: ROS 2 is missing; source its setup.bash, or pip install 'gymnast_ros[ros]'"
        ) from error
    client = GraphClient(domain_id=args.domain, namespace=args.namespace, folder=folder)
    try:
        client.wait_ready(timeout_s=args.wait_s)
    except BaseException:
        client.close()
        raise
    return client


def trainer(args: argparse.Namespace) -> Trainer:
    """Connect to the trainer; the certificate is the login.

    Raises:
        ConfigError: no address, or no identity.
    """
    from gymnast_client import Trainer

    address, identity = peer(args)
    return Trainer(address, identity, insecure=args.insecure)


def peer(args: argparse.Namespace) -> tuple[str, Identity | None]:
    """The trainer's address and our identity; None with --insecure.

    Raises:
        ConfigError: no address, or no identity.
    """
    from gymnast_core.wire.identity import Identity

    if not args.trainer:
        raise ConfigError(
            f"which trainer? give --trainer HOST:PORT, or set {TRAINER_VARIABLE}; `gymnast serve` starts one here"
        )
    if args.insecure:
        return args.trainer, None
    if args.identity is None:
        raise ConfigError(f"who is asking? give --identity FOLDER (`gymnast enroll NAME`), or set {IDENTITY_VARIABLE}")
    return args.trainer, Identity.load(args.identity)


def checkpoint_on_robot(client: GraphClient, name: str) -> str:
    """What the rollout node opens for "current", "staged", a checkpoint id, or a folder on this machine.

    Raises:
        ConfigError: nothing is staged.
    """
    if name in ("current", ""):
        return ""
    if name == "staged":
        staged = client.staged
        if not staged:
            raise ConfigError("nothing is staged on this robot; offer it a checkpoint first: gymnast weights publish")
        return staged
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def whole(operation: str, argument: str) -> Callable[[str], int]:
    """Return the parser of a whole number that a robot takes as this argument of a request; looked up when it is used.

    Args:
        operation: key of gymnast_ros.run.requests.KINDS.
        argument: its field.
    """

    def parse(text: str) -> int:
        from gymnast_ros.run.codec import bounds
        from gymnast_ros.run.requests import KINDS

        _, low, high = bounds(KINDS[operation], argument)
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if (low is not None and value < low) or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"must be {low} to {high}, got {value}")
        return value

    return parse


def temperature(text: str) -> float:
    """Parse a temperature to sample a policy at."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 < value <= MOST_TEMPERATURE:  # NaN is not above anything
        raise argparse.ArgumentTypeError(f"must be above 0 and at most {MOST_TEMPERATURE:g}, got {text}")
    return value


def task_list(text: str) -> list[str]:
    """Split "lift,push"; an instruction with spaces is one task."""
    tasks = [part.strip() for part in text.split(",") if part.strip()]
    if not tasks:
        raise argparse.ArgumentTypeError("name at least one task, e.g. lift,push")
    return tasks


def add_override_argument(parser: argparse.ArgumentParser) -> None:
    """Declare --override, repeatable: (bound, reason) pairs."""
    parser.add_argument(
        "--override", nargs="+", action="extend", default=[], type=_override, metavar="BOUND=REASON",
        help="ignore a bound of the trust check, and why; may be repeated",
    )  # fmt: skip


def _override(text: str) -> tuple[str, str]:
    name, _, reason = text.partition("=")
    if not name.strip() or not reason.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is no BOUND=REASON: name the bound, and say why it may be ignored")
    return name.strip(), reason.strip()


def json_argument(text: str) -> dict[str, object]:
    """Parse a JSON object, or the file named by @FILE."""
    try:
        value = json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object nor @FILE with one: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} must be a JSON object, e.g. '{{\"seed\": 1}}'")
    return value


def emit(args: argparse.Namespace, console: Console, value: Mapping[str, Any], text: Any) -> None:
    """Print a result: one JSON line with --json, else what a person reads."""
    if args.json:
        print(json.dumps(value, default=str))
    else:
        console.print(text, soft_wrap=isinstance(text, (str, Text)))


def finite(value: Any) -> Any:
    """Return JSON values with null for what is no number: NaN is no JSON."""
    if isinstance(value, Mapping):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _environment_path(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None
