"""The README's tour, every line in order, in a fresh folder on the machine it is meant for, as a newcomer types it.

Lines that take an hour run smaller (SMALLER), a placeholder becomes what the walk itself made, and a section that this
walk leaves out is named with the reason (ELSEWHERE). A line the README gains is run from that day on. In the end the
walk looks at what was recorded and trained: what taught by `gymnast why`, what measured by `gymnast operate ledger`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    "gymnast operate try": ["--pairs", "5", "--wait"],
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
MEASURES = {"evaluate", "canary", "trial"}
"""Purposes of episodes that nothing may learn from."""
LINE_S, LONG_S = 1200.0, 900.0


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
        smaller = next((more for start, more in SMALLER.items() if command.startswith(start)), [])
        words = " ".join([self.filled(command), *smaller])
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
                timeout_s=LINE_S,
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

    def asked(self, *words: str) -> dict[str, Any]:
        done = self.host.run(*words, "--json", env=self.exported, cwd=self.folder)
        return dict(json.loads(done.stdout))

    def episodes(self) -> dict[str, dict[str, Any]]:
        rows = self.asked("episodes", "list")["episodes"]
        return {row["episode_id"]: row for row in rows if row["state"] == "valid"}

    def ancestors(self, made: str) -> set[str]:
        """Ids of all a checkpoint was made from, down to every episode."""
        self.asked("why", made, "--graph", "why.json")
        return {node["id"] for node in json.loads((self.folder / "why.json").read_text())["nodes"]}

    def measured(self) -> int:
        """Episodes the ledger compared with their dreams, abstentions of the judge included."""
        overall = self.asked("operate", "ledger")["overall"]
        return 0 if overall is None else int(overall["n"]) + int(overall["abstained"])


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


def test_the_tour_can_be_walked_line_by_line_and_what_measures_teaches_nobody(walks: dict[str, Walk]) -> None:
    unlabelled = ""
    for above, command in sections()[WALKED]:
        walk = walks["robot" if "on the robot's machine" in above.lower() else "trainer"]
        walk.line(command)
        if command.startswith("gymnast collect"):
            unlabelled = max(walk.episodes())  # an operator takes a label back
            assert walk.asked("episodes", "label", unlabelled, "unlabelled")["outcome"] == "unlabelled"
    assert [len(walk.started) for walk in walks.values()] == [1, 1]
    loaded = Path(f"/proc/{walks['trainer'].started[0].process.pid}/maps").read_text()
    assert "/bin/python" in loaded, "this is the service's own process"
    assert "libtorch" not in loaded, "what computes is a job, in a process of its own"
    what_measures_teaches_nobody(walks["robot"], unlabelled)
    each_measurement_is_in_the_ledger_once(walks["robot"])


def what_measures_teaches_nobody(walk: Walk, unlabelled: str) -> None:
    listed = walk.episodes()
    purposes = {name: row["metadata"]["purpose"] for name, row in listed.items()}
    assert {"collect", "evaluate", "trial"} <= set(purposes.values())
    jobs = [job for job in walk.asked("jobs", "list")["jobs"] if job["kind"] == "improve"]
    result = jobs[-1]["result"]
    behind = walk.ancestors(result["candidates"][-1]["id"])
    assert {result["world_model"], result["judge"]} <= behind
    taught = {purposes[name] for name in behind & set(listed)}
    assert taught, "what was collected did teach it"
    assert not taught & MEASURES
    assert listed[unlabelled]["outcome"] == "unlabelled", "and no failure"
    assert unlabelled not in behind


def each_measurement_is_in_the_ledger_once(walk: Walk) -> None:
    rows = [row for row in walk.episodes().values() if row["metadata"]["purpose"] in MEASURES]
    count = sum(row["outcome"] in ("success", "failure") for row in rows)
    until = time.monotonic() + LONG_S
    while (seen := walk.measured()) < count and time.monotonic() < until:
        time.sleep(1.0)
    assert seen == count
