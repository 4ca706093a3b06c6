"""The real openpi-client drives our port, and our client the real openpi-server: in an environment of their own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gymnast_core.errors import PolicyFailedError
from gymnast_core.types import Observation
from gymnast_core.wire.openpi.images import resize_with_pad
from gymnast_core.wire.openpi.link import OpenpiPlace
from gymnast_ros.uplink.openpi import OpenpiPolicy
from tests import foreign
from tests.bridge.openpi_parts import SeenPolicy, served

LONG_S = 60.0
SIZES = ((480, 640), (256, 256), (31, 77), (224, 224))

CLIENT = """
import hashlib, json, sys
import numpy as np
from openpi_client import action_chunk_broker, image_tools, websocket_client_policy
address, token = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
def seen(**changes):
    frame = np.full((224, 224, 3), 100, np.uint8)
    return {"observation/image": frame, "observation/wrist_image": frame, "observation/state": np.arange(8.0) / 10,
            "prompt": "lift the red cube", **changes}
def dial():
    return websocket_client_policy.WebsocketClientPolicy(address, api_key=token)
client = dial()
chunk = client.infer(seen())
broker = action_chunk_broker.ActionChunkBroker(dial(), action_horizon=5)
rows = [broker.infer(seen())["actions"].tolist() for _ in range(7)]
try:
    client.infer(seen(**{"observation/state": np.zeros(3)}))
    refusal = ""
except RuntimeError as error:
    refusal = str(error)
sizes = json.loads(sys.stdin.read())
frames = [np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
resized = [hashlib.sha256(image_tools.resize_with_pad(frame, 224, 224).tobytes()).hexdigest() for frame in frames]
print(json.dumps({"hello": client.get_server_metadata(), "actions": chunk["actions"].tolist(), "rows": rows,
                  "timing": sorted(chunk["server_timing"]), "refusal": refusal, "resized": resized}))
"""

SERVER = """
import sys
import numpy as np
from openpi_server import WebsocketPolicyServer
class Policy:
    def infer(self, seen):
        if seen["prompt"] == "fail":
            raise KeyError("a secret of the server")
        if seen["prompt"] == "wide":
            return {"actions": np.zeros((10, 32))}
        image, state = seen["observation/image"], seen["observation/state"]
        assert image.shape == (224, 224, 3) and image.dtype == np.uint8 and state.shape == (8,)
        rows = np.zeros((10, 7)) + state[[0, 1, 2, 3, 4, 5, 7]] / 100 + image.mean() / 25500
        return {"actions": rows, "state": state}
    def reset(self):
        pass
WebsocketPolicyServer(Policy(), host="127.0.0.1", port=int(sys.argv[1]), metadata={"name": "theirs"}).serve_forever()
"""


@pytest.fixture(scope="module")
def theirs() -> Path:
    return foreign.python_of("openpi")


def test_the_real_client_is_served_and_refused_by_name(theirs, tmp_path):
    token, policy = tmp_path / "token", SeenPolicy()
    token.write_text("t" * 32)
    with served(policy, token=token) as server:
        found = json.loads(foreign.run(theirs, CLIENT, server.address, "t" * 32, given=json.dumps(SIZES)))
    frames = {"over_shoulder": np.full((1, 224, 224, 3), 100, np.uint8)}
    proprio = np.array([[0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7]], np.float32)
    local = policy.act(Observation(frames, proprio, np.zeros(1, np.int64)), ["lift the red cube"])
    np.testing.assert_allclose(found["actions"], local.actions_BKA[0], atol=1e-4)
    np.testing.assert_allclose(found["rows"], local.actions_BKA[0][[0, 1, 2, 3, 4, 0, 1]], atol=1e-4)
    assert (found["hello"]["policy_version"], found["timing"]) == ("policy-seen", ["infer_ms"])
    assert found["refusal"].endswith("InvalidMessageError: observation/state must be (8,) numbers, got (3,) float64")


def test_images_are_resized_as_the_real_client_does(theirs):
    program = CLIENT.partition("client = dial()")[0] + CLIENT[CLIENT.index("sizes = ") :].partition("print(")[0]
    said = foreign.run(theirs, f"{program}\nprint(json.dumps(resized))", "nowhere", given=json.dumps(SIZES))
    frames = [np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]
    ours = [hashlib.sha256(resize_with_pad(frame, 224).tobytes()).hexdigest() for frame in frames]
    assert json.loads(said) == ours


@contextlib.contextmanager
def their_server(python: Path, log: Path) -> Iterator[str]:
    """The real server in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with log.open("wb") as out:
        process = subprocess.Popen([python, "-c", SERVER, str(port)], stdout=out, stderr=out, env=dict(os.environ))
    try:
        until = time.monotonic() + LONG_S
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, "it did not listen"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                break
            time.sleep(0.05)
        yield f"openpi://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def reached(address: str) -> Iterator[OpenpiPolicy]:
    with contextlib.closing(OpenpiPolicy(OpenpiPlace.of(address, ""), deadline_s=LONG_S)) as policy:
        yield policy


def test_the_real_server_drives_our_robot_and_shows_no_traceback(theirs, tmp_path):
    proprio = np.arange(7, dtype=np.float32)[None] / 10
    seen = Observation({"over_shoulder": np.full((1, 256, 256, 3), 100, np.uint8)}, proprio, np.zeros(1, np.int64))
    with their_server(theirs, tmp_path / "log") as address, reached(address) as policy:
        assert policy.chunk_length == 10
        chunk = policy.act(seen, ["lift the red cube"])
        expected = np.broadcast_to(proprio / 100 + 100 / 25500, (10, 7))
        np.testing.assert_allclose(chunk.actions_BKA[0], expected, atol=1e-6)
        with pytest.raises(PolicyFailedError, match="characters that are not shown") as failed:
            policy.act(seen, ["fail"])
        assert "secret" not in str(failed.value)
        with pytest.raises(PolicyFailedError, match=r"\(10, 32\)"):
            policy.act(seen, ["wide"])
        np.testing.assert_array_equal(policy.act(seen, ["again"]).actions_BKA, chunk.actions_BKA)
    assert "a secret of the server" in (tmp_path / "log").read_text()
