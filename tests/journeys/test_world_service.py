"""A world model on one machine, asked from another by name, as docs/interop.md says."""

from __future__ import annotations

import json
from pathlib import Path

from cloud_trainer.service import enroll
from gymnast_core.episodes import write_episode
from tests.cloud.learning_fakes import episode, tiny_world_model
from tests.journeys.hosts import Hosts


def test_frames_come_from_another_machine_and_a_stranger_gets_none(hosts: Hosts, tmp_path: Path) -> None:
    version = tiny_world_model().save(tmp_path / "world").id
    for name, role, tenant in (
        ("sim", "server", "default"), ("ada", "operator", "default"), ("eve", "operator", "other"),
    ):  # fmt: skip
        enroll(tmp_path / "ca", name, role, out=tmp_path / name, tenant=tenant, hosts=["trainer.lab"])
    served = hosts.trainer.start("wm", "serve", "world", "--grpc", "0.0.0.0:8701", "--identity", "sim", cwd=tmp_path)
    served.wait_for("is served at")
    hosts.worse(delay_ms=30, loss_percent=1)
    film = write_episode(tmp_path, episode(0), robot="sim-0")
    ask = ("--json", "wm", "ask", "trainer.lab:8701", str(film), "--out", "out.mp4", "--identity")
    answers = [hosts.robot.run(*ask, "ada", "--seed", seed, cwd=tmp_path) for seed in ("3", "3")]
    assert answers[0].returncode == 0, answers[0].stdout + answers[0].stderr
    found = json.loads(answers[0].stdout)
    assert (found["model_version"], found["steps"]) == (version, 15)
    assert found == json.loads(answers[1].stdout)
    done = hosts.robot.run(*ask, "eve", cwd=tmp_path)
    assert done.returncode == 77, done.stdout + done.stderr
    assert "of default ask this world model" in done.stderr
    assert served.stop() == 0
