"""The world model over gRPC: the same pixels as the HTTP API's, for one tenant alone."""

from __future__ import annotations

import contextlib
import socket
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from cloud_trainer.jobs.desk.serving import PredictLimits, served_typed
from cloud_trainer.practice.imagine import RecordedActions, imagine
from cloud_trainer.service import enroll
from cloud_trainer.world_model.compact.env import CompactWorldModelEnv
from cloud_trainer.world_model.compact.model import CompactWorldModel
from cloud_trainer.world_model.serving.messages import ApiError
from cloud_trainer.world_model.serving.typed import TypedPredictions
from cloud_trainer.world_model.starts import StartState
from gymnast_client.worlds import WorldClient, WorldSample
from gymnast_core.errors import BridgeError, ConfigError, ShapeError, TransientBridgeError
from gymnast_core.jobs.practice import DreamConfig
from gymnast_core.wire.channel import domain_error
from gymnast_core.wire.errors import BusyError, IdReusedError, InvalidMessageError, NotPermittedError, ServerFaultError
from gymnast_core.wire.gymnast.v1 import worlds_pb2
from gymnast_core.wire.identity import Identity
from gymnast_core.wire.peers import CertifiedAccess
from gymnast_core.wire.revocation import Revocations, RevokedFile
from tests.cloud.learning_fakes import episode, tiny_world_model

LIMITS = PredictLimits(horizon=6, batch=2, request_bytes=200_000, timeout_s=60)
STEP = np.array([[0.02, -0.01, -0.02, 0.0, 0.0, 0.0, 1.0]], np.float32)
SAMPLE = WorldSample(next(iter(episode(0).images.values()))[:1], np.array(
    [[0.25, 0.0, 0.15, 0.0, 0.0, 0.0, 1.0]], np.float32), np.repeat(STEP, 6, axis=0), seed=7)  # fmt: skip


class Lab:
    """A served tiny world, and people of two tenants."""

    def __init__(self, folder: Path) -> None:
        made = (("sim", "server", "default"), ("ana", "operator", "default"), ("rob", "robot", "default"),
                ("bob", "admin", "acme"))  # fmt: skip
        self.ids = {
            name: Identity.load(
                enroll(folder / "ca", name, role, out=folder / name, tenant=tenant, hosts=["localhost"])
            )
            for name, role, tenant in made
        }
        tiny_world_model().save(folder / "world")
        self.folder = folder
        self.server, self.version = served_typed(
            folder / "world", LIMITS, DreamConfig(), where="localhost:0", access=self.access("sim")
        )

    def access(self, name: str) -> CertifiedAccess:
        return CertifiedAccess(self.ids[name], Revocations(RevokedFile(self.folder / "ca")))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("typed"))
    yield lab
    lab.server.stop()


@pytest.fixture(scope="module")
def client(lab: Lab) -> Iterator[WorldClient]:
    client = WorldClient(lab.server.address, str(lab.folder / "ana"))  # as docs/interop.md does
    yield client
    client.close()


def test_it_describes_what_it_takes(lab: Lab, client: WorldClient) -> None:
    found = client.describe()
    assert (found.model_version, found.image_size, found.horizon, found.batch) == (lab.version, 64, 6, 2)


def test_frames_are_the_models_own_by_seed_and_whatever_else_is_asked(lab: Lab, client: WorldClient) -> None:
    (frames,) = client.predict([SAMPLE])
    start = StartState(SAMPLE.frames_FHWC[0], SAMPLE.frames_FHWC[0], SAMPLE.states_FP[0], "", 0, "sample-0", 6)
    env = CompactWorldModelEnv(CompactWorldModel.load(lab.folder / "world"), [start], max_steps=6, in_order=True)
    own = imagine(env, RecordedActions(SAMPLE.actions_TA[None]), "as commanded", seed=7)
    np.testing.assert_array_equal(frames[[4, 5]], own.frames_BFHWC[0, 1:])
    other, again = client.predict([replace(SAMPLE, seed=8), SAMPLE])
    np.testing.assert_array_equal(again, frames)
    assert (other != frames).any()


