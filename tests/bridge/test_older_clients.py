"""A client one minor version older keeps working: what it sent and was answered was recorded, and is answered again."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict
from google.protobuf.message_factory import GetMessageClass

from tests.bridge.recorded.record import HERE, World, call

VERSIONS = sorted(path.stem.removeprefix("calls_") for path in HERE.glob("calls_*.jsonl"))
REMOVED = {"0_1": {"ConsoleService/Ask"}}
"""Version -> methods it had that were taken away; each is answered with the remedy."""
SAME = {
    "episodeId", "robot", "state", "outcome", "labelledBy", "kind", "submittedBy", "duplicate", "word", "error",
    "validForS", "requestId", "chunkLength", "policyVersion", "size", "instruction", "steps", "digest",
}  # fmt: skip
"""Fields whose values are the same in every run; of the others it is compared whether they are there."""


class OldClient:
    """The messages of an older version, from the protos it was built with."""

    def __init__(self, version: str) -> None:
        files = FileDescriptorSet.FromString((HERE / f"protos_{version}.binpb").read_bytes())
        self._pool, left = DescriptorPool(), list(files.file)
        known: set[str] = set()
        while left:
            ready = [file for file in left if set(file.dependency) <= known]
            assert ready, "the recorded protos import something that was not recorded"
            for file in ready:
                self._pool.Add(file)
                known.add(file.name)
                left.remove(file)
        lines = [json.loads(line) for line in (HERE / f"calls_{version}.jsonl").read_text().splitlines()]
        self.names: Mapping[str, str] = lines[0]["names"]
        self.calls: list[dict[str, Any]] = lines[1:]

    def read(self, method: str, replies: list[bytes]) -> list[dict[str, Any]]:
        """Replies as this version understands them."""
        service, _, name = method.partition("/")
        found = self._pool.FindServiceByName(f"gymnast.v1.{service}").FindMethodByName(name)
        reply = GetMessageClass(found.output_type)
        return [MessageToDict(reply.FromString(data)) for data in replies]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory() as folder, World(Path(folder)).running() as world:
        yield world


def renamed(data: bytes, old: Mapping[str, str], new: Mapping[str, str]) -> bytes:
    """The recorded bytes with the ids of this run, which are as long as those of then."""
    for name, value in old.items():
        assert len(value) == len(new[name]), name
        data = data.replace(value.encode(), new[name].encode())
    return data


def shape(value: Any, key: str = "") -> Any:
    """Which fields are there, with the values of those that do not change from run to run."""
    if isinstance(value, dict):
        return {name: shape(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner, key) for inner in value[:1]]
    return value if key in SAME else type(value).__name__


def lacks(then: Any, now: Any) -> bool:
    """Whether something of then is not there now; more may be."""
    if isinstance(then, dict):
        return not isinstance(now, dict) or any(key not in now or lacks(then[key], now[key]) for key in then)
    if isinstance(then, list):
        return not isinstance(now, list) or len(now) < len(then) or any(map(lacks, then, now))
    return bool(then != now)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_an_older_client_asks_is_answered_as_it_was(world, version):
    old = OldClient(version)
    assert len(old.calls) >= 20
    for recorded in old.calls:
        method = recorded["method"]
        if method in REMOVED.get(version, ()):
            continue
        sent = [renamed(base64.b64decode(data), old.names, world.names) for data in recorded["requests"]]
        with world.channel(recorded["role"]) as channel:
            error, answers = call(channel, method, sent)
        assert error == recorded["error"], method
        then = shape(old.read(method, [base64.b64decode(data) for data in recorded["replies"]]))
        now = shape(old.read(method, answers))
        assert not lacks(then, now), (method, then, now)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_was_taken_away_is_answered_with_the_remedy(world, version):
    old = OldClient(version)
    for recorded in old.calls:
        if recorded["method"] in REMOVED.get(version, ()):
            sent = [base64.b64decode(data) for data in recorded["requests"]]
            path = f"/gymnast.v1.{recorded['method']}"
            with world.channel(recorded["role"]) as channel, pytest.raises(grpc.RpcError) as refused:
                list(channel.unary_stream(path, request_serializer=bytes)(sent[0], timeout=20))
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert "another version; upgrade the older one" in refused.value.details()
