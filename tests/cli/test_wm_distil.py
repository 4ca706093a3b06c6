"""`gymnast wm distil` as a researcher runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gymnast_cli.main import main
from gymnast_core.episodes import write_episode
from tests.cloud.learning_fakes import episode, tiny_world_model


def test_a_student_is_written_compared_and_rolled_out(tmp_path: Path, capsys: Any) -> None:
    for seed in range(4):
        write_episode(tmp_path / "episodes", episode(seed), robot="sim-0")
    tiny_world_model().save(tmp_path / "teacher")
    command = ["--json", "wm", "distil", str(tmp_path / "episodes"), "--world-model", str(tmp_path / "teacher"),
               "--out", str(tmp_path / "student"), "--iterations", "2", "--batch-size", "1"]  # fmt: skip
    assert main(command) in (0, 3)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["student"] != found["teacher"]
    assert abs(found["student_db"] - found["teacher_db"] - found["change"]) < 1e-6
    assert main(command) == 2, "the folder exists"
    assert "exists" in capsys.readouterr().err
    rollout = ["--json", "wm", "rollout", str(tmp_path / "episodes"), "--world-model", str(tmp_path / "student"),
               "--out", str(tmp_path / "out.mp4")]  # fmt: skip
    assert main(rollout) == 0
    assert (tmp_path / "out.mp4").exists()
