"""From an offer to the arm by the second simulator: `gymnast serve`, `gymnast up --gate required`, `operate offer`.

Trainer and robot are two hosts (mutual TLS), the arm is the simulated one, the gate runs in a worker of the trainer.
The robot begins with a policy that reaches 2 cm beside; the shipped one is better, and one that shakes is not let out.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gymnast_core.policies import load_policy
from gymnast_core.policies.compact import CompactPolicy
from gymnast_core.records.manifest import read_manifest
from tests.journeys.hosts import Hosts, Started
from tests.journeys.lab import wait_until

pytest.importorskip("rclpy")
pytest.importorskip("pybullet")
pytestmark = pytest.mark.slow
SHIPPED = Path(__file__).parents[2] / "checkpoints" / "policy"
TRAINER, PAGE = "trainer.lab:50051", "8600"
LONG_S = 900.0
BOLD_RED = "\x1b[1;31m"
WHY = "nobody is near, I want to see it shake"
READ = """
import http.cookiejar, sys, urllib.parse, urllib.request
url, token, path = sys.argv[1:]
jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), jar)
opener.open(url + "/login", urllib.parse.urlencode({"token": token}).encode(), timeout=300).read()
print(opener.open(url + path, timeout=300).read().decode())
"""


def shifted(folder: Path, offsets_KA: list[tuple[float, float, float]]) -> str:
    """The shipped policy with its moves shifted, step by step of its chunk [m]; returns its id."""
    policy = load_policy(SHIPPED)
    assert isinstance(policy, CompactPolicy)
    config, bins, head = policy.config, policy.action_bins, policy.network.head
    width_A = (bins.high_A - bins.low_A) / config.bins
    for tensor in (head.weight.data, head.bias.data):
        rows = tensor.view(config.chunk_length, 7, config.bins, -1)
        for step, offset_A in enumerate(offsets_KA):
            for axis, metres in enumerate(offset_A):
                rows[step, axis] = rows[step, axis].roll(round(metres / width_A[axis]), 0)
    return policy.save(folder, parents=(policy.version,)).id


@dataclass
class Lab:
    """Both hosts, and the commands that an administrator types on the trainer's."""

    hosts: Hosts
    folder: Path
    up: Started | None = None

    def root(self, *words: str, code: int = 0) -> Any:
        """What a command printed with --json."""
        more = ("--trainer", TRAINER, "--identity", "identities/root")
        done = self.hosts.trainer.run("--json", *words, *more, cwd=self.folder, timeout_s=LONG_S)
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return json.loads(done.stdout.splitlines()[-1])

    def terminal(self, *words: str) -> str:
        """What it shows a person."""
        more = ("--trainer", TRAINER, "--identity", "identities/root")
        done = self.hosts.trainer.run(
            *words, *more, cwd=self.folder, timeout_s=LONG_S, env={"COLUMNS": "400", "FORCE_COLOR": "1"}
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def robot(self) -> dict[str, Any]:
        """The row of sim-0 in `gymnast operate robots`; empty before it reports."""
        return next(iter(self.root("operate", "robots")["robots"]), {})

    def runs(self) -> str:
        """Id of what sim-0 says it runs; empty before it reports."""
        words = self.robot().get("words") or {}
        return str((words.get("runs") or {}).get("checkpoint_id", ""))

    def page(self, host: str, url: str, token: str, path: str = "/") -> str:
        """A page, read in a browser on the machine that serves it."""
        at = self.hosts.trainer if host == "trainer" else self.hosts.robot
        done = at.shell(sys.executable, "-c", READ, url, token, path, timeout_s=LONG_S)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def releases(self) -> list[dict[str, Any]]:
        return list(self.root("weights", "list")["releases"])


@pytest.fixture(scope="module")
def lab(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(hosts, tmp_path_factory.mktemp("gated"))
    served = ("--host", "::", "--port", "50051", "--name", "trainer.lab", "--console-port", PAGE, "--port-file", "port")
    serve = hosts.trainer.start("serve", "--folder", "trainer", *served, cwd=made.folder)
    serve.wait_until((made.folder / "port").is_file, "trainer", LONG_S)
    for name, role in (("sim-0", "robot"), ("root", "admin")):
        done = hosts.trainer.run(
            "enroll", name, "--role", role, "--ca", "trainer/ca", cwd=made.folder, timeout_s=LONG_S
        )
        assert done.returncode == 0, done.stderr
    yield made
    for started in (made.up, serve):
        if started is not None:
            started.stop(signal.SIGINT, LONG_S)


def test_only_what_passed_the_gate_reaches_the_arm_and_an_override_is_red(lab: Lab) -> None:
    beside = shifted(lab.folder / "base", [(0.0, -0.02, 0.0)] * 5)
    shaky = shifted(lab.folder / "shaky", [((-1) ** step * 0.012,) * 3 for step in range(5)])
    good = read_manifest(SHIPPED).id
    lab.root("weights", "publish", "shaky", "--robot", "sim-0")  # no robot has said yet that it asks for a record
    assert "gate" not in lab.releases()[-1]

    words = ("--robot", "sim", "--name", "sim-0", "--trainer", TRAINER, "--identity", "identities/sim-0", "--orders")
    lab.up = lab.hosts.robot.start("up", *words, "--policy", "base", "--gate", "required", "--page", "8081",
                                   env={"MUJOCO_GL": "egl"}, cwd=lab.folder)  # fmt: skip
    refused = wait_until(lambda: (lab.robot().get("words") or {}).get("refused"), "the robot to refuse it", LONG_S)
    assert [word["checkpoint_id"] for word in refused] == [shaky]
    assert "without a gate record, which this robot requires" in refused[0]["reason"]
    assert lab.robot()["words"]["runs"]["checkpoint_id"] == beside

    before = lab.releases()
    lab.root("weights", "publish", "base", "--robot", "sim-0")  # what it runs, so that the gate has it to hold against
    said = lab.root("operate", "offer", shaky, "--robot", "sim-0", "--wait", code=3)
    assert "back and forth" in said["gates"][0]
    assert len(lab.releases()) == len(before) + 1, "nothing more was released"

    said = lab.root("operate", "offer", good, "--robot", "sim-0", "--wait")
    [record] = [row for row in lab.root("operate", "gates", good)["gates"] if row["decision"] == "passed"]
    assert said["gates"][0].startswith(f"{record['id']} passed")
    assert lab.releases()[-1]["gate"]["record"] == record["id"]
    lab.root("weights", "rollback", good, "--robot", "sim-0", "--reason", "it passed")  # an order asks for no trial
    wait_until(lambda: lab.robot()["words"]["runs"]["checkpoint_id"] == good, "the robot to run it", LONG_S)
    assert (lab.robot()["gate"]["how"], lab.robot()["gate"]["record"]) == ("passed", record["id"])

    lab.root("weights", "rollback", shaky, "--robot", "sim-0", "--reason", "to look at", "--override-gate", WHY)
    wait_until(lambda: lab.robot()["words"]["runs"]["checkpoint_id"] == shaky, "the robot to run it", LONG_S)
    wait_until(lambda: lab.robot()["gate"]["how"] == "override", "its word of the override", LONG_S)
    assert (lab.robot()["gate"]["by"], lab.robot()["gate"]["reason"]) == ("root", WHY)
    assert f"{BOLD_RED}OVERRIDDEN by root: {WHY.split()[0]}" in lab.terminal("operate", "robots"), "wrapped further on"
    login = lab.root("console")
    mine = (lab.folder / "robot" / "page" / "token").read_text().strip()
    red = f'<span class="tag failure">gate overridden</span> <span class="bad">by root: {WHY}</span>'
    assert red in lab.page("trainer", login["address"], login["token"])
    assert red in lab.page("robot", "http://127.0.0.1:8081", mine)
