"""Fields that are too long, too deep, too many or no number at all: refused before any work, by name, at once."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from safetensors.numpy import save

from cloud_trainer.records.recorder import parents_first
from cloud_trainer.service.methods import SERVICES
from gymnast_client import Trainer
from gymnast_core.records.manifest import Manifest
from gymnast_core.types import Outcome
from gymnast_core.wire.channel import domain_error
from gymnast_core.wire.codec import crc32c
from gymnast_core.wire.errors import DiskFullError
from gymnast_core.wire.gymnast.v1 import (
    jobs_pb2,
    jobs_pb2_grpc,
    trajectories_pb2,
    trajectories_pb2_grpc,
    weights_pb2,
    weights_pb2_grpc,
)
from tests.bridge.test_people import row
from tests.hostile.forged import deep
from tests.hostile.lab import Lab, error_of
from tests.hostile.registry import Tally, attack
from tests.hostile.test_log import posts

TIMEOUT_S = 60.0
FROZEN_S = 3.0
"""The longest another caller may wait while work is refused, on a machine that does much else."""
WEIGHTS = save({})
NAMELESS = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        lab.service.meta.add_episodes([row(f"ep-{n}", state="valid") for n in range(6)])
        lab.checkpoint = "policy-0"
        yield lab


def shaped_weights(count: int) -> bytes:
    header = json.dumps({"a": {"dtype": "U8", "shape": [999_999_999] * count, "data_offsets": [0, 1]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"x"


def manifest_for(weights: bytes, **fields: Any) -> bytes:
    return Manifest("policy", "toy", {}, hashlib.sha256(weights).hexdigest(), len(weights), **fields).to_bytes()


def publish(lab: Lab, identity: Path, manifest: bytes, weights: bytes = WEIGHTS, **opening: Any) -> str:
    """Send a checkpoint by hand; returns the name of the error, empty when it was taken."""

    def requests() -> Iterator[weights_pb2.PublishRequest]:
        yield weights_pb2.PublishRequest(open=weights_pb2.PublishOpen(manifest=manifest, **opening))
        for at in range(0, len(weights), 1 << 20):
            data = weights[at : at + (1 << 20)]
            yield weights_pb2.PublishRequest(chunk=weights_pb2.BlobChunk(offset=at, crc32c=crc32c(data), data=data))

    with lab.channel(identity) as channel:
        return error_of(lambda: weights_pb2_grpc.WeightsServiceStub(channel).Publish(requests(), timeout=TIMEOUT_S))


HEAVY: dict[str, tuple[bytes, bytes]] = {
    "a shape of 200,000 numbers": (manifest_for(shaped_weights(150_000)), shaped_weights(150_000)),
    "15,000 unknown parents": (manifest_for(WEIGHTS, parents=tuple(f"p-{n:016x}" for n in range(15_000))), WEIGHTS),
    "15,000 unknown episodes with labels": (
        manifest_for(WEIGHTS, lineage={"episodes": [{"id": f"e{n}", "outcome": "success"} for n in range(15_000)]}),
        WEIGHTS,
    ),
    "episodes that are none": (manifest_for(WEIGHTS, lineage={"episodes": [1, 2]}), WEIGHTS),
    "episodes that are a word": (manifest_for(WEIGHTS, lineage={"episodes": "abc"}), WEIGHTS),
    "a config 900 deep": (
        manifest_for(WEIGHTS).replace(b'"config":{}', b'"config":' + deep(900).encode()), WEIGHTS,
    ),
    "a config that is not a number": (manifest_for(WEIGHTS).replace(b'"config":{}', b'"config":{"a":NaN}'), WEIGHTS),
}  # fmt: skip
GOOD = ("15,000 unknown episodes with labels",)
"""Large, but what a real checkpoint may say; it must not take others' time."""


class Caller:
    """Somebody else, who asks all the while; the longest wait is the harm."""

    def __init__(self, lab: Lab) -> None:
        self._client = Trainer(lab.service.address, lab.identity("bea", "operator")).jobs
        self._client.list()
        self.longest_s, self._stop = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self._stop.wait(0.02):
            began = time.monotonic()
            self._client.list()
            self.longest_s = max(self.longest_s, time.monotonic() - began)

    def __enter__(self) -> Caller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()


