"""A lab for journeys: a trainer's and a robot's folder on one machine, and the shipped commands as users type them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

from gymnast_client import Trainer
from tests.journeys.hosts import GYMNAST

PLANTED = Path(__file__).parent / "planted"
LONG_S = 180.0


def wait_until(ready: Callable[[], Any], what: str, timeout_s: float = LONG_S) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := ready()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(0.5)
    return found


@dataclass
class Lab:
    """A trainer's folder and a robot's, and the commands that a user types."""

    folder: Path
    domain: int
    address: str = ""
    console: str = ""
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    browser: urllib.request.OpenerDirector = field(
        default_factory=lambda: urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    )

    @property
    def planted_log(self) -> Path:
        return self.folder / "planted.log"

    def environment(self) -> dict[str, str]:
        own = {"PYTHONPATH": str(PLANTED), "PLANTED_LOG": str(self.planted_log), "ROS_DOMAIN_ID": str(self.domain)}
        return {**os.environ, **own}

    def launch(self, name: str, *words: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            command = [str(GYMNAST), *words]
            self.running[name] = subprocess.Popen(
                command, cwd=self.folder, env=self.environment(), stdout=log, stderr=subprocess.STDOUT
            )

    def stop(self, name: str) -> None:
        process = self.running.pop(name)
        process.send_signal(signal.SIGINT)
        process.wait(60)

    def close(self) -> None:
        for name in list(self.running):
            self.stop(name)
        if "trainer" in vars(self):
            self.trainer.close()

    def start_robot(self) -> None:
        self.launch(
            "up", "up", "--robot", "sim", "--name", "sim-0", "--trainer", self.address, "--identity",
            "identities/sim-0", "--folder", "robot", "--policy", "base", "--orders",
        )  # fmt: skip

    def gymnast(self, *words: str, role: str = "admin") -> Any:
        """Run a command against the trainer, or with no role on the robot's machine; returns what --json printed."""
        who = ("--trainer", self.address, "--identity", f"identities/{role}") if role else ()
        done = subprocess.run(
            [str(GYMNAST), "--json", *words, *who], cwd=self.folder, env=self.environment(), capture_output=True,
            text=True, timeout=LONG_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def terminal(self, *words: str) -> str:
        """Run a command as a person does; returns the terminal's text."""
        who = ("--trainer", self.address, "--identity", "identities/admin")
        done = subprocess.run(
            [str(GYMNAST), *words, *who], cwd=self.folder, env={**self.environment(), "COLUMNS": "400"},
            capture_output=True, text=True, timeout=LONG_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def page(self, path: str) -> str:
        """A page, as a browser gets it that was logged in with `gymnast console`."""
        if not self.console:
            login = self.gymnast("console")
            self.console = str(login["address"])
            self.browser.open(f"{self.console}/login", data=f"token={login['token']}".encode(), timeout=30).read()
        return str(self.browser.open(f"{self.console}{path}", timeout=30).read().decode())

    @cached_property
    def trainer(self) -> Trainer:
        """The trainer as a program asks it: to wait for it with a command a second computes more than the lab does."""
        return Trainer(self.address, self.folder / "identities" / "admin")

    def words(self) -> dict[str, Any]:
        """What sim-0 says of its checkpoints: the row of `gymnast operate robots`."""
        robots = list(self.trainer.robots.list())
        return asdict(robots[0].words) if robots else {"runs": None, "refused": []}

    def trial(self, trial_id: str) -> dict[str, Any]:
        """The row of `gymnast operate evaluations`."""
        return asdict(self.trainer.trials.get(trial_id))

    def refused(self) -> dict[str, str]:
        return {word["checkpoint_id"]: word["reason"] for word in self.words()["refused"]}

    def runs(self, checkpoint: str) -> dict[str, Any] | None:
        word = self.words()["runs"]
        return dict(word) if word and word["checkpoint_id"] == checkpoint else None
