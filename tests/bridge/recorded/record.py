"""Records what a client of this version sends and is answered: `python -m tests.bridge.recorded.record 0.2`.

Run once a minor version, before its protos change: tests/bridge/test_older_clients.py answers the recordings.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from cloud_trainer.console import Console
from cloud_trainer.service import Service, ServiceConfig, enroll
from cloud_trainer.service.methods import SERVICES
from cloud_trainer.service.policy import PolicyServicer
from cloud_trainer.store.protocols import EpisodeRow
from gymnast_core.episodes.messages import SCHEMA_VERSION
from gymnast_core.episodes.spool import file_digest
from gymnast_core.records.manifest import read_checkpoint
from gymnast_core.wire.channel import domain_error, open_channel
from gymnast_core.wire.codec import crc32c
from gymnast_core.wire.identity import Identity, Peer
from gymnast_core.wire.inference import answers
from tests.bridge.conftest import make_checkpoint, make_episode
from tests.bridge.test_remote_policy import BrightnessPolicy
from tests.console.conftest import SteeredEngine

HERE = Path(__file__).parent
ROLES = ("robot", "operator", "trainer", "admin")


class World:
    """A trainer with one of everything, and somebody of every role; the same for every version."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, str] = {}

    @contextmanager
    def running(self) -> Iterator[World]:
        policy = PolicyServicer(lambda: answers(BrightnessPolicy()))
        with (
            Service(ServiceConfig(folder=self.folder / "trainer"), policy=policy) as service,
            Console(service),
        ):
            service.handlers.flows.take_up(lambda tenant: SteeredEngine())
            self.service = service
            self._fill()
            yield self

    def _fill(self) -> None:
        service, made = self.service, self.folder / "made"
        made.mkdir()
        path = make_episode(made, "ep-1", seed=1)
        row = EpisodeRow(0, "default", "ep-1", "robot-1", file_digest(path), path.stat().st_size, 1, state="valid")
        self.names["episode_digest"] = row.digest
        service.blobs.put_file(path, row.digest)
        service.meta.add_episodes([row])
        self.manifest = make_checkpoint(made / "one", 1.0, lineage={"episodes": ["ep-1"]})
        release, _ = service.publisher.publish("default", made / "one")
        self.names |= {"checkpoint": self.manifest.id, "weights_digest": release.weights_digest}
        self.names["job"] = service.jobs.submit("default", "improve", {"robot": "robot-1"}, "key-1", "ana").job_id
        self.names["claimed"] = service.jobs.submit("default", "imitate", {}, "key-2", "ana").job_id
        self.other = make_checkpoint(made / "two", 2.0)
        service.robots.post(Peer("robot-1", "robot", "default"), {"state": "ready", "weights": {}}, b"")
        service.trails.of("default").catch_up()

    def channel(self, role: str) -> grpc.Channel:
        out = enroll(self.service.authority, f"{role}-1", role, out=self.folder / "ids" / role)
        return open_channel(self.service.address, Identity.load(out))


def call(channel: grpc.Channel, path: str, messages: list[bytes], timeout_s: float = 20.0) -> tuple[str, list[bytes]]:
    """Make a call with raw messages; returns the error's name and at most two answers."""
    made = channel.stream_stream(f"/gymnast.v1.{path}", request_serializer=bytes, response_deserializer=bytes)
    answers: list[bytes] = []
    calling = made(iter(messages), timeout=timeout_s)
    try:
        for answer in calling:
            answers.append(answer)
            if len(answers) == 2 or path.endswith("Watch"):  # which goes on for ever
                calling.cancel()
                break
    except grpc.RpcError as failure:
        return type(domain_error(failure)).__name__, answers
    return "", answers