@attack("oversized checkpoints")
def publish_heavy(folder: Path, size: int) -> Tally:
    """A trainer's certificate publishes manifests that are cheap to send and dear to read."""
    with Lab(folder) as lab:
        trainer, total = lab.identity("gpu", "trainer"), Tally(0, 0, 0)
        for what in itertools.islice(itertools.cycle(HEAVY), max(size, len(HEAVY))):
            manifest, weights = HEAVY[what]
            with Caller(lab) as caller:
                taken = publish(lab, trainer, manifest, weights) == ""
            total += Tally(1, int(taken and what not in GOOD), int(caller.longest_s > FROZEN_S))
        return total


@pytest.mark.parametrize("what", list(HEAVY))
def test_what_is_cheap_to_send_is_not_dear_to_read(lab, what):
    manifest, weights = HEAVY[what]
    began = time.monotonic()
    with Caller(lab) as caller:
        refused = publish(lab, lab.identity("gpu", "trainer"), manifest, weights)
    assert bool(refused) == (what not in GOOD), refused
    assert refused in ("", "InvalidMessageError", "NotSafetensorsError")
    assert caller.longest_s < FROZEN_S
    assert time.monotonic() - began < 20


def test_a_long_chain_of_checkpoints_is_put_in_order_without_recursion():
    """Three thousand, each made from the one before and met before it, as when the graph begins anew."""
    chain: list[Manifest] = []
    for number in range(3000):
        parents = (chain[-1].id,) if chain else ()
        chain.append(Manifest("policy", "toy", {"n": number}, "0" * 64, 1, parents=parents))
    began = time.monotonic()
    assert list(parents_first(chain[::-1])) == chain
    assert time.monotonic() - began < 10


WORDS = {
    "a digit that is none": "²", "not a number": "nan", "infinity": "-inf", "5,000 digits": "9" * 5000,
    "a large exponent": "1e400", "deep JSON": deep(3000), "JSON that is not a number": '{"a":NaN}',
    "a zero byte": "a\0b", "half a character": "%ud800\ud7ff", "long": "x" * 50_000, "a list": "[[[]]]",
}  # fmt: skip
NAMES = (
    "outcome", "reason", "robot", "instruction", "robots", "revision", "against", "episodes", "minutes", "seed",
    "money", "config", "pairs", "scene", "rollouts", "mode", "adapter", "other_tasks", "world_model", "judge",
    "tasks", "rule",
)  # fmt: skip


@pytest.mark.parametrize("what", list(WORDS))
def test_no_field_of_the_page_is_answered_with_500(lab, what):
    admin = lab.identity("root", "admin")
    for path in posts(lab):
        for given in (
            dict.fromkeys(NAMES, WORDS[what]),
            {
                "robot": "wx-1",
                "instruction": "lift",
                "reason": "x",
                "config": WORDS[what],
                "rule": WORDS[what],
                "seed": WORDS[what],
                "outcome": "success",
            },
        ):
            answer = lab.page("POST", path, identity=admin, form=given)
            assert answer.status < 500, (path, answer.text[:300])


@pytest.mark.parametrize("word", ["%C2%B2", "-1", "nan", "9" * 5000, "99999999999999999999", "%00", "%ED%A0%80", "1e9"])
def test_no_address_of_the_page_is_answered_with_500(lab, word):
    admin = lab.identity("root", "admin")
    for path in (
        f"/episodes?before={word}", f"/episodes/{word}", f"/episodes/{word}/film.webp", f"/jobs/{word}",
        f"/jobs/job-0/imagined/{word}.webp", f"/jobs/{word}/dreams/{word}.webp", f"/checkpoints/{word}",
        f"/evaluations/{word}", f"/adapt/{word}", f"/adapt/{word}/{word}.webp", f"/robots/{word}/frame",
    ):  # fmt: skip
        answer = lab.page("GET", path, identity=admin)
        assert answer.status < 500, (path[:80], answer.text[:300])


def filled(descriptor: Any, number: int, text: str) -> Any:
    """A message with every field set to something nobody means."""
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if field.type == FieldDescriptor.TYPE_MESSAGE or field.containing_oneof is not None:
            continue
        kind = field.cpp_type
        if kind == FieldDescriptor.CPPTYPE_STRING:
            value: Any = text.encode("utf-8", "replace") if field.type == FieldDescriptor.TYPE_BYTES else text
        elif kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            value = float("nan")
        elif kind == FieldDescriptor.CPPTYPE_BOOL:
            value = True
        else:
            value = (
                number
                if kind == FieldDescriptor.CPPTYPE_UINT64
                else number & 0x7FFFFFFFFFFFFFFF
                if kind == FieldDescriptor.CPPTYPE_INT64
                else number & 0x7FFFFFFF
            )
        many = hasattr(getattr(message, field.name), "extend")
        getattr(message, field.name).extend([value] * 3) if many else setattr(message, field.name, value)
    return message


