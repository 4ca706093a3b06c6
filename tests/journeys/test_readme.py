"""The README's tour, every line in order, in a fresh folder on the machine it is meant for, as a newcomer types it.

Lines that take an hour run smaller (SMALLER), a placeholder becomes what the walk itself made, and a section that this
walk leaves out is named with the reason (ELSEWHERE). A line the README gains is run from that day on.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.hosts import Host, Hosts, Started

ROOT = Path(__file__).parents[2]
WALKED = "The pieces, one by one"
ELSEWHERE = {
    "See it work": "make demo and make test: .ci/run runs the first one small, and this is the second",
    "A night without people": "tests/bridge/test_queue.py, test_judging.py, test_pages.py and tests/practice; "
    "hours of it are benchmarks/practice.py",
    "On the robot": "ros2 commands: tests/ros asks them of running graphs; test_launched_graph.py launches",
    "On a cluster": "needs several machines; tests/cloud/test_ray_backend.py runs Ray on this one",
}
ADAPT = '{"groups": 2, "group_size": 4, "grpo_iterations": 1, "forgetting_starts": 2}'
SMALLER = {
    "gymnast serve": ["--adapt-config", f"'{ADAPT}'", "--canary-pairs", "2", "--guard-pairs", "1"],
    "gymnast evaluate": ["--count", "2"],
    "gymnast ttt": ["--yes", "--rollouts", "8", "--collect", "20"],
}
"""Arguments that come last win."""
LOOP = {
    "rounds = 3": "rounds = 1", 'tasks = ["lift", "push", "put", "drawer"]': 'tasks = ["lift"]',
    "collect = [150, 100, 75]": "collect = [6]", "grpo_iterations = [10, 8, 6]": "grpo_iterations = [1]",
    "choosing = 25": "choosing = 2", "evaluation = 50": "evaluation = 2",
    "candidate_every = 5": "candidate_every = 1\nrefine_iterations = 2\njudge_iterations = 2\ngroups = 2\n"
    "check = false",
}  # fmt: skip
READY = {"gymnast serve": "operator's page at", "gymnast up": "rollout: "}
MAY_REFUSE = ("gymnast ttt", "gymnast loop", "gymnast operate try")
"""What is so small proves nothing: refused, or not kept (3), is as good an answer as kept."""


def sections() -> dict[str, list[tuple[str, str]]]:
    """Commands of every section of the README, comments taken off, each with the paragraph above it."""
    found: dict[str, list[tuple[str, str]]] = {}
    for title, body in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", (ROOT / "README.md").read_text(), re.M | re.S):
        blocks = re.findall(r"([^\n]*\n(?:[^\n]+\n)*)\n```sh\n(.*?)```", "\n" + body, re.S)
        lines = [(above, line) for above, block in blocks for line in block.splitlines()]
        commands = [(above, re.sub(r"\s+# .*", "", line).strip()) for above, line in lines]
        if commands := [(above, command) for above, command in commands if command]:
            found[title] = commands
    return found


class Walk:
    """A newcomer at a terminal: a folder, what was exported in it, and the codes that he noted down."""

    def __init__(self, host: Host, folder: Path, codes: dict[str, str]) -> None:
        self.host, self.folder, self.codes = host, folder, codes
        (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
        self.exported: dict[str, str] = {"PATH": os.defpath}
        self.started: list[Started] = []

    def line(self, command: str) -> None:
        """Type one line and look at what came of it."""
        kind = " ".join(command.split()[:2])
        words = " ".join([self.filled(command), *SMALLER.get(kind, [])])
        if words.startswith("export "):
            self.exported |= dict(part.split("=", 1) for part in words.split()[1:])
        elif words.startswith(". "):
            told = self.host.shell("bash", "-c", f'{words} && printf "%s" "$PATH"', env=self.exported, cwd=self.folder)
            self.exported["PATH"] = told.stdout
        elif kind in READY:
            self.started.append(self.host.launch("bash", "-c", f"exec {words}", env=self.exported, cwd=self.folder))
            self.started[-1].wait_for(READY[kind])
        else:
            done = self.host.shell(
                "bash", "-c", words, env=self.exported, cwd=self.folder,
                timeout_s=400.0,
            )  # fmt: skip
            fine = (0, 3) if command.startswith(MAY_REFUSE) else (0,)
            assert done.returncode in fine, f"{words}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
            if command.endswith("--code"):
                self.codes[words.split()[2]] = done.stdout.partition("--code ")[2].split()[0]

    def filled(self, command: str) -> str:
        """Put what the walk made where the README has a placeholder."""
        if "policy-0123456789abcdef" in command:
            listed = self.asked("weights", "list")["releases"]
            command = command.replace("policy-0123456789abcdef", listed[-1]["checkpoint_id"])
        for name, code in self.codes.items():
            command = command.replace(f"CODE-OF-{name.upper()}", code)
        if re.search(r"\bID\b", command):
            command = re.sub(r"\bID\b", self.asked("episodes", "list")["episodes"][0]["episode_id"], command)
        return command

    def asked(self, *words: str) -> dict[str, list[dict[str, str]]]:
        done = self.host.run(*words, "--json", env=self.exported, cwd=self.folder)
        return dict(json.loads(done.stdout))


@pytest.fixture
def walks(hosts: Hosts, tmp_path: Path) -> Iterator[dict[str, Walk]]:
    """A terminal on each machine; on the robot's there is what a clone has beside the code."""
    codes: dict[str, str] = {}
    for name in ("trainer", "robot"):
        (tmp_path / name).mkdir()
    shutil.copytree(ROOT / "config", tmp_path / "robot" / "config")
    loop = (ROOT / "config" / "loop.toml").read_text()
    for large, small in LOOP.items():
        assert large in loop, large
        loop = loop.replace(large, small)
    (tmp_path / "robot" / "config" / "loop.toml").write_text(loop)
    walking = {host.name.split(".")[0]: Walk(host, tmp_path / host.name.split(".")[0], codes)
               for host in (hosts.trainer, hosts.robot)}  # fmt: skip
    yield walking
    for terminal in reversed(walking.values()):
        for started in reversed(terminal.started):
            started.stop()


def test_every_section_with_commands_is_walked_or_named() -> None:
    assert set(sections()) == {WALKED, *ELSEWHERE}


def test_the_tour_can_be_walked_line_by_line(walks: dict[str, Walk]) -> None:
    for above, command in sections()[WALKED]:
        walks["robot" if "on the robot's machine" in above.lower() else "trainer"].line(command)
    assert [len(walk.started) for walk in walks.values()] == [1, 1]
    loaded = Path(f"/proc/{walks['trainer'].started[0].process.pid}/maps").read_text()
    assert "/bin/python" in loaded, "this is the service's own process"
    assert "libtorch" not in loaded, "what computes is a job, in a process of its own"
