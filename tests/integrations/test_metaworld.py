"""Meta-World, in a virtual environment of its own with mujoco 3.3.0 and no torch, is one more Env here.

Slow: it is installed at first use, and each test draws pictures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.metaworld.report import VARIANTS
from gymnast_core.wire.env_client import RemoteEnv
from tests.contracts.env_contract import EnvContract
from tests.foreign import ROOT, python_of
from tests.journeys.hosts import Started

pytestmark = pytest.mark.slow
TASK = "reach-v3"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `gymnast env serve` of Meta-World's environment serves it."""
    python, folder = python_of("metaworld"), tmp_path_factory.mktemp("mw")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MUJOCO_GL": "egl"}
    command = [python, "-m", "benchmarks.metaworld", "mappings", folder]
    subprocess.run(command, check=True, env=environment, cwd=ROOT, timeout=300)
    where = f"unix:{folder}/own/socket"
    words = ("--gymnasium", "benchmarks.metaworld.env:gymnast/MetaWorld-v0", "--mapping", folder / f"{TASK}.json")
    serve = [python.parent / "gymnast", "env", "serve", *words, "--listen", where]
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(serve, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT)
    started = Started(process, folder / "serve.log")
    started.wait_for("is served at", 300.0)
    yield where
    started.stop()


class TestMetaWorld(EnvContract):
    instruction = "reach the goal"

    @pytest.fixture(autouse=True)
    def _served(self, address: str) -> None:
        self.address = address

    def make_env(self) -> RemoteEnv:
        return RemoteEnv(self.address)


SEEN = """
import numpy as np
from benchmarks.metaworld.env import BASE_M, MetaWorld, camera_matrix
env = MetaWorld("reach-v3", render_mode="rgb_array")
first, _ = env.reset(seed=3)
fresh = env.render()
env.reset(seed=4)
env.reset(seed=3)
assert (env.render() == fresh).all(), "the picture has the episode before"
data = env._env.data
camera = env._env.model.camera("corner2")
x, y, z = goal = first[-3:]
u, v, w = np.reshape(camera_matrix(), (3, 4)) @ (y - BASE_M[1], -x, z, 1.0)
right, up, back = (goal - data.cam_xpos[camera.id]) @ data.cam_xmat[camera.id].reshape(3, 3)
focal = 32 / np.tan(np.radians(camera.fovy[0]) / 2)
assert np.allclose([u / w, v / w], [31.5 + focal * right / -back, 31.5 - focal * up / -back], atol=1e-3)
red, green, blue = fresh[round(v / w), round(u / w)].astype(int)
assert red > 150 and green < 80 and blue < 80, (red, green, blue)  # the goal is a red ball, drawn where it is
"""


def test_the_first_picture_shows_this_starts_goal_where_the_camera_matrix_says() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MUJOCO_GL": "egl"}
    command = [python_of("metaworld"), "-c", SEEN]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_the_whole_loop_runs_and_nothing_is_done_twice(tmp_path: Path) -> None:
    """Tiny amounts in one task: every stage, from the expert's episodes to the table."""
    words = ("all", tmp_path, "--theirs", python_of("metaworld"), "--tasks", TASK, "--amounts", "tiny")
    command = [sys.executable, "-m", "benchmarks.metaworld", *map(str, words), "--true-reward"]
    made = []
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=1800, check=False)
        assert done.returncode == 0, done.stderr
        table = done.stdout[done.stdout.index("| policy |") :]
        weights = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
        made.append((table, weights, sorted(tmp_path.rglob("*.mcap"))))
    assert made[0] == made[1]
    trials = json.loads((tmp_path / "seed-0/result.json").read_text())["trials"]
    for name in VARIANTS:
        assert len(trials[name]) == 3
        assert f"| {name} |" in table
