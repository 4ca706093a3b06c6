"""A researcher with public data: the shipped command finds what is wrong with it before a run begins."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_wm import NETWORK
from tests.world_model.test_check import EARLY, LATE, bridge_trajectory

GYMNAST = Path(sys.executable).with_name("gymnast")


def gymnast(*words: object) -> tuple[int, str]:
    """Exit code and everything printed."""
    done = subprocess.run([GYMNAST, *map(str, words)], capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BridgeData of two collections, one from before the day its observations are in step; a picture is broken."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(3):
        bridge_trajectory(folder, EARLY, number, lag=1)
        bridge_trajectory(folder, LATE, number, lag=0)
    (
        folder / "toykitchen1" / "put_spoon" / LATE / "raw" / "traj_group0" / "traj1" / "images0" / "im_7.jpg"
    ).write_bytes(b"")
    return folder


def test_late_and_broken_data_is_named_before_a_run_and_left_out_on_demand(data: Path, tmp_path: Path) -> None:
    code, said = gymnast("wm", "lag", data, "--kind", "bridge_raw")
    assert code == 1
    assert "1 of 6 episodes cannot be read" in said
    assert "im_7.jpg" in said
    code, said = gymnast("wm", "lag", data, "--kind", "bridge_raw", "--skip-broken")
    assert code == 0, said
    assert f"{EARLY}: 3 episodes read with lag by date; left over +0, in step" in said
    run = {
        "folder": str(tmp_path / "run"), "steps": 1, "codec": {"kind": "identity"}, "network": NETWORK,
        "data": [{"kind": "bridge_raw", "folder": str(data), "size": 16, "lag": 0}], "mixture": {"frames": 4},
        "train": {"batch_size": 1, "sampler": {"steps": 1}},
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    code, said = gymnast("wm", "train", tmp_path / "run.json", "--skip-broken")
    assert code == 2, "read with lag 0, the early collection is a step late"
    assert f"{EARLY}: +1 (3 episodes)" in said
    del run["data"][0]["lag"]
    (tmp_path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    code, said = gymnast("wm", "train", tmp_path / "run.json", "--skip-broken")
    assert code == 0, said
    assert (tmp_path / "run" / "checkpoint" / "manifest.json").is_file()
