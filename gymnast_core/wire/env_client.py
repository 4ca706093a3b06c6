"""An environment that runs elsewhere, as one more Env: `gymnast env serve` is its other end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import grpc
import numpy as np

from gymnast_core.env import checked_action, instructions_for
from gymnast_core.errors import EnvLostError, EpisodeOverError, GymnastError
from gymnast_core.spec import EnvSpec
from gymnast_core.types import BoolArray, FloatArray, Observation, StepResult
from gymnast_core.wire.channel import CLIENT_OPTIONS, ended_error, open_channel
from gymnast_core.wire.env_codec import MESSAGE_OPTIONS, UNIX, observation_of, spec_of, step_of
from gymnast_core.wire.gymnast.v1 import env_pb2, env_pb2_grpc
from gymnast_core.wire.identity import Identity

OPEN_S, RESET_S, STEP_S = 10.0, 240.0, 90.0
"""Longer than the other end waits for its environment, so that it is the one to say what went wrong."""
ReplyT = TypeVar("ReplyT")


class RemoteEnv:
    """Keeps gymnast_core.env.Env over EnvService; it is this driver's until close().

    Args:
        address: unix:PATH, or HOST:PORT.
        identity: for HOST:PORT.

    Raises:
        ConfigError: no identity, or no address.
        OccupiedError: somebody else drives it.
        BridgeError: it is not there, or refuses.
    """

    def __init__(self, address: str, identity: Identity | None = None) -> None:
        self._channel = _channel(address, identity)
        self._stub = env_pb2_grpc.EnvServiceStub(self._channel)
        self._open = False
        self._done_B: BoolArray | None = None
        try:
            reply = self._asked(lambda: self._stub.Open(env_pb2.EnvOpenRequest(), timeout=OPEN_S))
            self._session, self._spec = reply.session, spec_of(reply.description)
        except GymnastError:
            self._channel.close()
            raise
        self._instruction = reply.description.instruction
        self._won_B = np.zeros(self._spec.batch_size, np.bool_)
        self._open = True

    @property
    def spec(self) -> EnvSpec:
        """Sizes and names."""
        return self._spec

    @property
    def instruction(self) -> str:
        """The one that the environment takes."""
        return self._instruction

    def succeeded(self) -> list[bool]:
        """Whether each row's task was done at any time of this episode, as the environment says."""
        return [bool(won) for won in self._won_B]

    def reset(self, instruction: str | Sequence[str], *, seed: int) -> Observation:
        """Start B episodes; see Env.reset. An environment that ended is started anew.

        Raises:
            EnvLostError: it cannot be.
            BridgeError: its server is away, or it is another driver's by now.
        """
        rows = instructions_for(instruction, self._spec.batch_size)
        self._done_B = None
        request = env_pb2.EnvResetRequest(session=self._session, instructions=rows, seed=seed)
        observation = observation_of(self._asked(lambda: self._stub.Reset(request, timeout=RESET_S)), self._spec)
        self._done_B, self._won_B = np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.bool_)
        return observation

    def step(self, action_BA: FloatArray) -> StepResult:
        """Command one action per row; see Env.step.

        Raises:
            EnvLostError: the environment failed, ended or did not answer, and with it the episode.
            BridgeError: its server is away, or it is another driver's by now.
        """
        checked_action(action_BA, self._spec.batch_size)
        if self._done_B is None or self._done_B.all():
            raise EpisodeOverError("the episode is over or was never begun; call reset() first")
        request = env_pb2.EnvStepRequest(session=self._session, action=action_BA.ravel().tolist())
        try:
            reply = self._asked(lambda: self._stub.Step(request, timeout=STEP_S))
            result = step_of(reply, self._spec)
        except GymnastError:
            self._done_B = None
            raise
        self._done_B, self._won_B = result.done_B, np.array(reply.succeeded, np.bool_)
        return result

    def close(self) -> None:
        """Leave it to others; safe to call twice."""
        if self._open:
            self._open, self._done_B = False, None
            with contextlib.suppress(grpc.RpcError):  # its server may be gone
                self._stub.Close(env_pb2.EnvCloseRequest(session=self._session), timeout=OPEN_S)
            self._channel.close()

    def _asked(self, call: Callable[[], ReplyT]) -> ReplyT:
        try:
            return call()
        except grpc.RpcError as error:
            found = ended_error(error, lambda: self._stub.Close(env_pb2.EnvCloseRequest(), timeout=OPEN_S))
            if error.code() is grpc.StatusCode.UNAVAILABLE and not isinstance(found, EnvLostError):
                raise EnvLostError(f"the environment's server is not there: {found}") from error
            raise found from error


def _channel(address: str, identity: Identity | None) -> grpc.Channel:
    if address.startswith(UNIX):
        own = grpc.local_channel_credentials(grpc.LocalConnectionType.UDS)
        return grpc.secure_channel(address, own, options=(*CLIENT_OPTIONS, *MESSAGE_OPTIONS))
    return open_channel(address, identity, more=MESSAGE_OPTIONS)
