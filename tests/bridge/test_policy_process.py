"""`gymnast serve --policy`: the policy runs in a process of its own, and the service never loads torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cloud_trainer.app.policy_process import PolicyProcess
from gymnast_core.errors import CheckpointError, PolicyFailedError
from gymnast_core.policies import load_policy
from gymnast_core.records.manifest import read_manifest
from gymnast_core.types import Observation
from gymnast_core.wire.gymnast.v1 import policy_pb2
from gymnast_ros.uplink import RemoteJudge, RemotePolicy

SHIPPED = Path(__file__).parents[2] / "checkpoints"


def seen() -> Observation:
    images = np.random.default_rng(0).integers(0, 255, (1, 64, 64, 3), np.uint8)
    return Observation({"over_shoulder": images}, np.zeros((1, 7), np.float32), np.zeros(1, np.int64))


def wait_for_file(path: Path, process: subprocess.Popen[bytes]) -> str:
    until = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, "the trainer ended"
        assert time.monotonic() < until, "the trainer did not listen"
        time.sleep(0.05)
    return path.read_text()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_served_policy_answers_as_beside_the_arm_and_neither_it_nor_the_judge_loads_torch_into_the_service(tmp_path):
    command = [sys.executable, "-m", "gymnast_cli.main", "serve", "--folder", str(tmp_path / "trainer"), "--insecure",
               "--port-file", str(tmp_path / "port"), "--console-port", "0", "--policy",
               str(SHIPPED / "policy"), "--policy-device", "cpu", "--judge", str(SHIPPED / "judge")]  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        address = wait_for_file(tmp_path / "port", process)
        remote = RemotePolicy(address, None, insecure=True, deadline_s=60.0)
        chunk = remote.act(seen(), ["lift the red cube"])
        remote.close()
        expected = load_policy(SHIPPED / "policy").act(seen(), ["lift the red cube"])
        assert chunk.policy_version == expected.policy_version
        assert np.isfinite(chunk.actions_BKA).all()
        judge = RemoteJudge(address, None, insecure=True, deadline_s=60.0)
        found = judge.judge({"cam": np.zeros((3, 64, 64, 3), np.uint8)}, "lift the red cube", scene="standard")
        judge.close()
        assert found.judge == read_manifest(SHIPPED / "judge").id
        assert "not proven here" in found.reason
        loaded = Path(f"/proc/{process.pid}/maps").read_text()
        assert "libpython" in loaded or "python" in loaded
        assert "libtorch" not in loaded
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (tmp_path / "log").read_text()


def test_a_policy_whose_process_dies_is_started_again():
    policy = PolicyProcess(SHIPPED / "policy", "cpu")
    try:
        greeting = policy_pb2.InferRequest(request_id=7)
        assert policy.answer(greeting).policy_version == policy.version
        with pytest.raises(PolicyFailedError, match=rf"the process of policy {policy.version} ended"):
            policy.answer(
                SimpleNamespace(SerializeToString=lambda: b"\xff", instructions=["lift"])
            )  # no message: whoever reads it dies
        assert policy.answer(greeting).request_id == 7
        policy._process._process.end()
        assert policy.answer(greeting).request_id == 7
    finally:
        policy.close()


def test_what_is_no_policy_is_named_before_anything_listens():
    with pytest.raises(CheckpointError, match="holds a judge, not a policy"):
        PolicyProcess(SHIPPED / "judge", "cpu")
