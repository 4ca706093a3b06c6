"""Meta-World, in a virtual environment of its own with mujoco 3.3.0 and no torch, is one more Env here.

Slow: it is installed at first use, and each test draws pictures.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

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
