"""The shipped commands read it: its lag is measured, it is written as episode files, and what is broken is named."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from cloud_trainer.world_model.data.source import SourceInfo
from examples.installing import Terminal
from examples.my_dataset.my_dataset import CsvPng
from examples.my_simulator.my_simulator import TASK, Dots
from gymnast_core.episodes import read_episode
from gymnast_core.errors import CorruptError


def record(folder: Path, episodes: int, steps: int = 14) -> None:
    """What somebody else's recorder wrote."""
    for number in range(episodes):
        world, rng = Dots(max_steps=steps), np.random.default_rng(number)
        place = folder / f"{number:03d}"
        place.mkdir(parents=True)
        (place / "task.txt").write_text(TASK)
        observation, lines = world.reset(TASK, seed=number), []
        for step in range(steps + 1):
            picture = cv2.cvtColor(observation.images["top"][0], cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(place / f"{step:04d}.png"), picture)
            action_A = np.zeros(7, np.float32)
            action_A[:2], action_A[6] = rng.uniform(-0.03, 0.03, 2), 1.0
            last = step == steps
            cells = [*observation.proprio_BP[0].tolist(), *([""] * 7 if last else action_A.tolist())]
            lines.append(",".join(map(str, cells)))
            if not last:
                observation = world.step(action_A[None]).observation
        (place / "steps.csv").write_text("\n".join(lines))


def test_an_episode_lines_up(tmp_path: Path) -> None:
    record(tmp_path / "data", 1)
    episode = CsvPng(tmp_path / "data", SourceInfo("mine"), 64).episode(0)
    assert episode.images["camera"].shape == (15, 64, 64, 3)
    moved = np.diff(episode.proprio_TP[:, :2], axis=0)
    np.testing.assert_allclose(moved, episode.actions_TA[:, :2], atol=1e-4)


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    record(tmp_path / "data", 1)
    (tmp_path / "data" / "000" / "0007.png").unlink()
    with pytest.raises(CorruptError, match=r"0007\.png is missing or no picture"):
        CsvPng(tmp_path / "data", SourceInfo("mine")).episode(0)


def test_the_commands_measure_and_import_it(terminal: Terminal) -> None:
    record(terminal.folder / "data", 5)
    assert "lag 0" in terminal.run("wm", "lag", "data", "--kind", "csv_png")
    done = json.loads(terminal.run("--json", "episodes", "import", "csv_png", "data", "--into", "out"))
    assert len(done["added"]) == 5
    assert read_episode(terminal.folder / "out" / f"{done['added'][0]}.mcap").instruction == TASK