METHODS = [
    (f"/gymnast.v1.{name}/{method.name}", method)
    for name, module in SERVICES.items()
    for method in module.DESCRIPTOR.services_by_name[name].methods
    if name != "PolicyService"
]


@pytest.mark.parametrize(("path", "method"), METHODS, ids=[path for path, _ in METHODS])
def test_no_number_or_text_makes_a_call_fail_without_a_name(lab, path, method):
    """Every method of the wire, by each role: refused by name or answered, never UNKNOWN and never INTERNAL."""
    numbers = (0, 1 << 63, (1 << 64) - 1)
    texts = ("²", '{"a":NaN}', '{"n":' + "9" * 5000 + "}", deep(900), '{"s":"\\ud800"}', "a\0b", "improve", "ep-0")
    for role in ("robot", "operator", "trainer", "admin"):
        with lab.channel(lab.identity(f"x-{role}", role)) as channel:
            kind = (
                ("stream" if method.client_streaming else "unary")
                + "_"
                + ("stream" if method.server_streaming else "unary")
            )
            call = getattr(channel, kind)(
                path, request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=GetMessageClass(method.output_type).FromString,
            )  # fmt: skip
            for number, text in zip(itertools.cycle(numbers), texts, strict=False):
                message = filled(method.input_type, number, text)
                request = iter([message]) if method.client_streaming else message
                failure = failure_of(call, request, streaming=method.server_streaming)
                assert failure is None or failure.code() not in NAMELESS, (role, number, text[:40], failure.details())


def failure_of(call: Any, request: Any, *, streaming: bool = False) -> Any:
    """How a call failed; None when it did not."""
    try:
        answer = call(request, timeout=0.3 if streaming else 20)
        if streaming:
            next(iter(answer), None)
            answer.cancel()
    except grpc.RpcError as failure:
        return failure
    return None


def test_lists_are_counted_before_they_are_worked_through(lab):
    trainer, admin = lab.identity("gpu", "trainer"), lab.identity("root", "admin")
    with Trainer(lab.service.address, lab.identity("ada", "operator")).jobs as jobs:
        job = jobs.submit("hostile", {}, "counted").job_id
    with lab.channel(trainer) as channel:
        stub = jobs_pb2_grpc.JobServiceStub(channel)
        stub.Claim(jobs_pb2.ClaimRequest(kinds=["hostile"]), timeout=20)
        many = jobs_pb2.ReportRequest(job_id=job, events=[jobs_pb2.JobEvent(kind="k")] * 100_000)
        assert error_of(lambda: stub.Report(many, timeout=20)) == "TooLargeError"
        assert error_of(lambda: stub.Claim(jobs_pb2.ClaimRequest(kinds=["k"] * 40_000), timeout=20)) == "TooLargeError"
    with lab.channel(admin) as channel:
        back = weights_pb2.RollbackRequest(checkpoint_id="policy-0", robots=["r"] * 100_000)
        assert (
            error_of(lambda: weights_pb2_grpc.WeightsServiceStub(channel).Rollback(back, timeout=20)) == "TooLargeError"
        )


def test_a_full_disk_under_the_database_has_a_name_and_nothing_is_half_done(tmp_path):
    with Lab(tmp_path) as lab:
        lab.service.meta.add_episodes([row("ep-1", state="valid")])
        with Trainer(lab.service.address, lab.identity("ada", "operator")).episodes as episodes:
            episodes.label("ep-1", Outcome.FAILURE)
            database = lab.service._database
            with database.transaction() as connection:
                pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
                connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            labels = itertools.cycle(("success", "failure"))  # the same one again changes nothing
            with lab.channel(lab.identity("bea", "operator")) as channel:
                label = trajectories_pb2_grpc.TrajectoryServiceStub(channel).LabelEpisode
                kind = trajectories_pb2.LabelEpisodeRequest
                asked = (kind(episode_id="ep-1", outcome=next(labels)) for _ in range(800))
                failure = next(found for request in asked if (found := failure_of(label, request)) is not None)
            assert isinstance(domain_error(failure), DiskFullError), failure
            assert "full" in failure.details()
            with database.transaction() as connection:
                connection.exec_driver_sql("PRAGMA max_page_count = 1073741823")
            assert episodes.label("ep-1", Outcome.SUCCESS).outcome == "success"
