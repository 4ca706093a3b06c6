"""The operator's page and a robot on the same network: what `gymnast serve --robot NAME=DOMAIN` adds.

Test-time training from the page drives the arm (start frames, canary), so the trainer must reach the robot's nodes.
It does where both share a machine or a DDS network. Everywhere else the same training is started at the robot, with
`gymnast ttt` or its service rollout/test_time_train, over the connection that the robot itself keeps open.
"""

from __future__ import annotations

import argparse
import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gymnast_cli.connect import json_argument
from gymnast_core.errors import ConfigError

if TYPE_CHECKING:
    from cloud_trainer.jobs.shelf import Shelf
    from cloud_trainer.service import Service
    from gymnast_cli.scene_engine import SceneEngine
    from gymnast_ros.nodes.client import GraphClient

WAIT_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what of a robot nearby the page may use."""
    parser.add_argument(
        "--robot",
        action="append",
        default=[],
        metavar="NAME=DOMAIN",
        help="a robot in reach of this machine's ROS 2 network, which the page may adapt to its scene; may be repeated",
    )
    parser.add_argument("--robot-scene", default="standard", metavar="NAME", help="where these robots stand")
    parser.add_argument(
        "--adapt-config", type=json_argument, default={}, metavar="JSON|@FILE", help="of the page's adaptation jobs"
    )
    parser.add_argument(
        "--canary-pairs", type=int, default=0, metavar="N", help="of the page's canaries, at most (default: the rule's)"
    )
    parser.add_argument(
        "--price-per-hour", type=float, default=0.0, metavar="MONEY",
        help="of training on this machine; the page then takes budgets in money",
    )  # fmt: skip


class RobotLine:
    """A robot's graph, used by one thread at a time.

    Args:
        client: connected and ready.
    """

    def __init__(self, client: GraphClient) -> None:
        self._client, self._lock = client, threading.RLock()

    @property
    def policy_version(self) -> str:
        """Checkpoint in force."""
        with self._lock:
            return self._client.policy_version

    def evaluate(self, **asked: Any) -> dict[str, Any]:
        """See GraphClient."""
        with self._lock:
            return self._client.evaluate(**asked)

    def run_episode(self, **asked: Any) -> dict[str, Any]:
        """See GraphClient."""
        with self._lock:
            return self._client.run_episode(**asked)

    def flush(self, timeout_s: float) -> None:
        """See GraphClient."""
        with self._lock:
            self._client.flush(timeout_s)

    def wait_staged(self, checkpoint_ids: Sequence[str], timeout_s: float) -> None:
        """See GraphClient."""
        with self._lock:
            self._client.wait_staged(checkpoint_ids, timeout_s)

    def swap(self, checkpoint_id: str) -> str:
        """See GraphClient."""
        with self._lock:
            return self._client.swap(checkpoint_id)

    def rollback(self) -> str:
        """See GraphClient."""
        with self._lock:
            return self._client.rollback()

    def close(self) -> None:
        """Leave the graph."""
        with self._lock:
            self._client.close()


class RobotLines:
    """Connects to robots when they are first asked for.

    Args:
        domains: name -> ROS_DOMAIN_ID.
    """

    def __init__(self, domains: Mapping[str, int]) -> None:
        self._domains, self._lock = dict(domains), threading.Lock()
        self._lines: dict[str, RobotLine] = {}

    def connect(self, name: str) -> RobotLine:
        """Return a robot's line.

        Raises:
            ConfigError: this trainer was not told where the robot is.
            RobotSilentError: it does not answer.
        """
        if name not in self._domains:
            raise ConfigError(
                f"this trainer does not reach {name!r}, only {', '.join(sorted(self._domains))}; adapt it at the robot "
                "with `gymnast ttt`, or start the trainer with --robot NAME=DOMAIN on the robot's network"
            )
        with self._lock:
            if name not in self._lines:
                self._lines[name] = _connect(self._domains[name])
            return self._lines[name]

    def close(self) -> None:
        """Leave every graph."""
        for line in self._lines.values():
            line.close()


def _connect(domain: int) -> RobotLine:
    try:
        from gymnast_ros.nodes.client import GraphClient
    except ImportError as error:
        raise ConfigError(f"{error}: ROS 2 is missing here; source its setup.bash, or leave --robot out") from error
    client = GraphClient(domain_id=domain)
    try:
        client.wait_ready(timeout_s=WAIT_S)
    except BaseException:
        client.close()
        raise
    return RobotLine(client)


@contextlib.contextmanager
def engine_for(service: Service, args: argparse.Namespace, shelf: Shelf) -> Iterator[SceneEngine | None]:
    """What computes behind the page's adaptations; None where this trainer was told of no robot.

    Raises:
        ConfigError: --robot is not NAME=DOMAIN.
        CheckpointError: the trainer has no world model or judge.
    """
    domains = dict(_domain_of(text) for text in args.robot)
    if not domains:
        yield None
        return
    from gymnast_cli.scene_engine import SceneEngine
    from gymnast_core.scene import SceneBook
    from gymnast_core.sequential import SequentialRule

    for kind in ("world_model", "judge"):
        shelf.newest(kind)
    lines = RobotLines(domains)
    rule = SequentialRule(max_pairs=args.canary_pairs) if args.canary_pairs else SequentialRule()
    try:
        yield SceneEngine(
            connect=lines.connect, jobs=service.jobs, catalogue=service.episodes, shelf=shelf,
            book=SceneBook(args.folder / "console" / "scenes.json"), scene=args.robot_scene, config=args.adapt_config,
            rule=rule, price_per_hour=args.price_per_hour,
        )  # fmt: skip
    finally:
        lines.close()


def _domain_of(text: str) -> tuple[str, int]:
    name, _, domain = text.partition("=")
    if not name or not domain.isdigit() or not 0 <= int(domain) <= 232:
        raise ConfigError(f"--robot {text!r} is not NAME=DOMAIN, e.g. --robot sim-0=7 (ROS_DOMAIN_ID 0..232)")
    return name, int(domain)
