"""Exports in the hands of those they are for: the real LeRobot and the real TensorFlow Datasets read them.

Their environments are gigabytes, so nobody makes them by running tests: `python3 scripts/foreign_env.py lerobot` or
`tfds`, or name the Python of one that is there in GYMNAST_FOREIGN_LEROBOT or GYMNAST_FOREIGN_TFDS. docs/interop.md has
what the last run found.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cloud_trainer.jobs.desk.transfer import export, local_episodes
from cloud_trainer.world_model.data.rlds import RldsSource
from cloud_trainer.world_model.data.source import SourceInfo
from gymnast_core.episodes import write_recording
from gymnast_core.pictures import decode_jpeg
from tests import foreign
from tests.world_model.recordings import CAMERAS, made

TFDS_READER = Path(__file__).with_name("tfds_reader.py")
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


@pytest.mark.slow
def test_tensorflow_datasets_reads_what_was_recorded_and_what_it_writes_is_read(tmp_path: Path) -> None:
    python = foreign.python_of("tfds", make=False)
    recordings = [made(seed, steps) for seed, steps in enumerate(STEPS)]
    for recording in recordings:
        write_recording(tmp_path / "recorded", recording)
    export(local_episodes([tmp_path / "recorded"]), tmp_path / "set", form="rlds")
    said = foreign.run(python, TFDS_READER.read_text(), str(tmp_path / "set"), str(tmp_path / "theirs"))
    found = {one["about"]["episode_id"]: one for one in json.loads(said.splitlines()[-1])["episodes"]}
    for recording in recordings:
        one = found[recording.header.episode_id]
        assert set(one["language_instruction"]) == {recording.header.instruction}
        assert one["policy_version"] == [*recording.versions, ""]
        assert (one["is_first"][0], one["is_last"][-1], sum(one["is_last"])) == (True, True, 1)
        np.testing.assert_array_equal(np.array(one["action"], np.float32)[:-1], recording.commanded_TA)
        np.testing.assert_array_equal(np.array(one["state"], np.float32), recording.proprio_TP)
        np.testing.assert_array_equal(np.array(one["joint_position"]), recording.joints_TJ)
        for camera, jpegs in recording.jpegs.items():
            ours, pixels = [decode_jpeg(jpeg).mean() for jpeg in jpegs], 3 * np.prod(CAMERAS[camera])
            levels = np.array(one["cameras"][camera]) / pixels
            np.testing.assert_allclose(levels, ours, atol=2.5, err_msg="their decoder is a quick one, a little darker")
    theirs = RldsSource(tmp_path / "theirs" / "bridge_orig", SourceInfo("bridge_orig"), every_camera=True)
    assert sorted(theirs.episode(index).steps for index in range(len(theirs))) == [4, 5]
