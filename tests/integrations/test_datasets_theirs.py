"""Exports in the hands of those they are for: the real LeRobot loads one, reads it and computes its statistics again.

Its environment is gigabytes, so nobody makes it by running tests: `python3 scripts/foreign_env.py lerobot`, or name the
Python of one that is there in GYMNAST_FOREIGN_LEROBOT. docs/interop.md has the figures of the last run.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cloud_trainer.jobs.desk.transfer import export, local_episodes
from gymnast_core.episodes import write_recording
from tests import foreign
from tests.world_model.recordings import CAMERAS, made

READER = Path(__file__).with_name("lerobot_reader.py")
STEPS = (6, 9, 5)


@pytest.mark.slow
@pytest.mark.parametrize("video", [True, False], ids=["video", "jpeg"])
def test_lerobot_reads_what_was_recorded_and_computes_the_same_statistics(tmp_path: Path, video: bool) -> None:
    python = foreign.python_of("lerobot", make=False)
    recordings = [made(seed, steps) for seed, steps in enumerate(STEPS)]
    for recording in recordings:
        write_recording(tmp_path / "recorded", recording)
    export(local_episodes([tmp_path / "recorded"]), tmp_path / "set", form="lerobot", video=video)
    said = foreign.run(python, READER.read_text(), str(tmp_path / "set"), "--viz", env={"HF_HUB_OFFLINE": "1"})
    found = json.loads(said.splitlines()[-1])
    assert (found["episodes"], found["frames"], found["fps"]) == (3, sum(STEPS) + 3, 5)
    assert found["tasks"] == [recording.header.instruction for recording in recordings]
    assert found["shapes"] == {f"observation.images.{name}": [3, *size] for name, size in CAMERAS.items()}
    state = np.concatenate([recording.proprio_TP for recording in recordings])
    np.testing.assert_array_equal(np.array(found["state"], np.float32), state)
    commanded = np.concatenate([np.r_[r.commanded_TA, np.zeros((1, 7), np.float32)] for r in recordings])
    within = np.array([step < count for count in STEPS for step in range(count + 1)])
    np.testing.assert_array_equal(np.array(found["action"], np.float32)[within], commanded[within])
    assert Path(found["viz"]).stat().st_size > 10_000
    assert {name: apart for name, apart in found["apart"].items() if apart > allowed(name, video)} == {}


def allowed(name: str, video: bool) -> float:
    """How far statistics may be apart: a bin of LeRobot's quantiles, float32, and what a video does to colours."""
    if "images" in name:
        return 0.06 if video else 2e-3
    return 2e-3 if name[-3:-2] == "q" else 1e-5