def test_an_id_may_come_again_but_not_for_something_else(client: WorldClient) -> None:
    name = str(uuid.uuid4())
    first, second = (client.predict([SAMPLE], request_id=name) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    with pytest.raises(IdReusedError, match="other content"):
        client.predict([replace(SAMPLE, seed=8)], request_id=name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"actions_TA": np.repeat(STEP, 7, axis=0)}, r"samples\[0\].actions has 7 entries; 1 to 6"),
        ({"actions_TA": 10 * STEP}, r"samples\[0\].actions\[0\]\[0\] is 0.2; from -0.05 to 0.05"),
        ({"actions_TA": np.float32(np.nan) * STEP}, "finite number"),
        ({"frames_FHWC": np.zeros((1, 32, 32, 3), np.uint8)}, "is 32 x 32; expected 64 x 64"),
    ],
)
def test_a_sample_that_cannot_be_dreamt_is_refused_by_the_name_of_its_field(
    client: WorldClient, change: dict[str, np.ndarray], said: str
) -> None:
    with pytest.raises(InvalidMessageError, match=said):
        client.predict([replace(SAMPLE, **change)])
    with pytest.raises(InvalidMessageError, match="at most 2"):
        client.predict([SAMPLE] * 3)
    with pytest.raises(ShapeError, match="states_FP must be"):
        client.predict([replace(SAMPLE, states_FP=np.zeros((2, 7), np.float32))])


def raw(channel: grpc.Channel, method: str, body: bytes) -> str:
    """Any bytes as a request; returns the error's name, or nothing."""
    made = channel.unary_unary(
        f"/gymnast.v1.WorldModelService/{method}", request_serializer=bytes, response_deserializer=bytes
    )
    try:
        made(body, timeout=30)
    except grpc.RpcError as error:
        return type(domain_error(error)).__name__
    return ""


def test_no_method_answers_another_tenant_and_nonsense_is_answered_by_name(lab: Lab) -> None:
    methods = [method.name for method in worlds_pb2.DESCRIPTOR.services_by_name["WorldModelService"].methods]
    stranger, own = (WorldClient(lab.server.address, lab.ids[name]) for name in ("bob", "rob"))
    asked = worlds_pb2.WorldPredictRequest(model_version=lab.version).SerializeToString()
    for method in methods:
        assert raw(stranger._channel, method, asked) == "NotPermittedError", method
    with pytest.raises(NotPermittedError, match="of default ask this world model"):
        stranger.describe()
    assert own.describe().model_version == lab.version
    for body in (b"\xff" * 50, asked, b"\x00" * 300_000):
        assert raw(own._channel, "Predict", body), "refused, and by a name"
    assert own.describe().model_version == lab.version, "and still there"
    for one in (stranger, own):
        one.close()
    with grpc.insecure_channel(lab.server.address) as channel:
        assert raw(channel, "Describe", b"") in ("TransientBridgeError", "RejectedBridgeError")


def test_what_fails_inside_goes_out_by_name_and_without_its_text(
    lab: Lab, client: WorldClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: TypedPredictions) -> worlds_pb2.WorldDescription:
        raise RuntimeError(f"cannot read {lab.folder}/world")

    monkeypatch.setattr(TypedPredictions, "describe", broken)
    with pytest.raises(ServerFaultError, match="its log has it") as failure:
        client.describe()
    assert str(lab.folder) not in str(failure.value)


def test_it_is_served_with_a_servers_certificate_alone(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="certificate of operator ana"):
        served_typed(lab.folder / "world", LIMITS, DreamConfig(), where="localhost:0", access=lab.access("ana"))
    with pytest.raises(BridgeError):
        WorldClient("localhost:1", lab.ids["ana"]).describe()


def test_one_that_is_not_there_is_named_with_what_should_run_there(lab: Lab) -> None:
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        absent = WorldClient(address, lab.folder / "ana")
        with pytest.raises(TransientBridgeError, match=rf"{address} is not reached; does `gymnast wm serve --grpc`"):
            absent.describe()
        absent.close()


def test_while_others_are_dreamt_for_the_next_is_sent_away() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow:
        version, limits = "slow", LIMITS

        def check(self, asked: object) -> list[object]:
            begun.set()
            go_on.wait(60)
            raise ApiError("INVALID_ARGUMENT", "slow and refused")

    predictions = TypedPredictions(Slow())  # type: ignore[arg-type]  # as much of a predictor as is asked
    message = worlds_pb2.WorldPredictRequest(
        request_id=str(uuid.uuid4()), model_version="slow", samples=[worlds_pb2.WorldSample(sample_id="a")]
    )

    def ask() -> None:
        with contextlib.suppress(InvalidMessageError):
            predictions.predict(message, lambda: True)

    first = threading.Thread(target=ask)
    first.start()
    assert begun.wait(60)
    with pytest.raises(BusyError, match="ask again"):
        predictions.predict(message, lambda: True)
    go_on.set()
    first.join()
    with pytest.raises(InvalidMessageError, match="slow and refused"):  # the place is free again
        predictions.predict(message, lambda: True)
