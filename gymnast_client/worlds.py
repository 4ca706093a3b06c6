"""A world model that is served elsewhere (`gymnast wm serve --grpc`): frames for actions, by seed."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import grpc
import numpy as np

from gymnast_client.client import same_fields
from gymnast_core.arm.targets import commanded_proprioception
from gymnast_core.episodes import read_episode
from gymnast_core.errors import ShapeError, TransientBridgeError
from gymnast_core.pictures import decode_picture, encode_png
from gymnast_core.types import ACTION_DIM, PROPRIO_DIM, ByteArray, FloatArray
from gymnast_core.wire.channel import UNARY_DEADLINE_S, ended_error, open_channel
from gymnast_core.wire.gymnast.v1 import worlds_pb2, worlds_pb2_grpc
from gymnast_core.wire.identity import Identity

ReplyT = TypeVar("ReplyT")


@dataclass(frozen=True)
class WorldView:
    """What a served world model takes, and how much of it; see WorldDescription in worlds.proto."""

    model_version: str
    image_size: int
    context_frames: int
    horizon: int
    batch: int
    request_bytes: int
    concurrency: int
    timeout_s: float


@dataclass(frozen=True)
class WorldSample:
    """One rollout that is asked for.

    Attributes:
        frames_FHWC: (F, H, W, 3) uint8, oldest first: the episode's first, those before now, and now.
        states_FP: (F, 7) float32 pose of the arm at each.
        actions_TA: (T, 7) float32, what is commanded next.
        seed: of the model's noise.
        led_FA: (F - 1, 7) float32 actions between the frames; none where there is one frame.
        instruction: may be empty.
    """

    frames_FHWC: ByteArray
    states_FP: FloatArray
    actions_TA: FloatArray
    seed: int = 0
    led_FA: FloatArray | None = None
    instruction: str = ""


class WorldClient:
    """Asks a served world model.

    Args:
        address: HOST:PORT.
        identity: ours, of the server's tenant, or its folder.

    Raises:
        ConfigError: no identity, or no address.
    """

    def __init__(self, address: str, identity: Path | str | Identity) -> None:
        own = identity if isinstance(identity, Identity) else Identity.load(Path(identity))
        self._address = address
        self._channel = open_channel(address, own)
        self._stub = worlds_pb2_grpc.WorldModelServiceStub(self._channel)
        self._known: WorldView | None = None

    def describe(self) -> WorldView:
        """Return what the model takes.

        Raises:
            BridgeError: it is not there, or refuses.
        """
        asked = worlds_pb2.DescribeWorldRequest()
        found = self._asked(lambda: self._stub.Describe(asked, timeout=UNARY_DEADLINE_S))
        self._known = WorldView(**same_fields(found, [field.name for field in fields(WorldView)]))
        return self._known

    def predict(self, samples: Sequence[WorldSample], *, request_id: str = "") -> list[ByteArray]:
        """Return (T, H, W, 3) uint8 frames for every sample: those that its actions lead to.

        Args:
            samples: at least one, at most as many as describe() says.
            request_id: a UUID; the same one with the same samples may be sent again. Empty takes a fresh one.

        Raises:
            ShapeError: a sample's arrays do not fit each other.
            InvalidMessageError: the service does not take it; the message names the field.
            IdReusedError: the id was sent with other samples before.
            BusyError: the service computes for others; ask again.
            BridgeError: it is not there, or refuses otherwise.
        """
        known = self._known or self.describe()
        request = worlds_pb2.WorldPredictRequest(
            request_id=request_id or str(uuid.uuid4()), model_version=known.model_version,
            samples=[_message(sample, f"sample-{index}") for index, sample in enumerate(samples)],
        )  # fmt: skip
        reply = self._asked(lambda: self._stub.Predict(request, timeout=known.timeout_s + UNARY_DEADLINE_S))
        return [np.stack([decode_picture(frame) for frame in one.frames]) for one in reply.predictions]

    def _asked(self, call: Callable[[], ReplyT]) -> ReplyT:
        try:
            return call()
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE and "connect" in (error.details() or ""):
                raise TransientBridgeError(
                    f"{self._address} is not reached; does `gymnast wm serve --grpc` run there? ({error.details()})"
                ) from error
            asked = worlds_pb2.DescribeWorldRequest()
            raise ended_error(error, lambda: self._stub.Describe(asked, timeout=UNARY_DEADLINE_S)) from error

    def close(self) -> None:
        """Let go of the channel."""
        self._channel.close()


def replayed(client: WorldClient, file: Path, *, seed: int = 0) -> tuple[ByteArray, ByteArray]:
    """Replay a recorded episode's actions: as many as the service takes at once.

    Args:
        client: of the service.
        file: one .mcap file.
        seed: of the model's noise.

    Returns:
        (T + 1, H, W, 3) uint8 recorded and imagined frames, the first the same; of the episode's first camera.

    Raises:
        CorruptError: no episode.
        BridgeError: the service is not there, or refuses.
    """
    world = client.describe()
    episode = read_episode(file, image_size=(world.image_size, world.image_size))
    real, actions_TA = next(iter(episode.images.values())), episode.actions_TA[: world.horizon]
    pose_FP = commanded_proprioception(episode.proprio_TP[:1], actions_TA[None])[0, :1]
    sample = WorldSample(real[:1], pose_FP, actions_TA, seed=seed, instruction=episode.instruction)
    (frames,) = client.predict([sample])
    return real[: len(frames) + 1], np.concatenate((real[:1], frames))


def _message(sample: WorldSample, name: str) -> worlds_pb2.WorldSample:
    count, led = len(sample.frames_FHWC), sample.led_FA
    led = np.zeros((0, ACTION_DIM), np.float32) if led is None else led
    for what, array, shape in (
        ("states_FP", sample.states_FP, (count, PROPRIO_DIM)), ("led_FA", led, (max(0, count - 1), ACTION_DIM)),
        ("actions_TA", sample.actions_TA, (len(sample.actions_TA), ACTION_DIM)),
    ):  # fmt: skip
        if array.shape != shape:
            raise ShapeError(f"{what} must be {shape}, got {array.shape}")
    return worlds_pb2.WorldSample(
        sample_id=name, seed=sample.seed, frames=[encode_png(frame) for frame in sample.frames_FHWC],
        led=led.ravel().tolist(), states=sample.states_FP.ravel().tolist(), instruction=sample.instruction,
        actions=sample.actions_TA.ravel().tolist(),
    )  # fmt: skip
