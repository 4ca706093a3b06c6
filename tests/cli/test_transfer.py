"""Datasets out of a trainer and into another, by the command line: each episode once, with the label it has now."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud_trainer.service import Service, ServiceConfig, enroll
from gymnast_cli.main import main
from gymnast_core.episodes import read_recording, write_recording
from tests.world_model.recordings import differences, made
from tests.world_model.test_sources import lerobot_folder


@pytest.fixture
def trainers(tmp_path: Path) -> Iterator[list[list[str]]]:
    """Flags that reach two trainers, as an administrator."""
    flags = []
    with (
        Service(ServiceConfig(folder=tmp_path / "one")) as first,
        Service(ServiceConfig(folder=tmp_path / "two")) as second,
    ):
        for number, service in enumerate((first, second)):
            identity = enroll(service.config.folder / "ca", "ana", "admin", out=tmp_path / f"identity-{number}")
            flags.append(["--trainer", service.address, "--identity", str(identity)])
        yield flags


@pytest.fixture
def gymnast(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """gymnast(...) runs `gymnast --json episodes ...` and returns what it printed."""

    def run(*words: object, code: int = 0) -> Any:
        found = main(["--json", "episodes", *map(str, words)])
        out = capsys.readouterr().out
        assert found == code, out
        return json.loads(out)

    return run


def test_out_of_one_trainer_and_into_another(trainers: Any, gymnast: Any, tmp_path: Path) -> None:
    one, two = trainers
    for seed in range(3):
        write_recording(tmp_path / "recorded", made(seed))
    assert len(gymnast("import", "mcap", tmp_path / "recorded", *one)["added"]) == 3
    gymnast("label", "ep-made-1", "failure", *one)
    gymnast("export", tmp_path / "set", "--format", "lerobot", "--frames", "jpeg", *one)
    gymnast("export", tmp_path / "files", "--format", "mcap", *one)
    chosen = gymnast("export", tmp_path / "good", "--format", "lerobot", "--outcome", "success", *one)
    assert chosen["episodes"] == ["ep-made-0", "ep-made-2"]
    assert len(gymnast("import", "lerobot", tmp_path / "set", *two)["added"]) == 3
    assert len(gymnast("import", "mcap", tmp_path / "files", *two)["known"]) == 3
    assert len(gymnast("import", "lerobot", tmp_path / "set", *one)["known"]) == 3
    rows = {row["episode_id"]: row for row in gymnast("list", *two)["episodes"]}
    assert [rows[f"ep-made-{seed}"]["outcome"] for seed in range(3)] == ["success", "failure", "success"]
    assert rows["ep-made-1"]["labelled_by"] == "robot:ana/operator:ana", "what a file says is said by its sender"
    gymnast("export", tmp_path / "back", "--format", "mcap", *two)
    for seed in range(3):
        assert differences(made(seed), read_recording(tmp_path / "back" / f"ep-made-{seed}.mcap")) == ["end"]
    assert gymnast("export", tmp_path / "back", "--format", "mcap", *two)["before"] == 3


def test_what_the_trainer_refuses_is_said(trainers: Any, gymnast: Any, tmp_path: Path) -> None:
    """Steps of 9 cm are no error of the dataset's, but this arm takes 5."""
    folder = lerobot_folder(tmp_path / "fast", action=[0.09, *[0.0] * 6])
    found = gymnast("import", "lerobot", folder, *trainers[0], code=3)
    assert len(found["added"]) == len(found["quarantined"]) == 2
    assert "the limit is 0.05" in next(iter(found["quarantined"].values()))
    assert len(gymnast("import", "lerobot", folder, *trainers[0])["known"]) == 2
    said = gymnast("export", tmp_path / "out", "--format", "lerobot", *trainers[0], code=2)
    assert "no episode fits" in said["message"]
    said = gymnast("export", tmp_path / "out", "--format", "lerobot", "--from", folder, "--robot", "r", code=2)
    assert "--robot choose among a trainer's episodes" in said["message"]
