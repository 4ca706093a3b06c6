"""The real vla-eval serves our checkpoint and runs our simulated arm: what it measures is what we measure."""

from __future__ import annotations

import contextlib
import json
import os
import site
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gymnast_core.policies import load_policy
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.tasks import TASKS
from tests import foreign

LONG_S = 120.0
INTEGRATION = foreign.ROOT / "integrations" / "vla_eval"
CHECKPOINT = foreign.ROOT / "checkpoints" / "policy"
SEED, EPISODES = 2_000_000, 2

RUN = """
import json, sys
from vla_eval import api
arm = {"benchmark": "gymnast_benchmark:GymnastBenchmark", "episodes_per_task": int(sys.argv[2]), "tasks": ["push"],
       "params": {"seed_start": int(sys.argv[3])}}
config = {"render": "cpu", "benchmarks": [arm]}
(result,) = api.run(config, server_url=sys.argv[1], docker=False, no_save=True)
print(json.dumps(result, default=str))
"""

STUB = """
import json, sys
import anyio
from vla_eval.cli.smoke import _make_stub_benchmark
from vla_eval.connection import Connection
from vla_eval.runners.sync_runner import SyncEpisodeRunner
async def main():
    task = {"name": "smoke_test"}
    async with Connection(sys.argv[1]) as connection:
        return await SyncEpisodeRunner().run_episode(_make_stub_benchmark(task), task, connection, max_steps=50)
print(json.dumps(anyio.run(main)))
"""


@pytest.fixture(scope="module")
def theirs() -> Path:
    return foreign.python_of("vla_eval")


@pytest.fixture(scope="module")
def env() -> dict[str, str]:
    """vla-eval's own environment, in which our packages can be imported, too."""
    ours = [str(INTEGRATION), str(foreign.ROOT), *site.getsitepackages()]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(ours), "OMP_NUM_THREADS": "1", "MUJOCO_GL": "egl"}


@pytest.fixture(scope="module")
def server(theirs, env, tmp_path_factory) -> Iterator[str]:
    """Their runner of model servers, with ours."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    log = tmp_path_factory.mktemp("vla_eval") / "log"
    command = [theirs, INTEGRATION / "gymnast_server.py", "--config", INTEGRATION / "gymnast.yaml", f"--port={port}",
               f"--args.checkpoint={CHECKPOINT}"]  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env)
    try:
        until = time.monotonic() + LONG_S
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5.0):
                break
            time.sleep(0.1)
        yield f"ws://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(LONG_S)


def test_its_own_stub_benchmark_gets_actions(theirs, env, server):
    found = json.loads(foreign.run(theirs, STUB, server, env=env))
    assert found["steps"] == 3
    assert found["metrics"]["success"] is True


def test_it_measures_on_our_arm_what_we_measure(theirs, env, server):
    *_, last = foreign.run(theirs, RUN, server, str(EPISODES), str(SEED), env=env).strip().splitlines()
    found = json.loads(last)
    policy, arm, expected = load_policy(CHECKPOINT), SimEnv(), []
    with contextlib.closing(arm):
        for number in range(EPISODES):
            seen, steps, planned = arm.reset(TASKS["push"].instruction, seed=SEED + number), 0, []
            while steps < arm.spec.max_steps and not arm.succeeded():
                planned = planned or list(policy.act(seen, [TASKS["push"].instruction]).actions_BKA[0])
                seen, steps = arm.step(planned.pop(0)[None]).observation, steps + 1
            expected.append((arm.succeeded(), steps))
    (task,) = found["tasks"]
    assert [(row["metrics"]["success"], row["steps"]) for row in task["episodes"]] == expected
    assert np.isclose(task["mean_success"], np.mean([success for success, _ in expected]))
