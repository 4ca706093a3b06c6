"""Real node processes, each test module in a DDS domain of its own."""

from __future__ import annotations

import fcntl
import importlib
import itertools
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy")
with warnings.catch_warnings():  # the wheels' message generator imports lark, which imports a deprecated module
    warnings.simplefilter("ignore", DeprecationWarning)
    importlib.import_module("rosidl_generator_py")

from gymnast_ros.bringup import Graph, GraphConfig  # noqa: E402
from gymnast_ros.keyring import Keyring, folder_of  # noqa: E402
from gymnast_ros.nodes.client import GraphClient  # noqa: E402

os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

_DOMAINS = itertools.count(1 + os.getpid() % 80)
_LOCKS: list[int] = []
"""Held until this process ends: one file per domain, so that two test runs on one machine never hear each other."""


def wait_until(ready: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Wait for a condition with a deadline."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def domain_id() -> int:
    """Nobody else's; 101 is the last one without a system-wide port clash on Linux."""
    for _ in range(100):
        domain = 1 + next(_DOMAINS) % 89  # benchmarks use 90 and above
        lock = os.open(Path(tempfile.gettempdir()) / f"gymnast-domain-{domain}.lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        _LOCKS.append(lock)
        return domain
    raise RuntimeError("every ROS domain is taken by another test run")


@pytest.fixture(scope="module")
def graph(domain_id: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    """Simulated arm, gate and rollout, running."""
    config = GraphConfig(folder=tmp_path_factory.mktemp("robot"), domain_id=domain_id)
    with Graph(config) as running:
        yield running


@pytest.fixture(scope="module")
def client(graph: Graph, domain_id: int) -> Iterator[GraphClient]:
    """Talks to it."""
    with GraphClient(domain_id=domain_id, folder=graph.config.folder) as connected:
        connected.wait_ready(120.0)
        yield connected


@pytest.fixture(scope="module")
def keyring(graph: Graph) -> Keyring:
    """Of the running graph."""
    return Keyring.load(folder_of(graph.config.folder))


@pytest.fixture(scope="module")
def context(domain_id: int) -> Iterator[object]:
    """A ROS context in the domain."""
    own = rclpy.Context()
    rclpy.init(context=own, domain_id=domain_id)
    yield own
    own.try_shutdown()


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Callable[[object], str]:
    """Writes actions to a file and returns the policy name that plays them."""
    folder: Path = tmp_path_factory.mktemp("actions")
    numbers = itertools.count()

    def write(actions_TA: object) -> str:
        import json

        import numpy as np

        path = folder / f"actions{next(numbers)}.json"
        path.write_text(json.dumps(np.asarray(actions_TA, np.float32).tolist()))
        return f"replay:{path}"

    return write
