"""systemd hears that a service is ready, alive and ending: on a real socket, from a real trainer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gymnast_core.supervised import Supervised
from tests.journeys.hosts import GYMNAST

PATIENCE_S = 120.0


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(PATIENCE_S)
        yield listening


def drain(manager: socket.socket) -> None:
    """Take what was sent, until nothing comes for the socket's time limit."""
    for _ in range(1000):
        try:
            manager.recv(64)
        except TimeoutError:
            return
    raise AssertionError("it still gives signs of life")


def test_signs_of_life_come_twice_as_often_as_they_are_waited_for(manager: socket.socket) -> None:
    service = Supervised({"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "7200000000"})
    assert service.every_s == 3600.0
    service.ready()
    for _ in range(3):
        service.alive()  # called from a fast loop: once is enough for an hour
    service.stopping()
    assert [manager.recv(64) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"STOPPING=1"]


def test_an_abstract_socket_is_reached() -> None:
    name = f"gymnast-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name)
        Supervised({"NOTIFY_SOCKET": f"@{name}"}).ready()
        assert listening.recv(64) == b"READY=1"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": "1000000"},
        {"NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
    ],
)
def test_where_nobody_waits_nothing_is_sent_and_nothing_fails(environment: dict[str, str]) -> None:
    service = Supervised(environment)
    assert service.every_s is None
    service.ready(), service.alive(), service.stopping()


def test_a_trainer_gives_signs_of_life_until_it_is_stopped(manager: socket.socket, tmp_path: Path) -> None:
    environment = {**os.environ, "NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "200000"}
    environment |= {"GYMNAST_SERVE_FOLDER": str(tmp_path / "trainer"), "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("wb") as log:
        serving = subprocess.Popen([GYMNAST, "serve", "--no-console"], env=environment, stdout=log, stderr=log)
    try:
        assert manager.recv(64) == b"READY=1", (tmp_path / "log").read_text()
        assert [manager.recv(64) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        serving.send_signal(signal.SIGSTOP)  # it hangs: what was sent before is all there is
        manager.settimeout(1.0)
        drain(manager)
        serving.send_signal(signal.SIGCONT)
        manager.settimeout(PATIENCE_S)
        serving.terminate()
        while (said := manager.recv(64)) != b"STOPPING=1":
            assert said == b"WATCHDOG=1"
        assert serving.wait(PATIENCE_S) == 0
    finally:
        serving.kill()
        serving.wait(PATIENCE_S)
