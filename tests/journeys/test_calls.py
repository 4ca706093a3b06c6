"""A night's motor faults by the documented commands: recovered three times, then a person is called, and it goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from tests.receivers import Inbox, until, web_server

pytest.importorskip("rclpy")
from tests.ros.conftest import context, domain_id  # noqa: F401 - fixtures
from tests.ros.test_widowx_node import Camera

pytestmark = pytest.mark.slow
PATIENCE_S = 120.0


class Night:
    """A trainer and a real arm's nodes on the vendor's stand-in, started as their users start them."""

    def __init__(self, folder: Path, domain: int, inbox: Inbox, held: ExitStack) -> None:
        self.folder, self.domain, self.inbox, self._held = folder, domain, inbox, held
        self.faults = folder / "faults.json"
        pages = {"receivers": [{"name": "phone", "way": "webhook", "url": inbox.url}], "quiet_s": 0.0}
        (folder / "pages.json").write_text(json.dumps(pages))
        self.start("serve", "--folder", str(folder / "trainer"), "--pages", str(folder / "pages.json"),
                   "--port-file", str(folder / "port"), "--console-port", "0")  # fmt: skip
        self.address = until(lambda: (folder / "port").is_file() and (folder / "port").read_text(), "serve", PATIENCE_S)
        for name, role in (("wx-1", "robot"), ("ada", "operator")):
            words = ("--role", role, "--out", str(folder / name), "--ca", str(folder / "trainer" / "ca"))
            assert self.gymnast("enroll", name, *words).returncode == 0
        parameters = {
            "arm": {"vendor": "tests.ros.standin", "autostart": True, "auto_recover": True, "max_steps": 10,
                    "camera_topics": ["/blue/image_raw"], "camera_reliability": "reliable", "camera_max_age_s": 3.0,
                    "joint_max_age_s": 1.0},
            "rollout": {"label_timeout_s": 0.0},
        }  # fmt: skip
        file = {node: {"ros__parameters": values} for node, values in parameters.items()}
        (folder / "parameters.yaml").write_text(yaml.safe_dump(file))
        self.start("up", "--robot", "widowx", "--folder", str(folder / "robot"), "--name", "wx-1", "--trainer",
                   self.address, "--identity", str(folder / "wx-1"), "--domain", str(domain), "--parameters",
                   str(folder / "parameters.yaml"), "--policy", "checkpoints/policy")  # fmt: skip
        self.log = folder / "robot" / "logs" / "arm.log"
        until(lambda: self.at_the_robot("rearm").returncode == 0, "the gate to be armed", PATIENCE_S)

    def start(self, *words: str) -> None:
        environment = {**os.environ, "STANDIN_FAULTS": str(self.faults), "OMP_NUM_THREADS": "1"}
        with (self.folder / f"{words[0]}.log").open("ab") as log:
            process = subprocess.Popen([sys.executable, "-m", "gymnast_cli.main", *words], stdout=log,
                                       stderr=subprocess.STDOUT, env=environment)  # fmt: skip
        self._held.callback(process.wait, 60)
        self._held.callback(process.terminate)

    def gymnast(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "gymnast_cli.main", *words], capture_output=True, text=True,
                              timeout=PATIENCE_S, check=False)  # fmt: skip

    def at_the_robot(self, command: str) -> subprocess.CompletedProcess[str]:
        return self.gymnast(command, "--folder", str(self.folder / "robot"), "--domain", str(self.domain))

    def as_ada(self, *words: str) -> dict[str, object]:
        done = self.gymnast(
            "--json", "pages", *words, "--trainer", self.address, "--identity", str(self.folder / "ada")
        )
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def said(self, words: str) -> int:
        return self.log.read_text().count(words)

    def drop_the_elbow(self) -> None:
        """The motor loses its torque once; what stays broken is repaired when the arm has noticed."""
        before = self.said("the arm holds: elbow")
        self.faults.write_text(json.dumps({"drop_torque": ["elbow"]}))
        until(lambda: self.said("the arm holds: elbow") > before, "the arm to notice", PATIENCE_S)
        self.faults.write_text("{}")

    def episode(self) -> subprocess.CompletedProcess[str]:
        return self.gymnast("collect", "--tasks", "lift", "--count", "1", "--domain", str(self.domain), "--keep-local")


@pytest.fixture
def night(tmp_path: Path, domain_id: int, context: object) -> Iterator[Night]:  # noqa: F811
    with ExitStack() as held:
        inbox = held.enter_context(web_server())
        camera = Camera(context)
        camera.start()
        held.callback(camera.close)
        yield Night(tmp_path, domain_id, inbox, held)


def test_three_recoveries_then_a_person_then_it_goes_on(night: Night) -> None:
    assert night.as_ada("test")["receivers"] == [
        {"receiver": "phone", "way": "webhook", "error": "", "seconds": pytest.approx(0, abs=10)}
    ]
    assert night.inbox.wait(1)[0].json()["kind"] == "test"
    for number in range(1, 4):
        night.drop_the_elbow()
        until(lambda number=number: night.said("auto_recovery_done") == number, f"recovery {number}", PATIENCE_S)
        done = night.episode()
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(night.inbox.posts) == 1, "nobody was needed"
    night.drop_the_elbow()
    said = night.inbox.wait(2)[1].json()
    assert (said["kind"], said["robot"]) == ("motor_fault", "wx-1")
    assert "the arm has tried 3 times to recover by itself" in said["text"]
    assert said["detail"] == {"tries": 3, "total": 3}
    assert night.episode().returncode != 0, "nothing moves before a person has come"
    [page] = night.as_ada("list")["pages"]
    assert night.as_ada("ack", page["page_id"], "--note", "elbow freed")["acknowledged_by"] == "ada"
    answer = night.folder / "robot" / "pages" / f"{page['page_id']}.json"
    until(lambda: json.loads(answer.read_text())["state"] == "answered", "the answer at the robot", PATIENCE_S)
    time.sleep(5.0)
    assert night.said("auto_recovery_done") == 3, "an answer moves no arm: a person may be reaching in"
    recovered = night.at_the_robot("recover")
    assert recovered.returncode == 0, recovered.stderr
    assert night.episode().returncode == 0
    night.drop_the_elbow()
    until(lambda: night.said("auto_recovery_done") == 4, "a recovery of its own again", PATIENCE_S)
    assert night.as_ada("list")["pages"] == []