def spoken(world: World) -> Iterator[tuple[str, str, list[Any]]]:
    """Yield (role, method, messages) in the order they are sent."""
    from gymnast_core.wire.gymnast.v1 import (
        console_pb2,
        jobs_pb2,
        policy_pb2,
        robots_pb2,
        trajectories_pb2,
        weights_pb2,
    )  # fmt: skip

    names, made = world.names, world.folder / "made"
    episode = make_episode(made, "ep-2", seed=2)
    data = episode.read_bytes()
    opening = trajectories_pb2.EpisodeOpen(
        channel=1, episode_id="ep-2", size=len(data), digest=file_digest(episode), schema=SCHEMA_VERSION
    )
    chunk = trajectories_pb2.EpisodeChunk(channel=1, offset=0, crc32c=crc32c(data), data=data)
    yield "robot", "TrajectoryService/Upload", [
        trajectories_pb2.UploadRequest(open=opening), trajectories_pb2.UploadRequest(chunk=chunk),
        trajectories_pb2.UploadRequest(commit=trajectories_pb2.EpisodeCommit(channel=1)),
    ]  # fmt: skip
    yield "operator", "TrajectoryService/ListEpisodes", [trajectories_pb2.ListEpisodesRequest(episode_id="ep-1")]
    label = trajectories_pb2.LabelEpisodeRequest(episode_id="ep-1", outcome="success")
    yield "operator", "TrajectoryService/LabelEpisode", [label]
    retract = trajectories_pb2.RetractEpisodeRequest(episode_id="ep-1", reason="the camera was covered")
    yield "operator", "TrajectoryService/RetractEpisode", [retract]
    manifest, weights = read_checkpoint(made / "two")
    opened = weights_pb2.PublishOpen(manifest=manifest.to_bytes(), robots=["robot-1"])
    blob = weights_pb2.BlobChunk(offset=0, crc32c=crc32c(weights), data=weights)
    yield "trainer", "WeightsService/Publish", [
        weights_pb2.PublishRequest(open=opened), weights_pb2.PublishRequest(chunk=blob),
    ]  # fmt: skip
    yield "robot", "WeightsService/Watch", [weights_pb2.WatchRequest()]
    yield "operator", "WeightsService/ListReleases", [weights_pb2.ListReleasesRequest()]
    yield "robot", "WeightsService/Fetch", [weights_pb2.FetchRequest(digest=names["weights_digest"])]
    back = weights_pb2.RollbackRequest(checkpoint_id=names["checkpoint"], robots=["robot-1"], reason="it drops things")
    yield "admin", "WeightsService/Rollback", [back]
    yield "operator", "WeightsService/Why", [weights_pb2.WhyRequest(record_id=names["checkpoint"])]
    asked = jobs_pb2.SubmitRequest(kind="improve", spec_json='{"robot": "robot-1"}', idempotency_key="key-1")
    yield "operator", "JobService/Submit", [asked]
    yield "operator", "JobService/Get", [jobs_pb2.JobId(job_id=names["job"])]
    yield "operator", "JobService/List", [jobs_pb2.ListJobsRequest()]
    yield "operator", "JobService/Cancel", [jobs_pb2.JobId(job_id=names["job"])]
    yield "operator", "JobService/Events", [jobs_pb2.EventsRequest(job_id=names["job"])]
    yield "trainer", "JobService/Claim", [jobs_pb2.ClaimRequest(kinds=["imitate"])]
    event = jobs_pb2.JobEvent(kind="progress", data_json='{"stage": "sft", "step": 1, "total": 2}')
    told = jobs_pb2.ReportRequest(job_id=names["claimed"], events=[event], state="done", result_json='{"ok": true}')
    yield "trainer", "JobService/Report", [told]
    yield "robot", "PolicyService/Infer", [policy_pb2.InferRequest(request_id=7)]
    report = robots_pb2.RobotReport(state="ready", policy_version=names["checkpoint"], takes_orders=True)
    yield "robot", "RobotService/Report", [report]
    yield "operator", "ConsoleService/LogIn", [console_pb2.LogInRequest()]
    if hasattr(console_pb2, "AskRequest"):
        yield "operator", "ConsoleService/Ask", [console_pb2.AskRequest(method="GET", path="/api/robots")]


def main() -> None:
    """Write calls_VERSION.jsonl and protos_VERSION.binpb beside this file."""
    version = sys.argv[1].replace(".", "_")
    protos = FileDescriptorSet()
    for module in SERVICES.values():
        module.DESCRIPTOR.CopyToProto(protos.file.add())
    (HERE / f"protos_{version}.binpb").write_bytes(protos.SerializeToString())
    with tempfile.TemporaryDirectory() as folder, World(Path(folder)).running() as world:
        lines = [json.dumps({"names": world.names})]
        for role, path, messages in spoken(world):
            sent = [message.SerializeToString() for message in messages]
            with world.channel(role) as channel:
                error, answers = call(channel, path, sent)
            line = {"method": path, "role": role, "error": error, "requests": _texts(sent), "replies": _texts(answers)}
            lines.append(json.dumps(line))
    (HERE / f"calls_{version}.jsonl").write_text("\n".join(lines) + "\n")


def _texts(messages: list[bytes]) -> list[str]:
    return [base64.b64encode(message).decode() for message in messages]


if __name__ == "__main__":
    main()
