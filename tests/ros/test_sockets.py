"""A node's DDS sockets have room for pictures, the user's own choice stands, and a kernel that grants less is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gymnast_cli.main import main
from gymnast_core.episodes.spool import Spool
from gymnast_ros import sockets
from gymnast_ros.processes import PROFILES, TRANSPORTS, environment
from gymnast_ros.sockets import LIMIT, RECEIVE_BUFFER_BYTES, examine_sockets

NODE = """
import os, socket, rclpy
rclpy.init()
node = rclpy.create_node("roomy")
sizes = []
for name in os.listdir("/proc/self/fd"):
    try:
        with socket.socket(fileno=os.dup(int(name))) as found:
            if found.type == socket.SOCK_DGRAM and found.family == socket.AF_INET:
                sizes.append(found.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
    except OSError:
        continue
print(max(sizes))
"""
"""Linux tells twice what was granted: the other half is its own accounting."""


def largest_buffer(domain_id: int, **users: str) -> int:
    """Of a node that is started as ours are, by a user with these variables [bytes]."""
    clean = {name: value for name, value in os.environ.items() if name not in (TRANSPORTS, PROFILES)} | users
    values = clean | environment(clean) | {"ROS_DOMAIN_ID": str(domain_id)}
    done = subprocess.run([sys.executable, "-c", NODE], env=values, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_node_asks_for_room_and_gets_what_the_kernel_grants(domain_id: int) -> None:
    granted = min(RECEIVE_BUFFER_BYTES, int(LIMIT.read_text()))
    assert largest_buffer(domain_id) == 2 * granted


def test_a_request_beyond_the_kernels_limit_is_cut_down_and_the_node_runs(domain_id: int, tmp_path: Path) -> None:
    beyond = 8 * int(LIMIT.read_text())
    profile = tmp_path / "beyond.xml"
    profile.write_text(sockets.PROFILE.read_text().replace(str(RECEIVE_BUFFER_BYTES), str(beyond)))
    assert largest_buffer(domain_id, **{PROFILES: str(profile)}) == 2 * int(LIMIT.read_text())


def test_another_choice_of_transports_is_the_users() -> None:
    assert environment({})[PROFILES] == environment({TRANSPORTS: "UDPv4"})[PROFILES] == str(sockets.PROFILE)
    assert environment({PROFILES: "/mine.xml"})[PROFILES] == "/mine.xml"
    assert PROFILES not in environment({TRANSPORTS: "LARGE_DATA"})


@pytest.mark.parametrize(("limit", "state"), [(RECEIVE_BUFFER_BYTES, "ok"), (212_992, "warning")])
def test_doctor_names_a_limit_below_what_is_asked_for_and_the_way_out(
    limit: int, state: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Spool(tmp_path / "robot" / "spool")
    (tmp_path / "rmem_max").write_text(f"{limit}\n")
    monkeypatch.setattr(sockets.examine_sockets, "__defaults__", (tmp_path / "rmem_max",))
    assert main(["--json", "doctor", "--robot", str(tmp_path / "robot")]) == 0
    *_, found = map(json.loads, capsys.readouterr().out.splitlines())
    assert (found["check"], found["state"]) == ("sockets", state)
    assert ("net.core.rmem_max=2097152" in found["remedy"]) is (state == "warning")


def test_where_the_limit_cannot_be_read_nothing_is_said(tmp_path: Path) -> None:
    assert examine_sockets(tmp_path / "missing") is None
