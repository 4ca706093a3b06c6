"""A policy that runs on the trainer's machine; when it does not answer in time the arm holds."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import numpy as np

from gymnast_client.link import Link
from gymnast_core.episodes.writer import JPEG_QUALITY, encode_jpeg
from gymnast_core.errors import ContractError, PolicyFailedError
from gymnast_core.types import ACTION_DIM, ActionChunk, Observation
from gymnast_core.wire.errors import IdentityError, LinkLostError, error_from_wire
from gymnast_core.wire.gymnast.v1 import policy_pb2, policy_pb2_grpc
from gymnast_core.wire.identity import Identity

_SEED_LIMIT = 2**63


class RemotePolicy:
    """A Policy (gymnast_core.policy) behind PolicyService.

    act() either returns in time or raises; it never returns an old answer. Whoever drives the arm sends nothing then,
    and the command gate's deadman holds it. The next act() opens a new stream.

    Args:
        address: host:port.
        identity: identity folder.
        deadline_s: longest wait for an answer.
        insecure: no TLS.
        with_log_probs: ask for tokens and log-probabilities, too.
        jpeg_quality: of the frames sent: a policy sees them as the trainer sees recorded ones.

    Raises:
        LinkLostError: the trainer did not answer the greeting.
        IdentityError: it is not the one that was meant, or refuses us.
    """

    def __init__(
        self,
        address: str,
        identity: Path | Identity | None,
        *,
        deadline_s: float = 0.5,
        insecure: bool = False,
        with_log_probs: bool = False,
        jpeg_quality: int = JPEG_QUALITY,
    ) -> None:
        self._link = Link(address, identity, insecure=insecure)
        self._deadline_s, self._with_log_probs, self._quality = deadline_s, with_log_probs, jpeg_quality
        self._lock = threading.Lock()
        self._stream: _Stream | None = None
        self._next_id = 1
        hello = self._ask(policy_pb2.InferRequest(), deadline_s=max(deadline_s, 10.0))
        self._version, self._chunk_length = str(hello.policy_version), int(hello.chunk_length)
        self._temperature = float(hello.temperature) or None  # an older trainer names none

    @property
    def version(self) -> str:
        """Of the policy that answered last."""
        return self._version

    @property
    def chunk_length(self) -> int:
        """K."""
        return self._chunk_length

    @property
    def temperature(self) -> float | None:
        """What it samples at unless another one is asked for; None where it cannot be given any."""
        return self._temperature

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """See Policy.

        Raises:
            ContractError: the number of instructions differs from B.
            LinkLostError: no answer within the deadline.
            PolicyFailedError: the policy raised, or its answer is no action.
            RejectedBridgeError: the trainer refused the question.
        """
        return self._act(observation, instruction, rng, 0.0)

    def act_at(
        self, temperature: float, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator
    ) -> ActionChunk:
        """See TemperedPolicy; raises as act()."""
        return self._act(observation, instruction, rng, temperature)

    def _act(
        self, observation: Observation, instruction: Sequence[str], rng: np.random.Generator | None, temperature: float
    ) -> ActionChunk:
        rows = observation.batch_size
        if len(instruction) != rows:
            raise ContractError(f"{len(instruction)} instructions for a batch of {rows}")
        request = policy_pb2.InferRequest(
            instructions=list(instruction),
            cameras=[
                policy_pb2.Camera(name=name, jpeg=[encode_jpeg(np.asarray(frame), self._quality) for frame in frames])
                for name, frames in observation.images.items()
            ],
            proprio=observation.proprio_BP.ravel().tolist(),
            time_ns=observation.time_ns_B.tolist(),
            sample=rng is not None,
            seed=int(rng.integers(_SEED_LIMIT)) if rng is not None else 0,
            with_log_probs=self._with_log_probs,
            temperature=temperature,
        )
        if (past := observation.past) is not None:
            request.past_proprio.extend(past.proprio_BHP.ravel().tolist())
            request.past_actions.extend(past.actions_BHA.ravel().tolist())
            request.past_steps.extend(past.valid_BH.sum(axis=1).tolist())
        reply = self._ask(request, deadline_s=self._deadline_s)
        self._version, self._temperature = str(reply.policy_version), float(reply.temperature) or None
        return _chunk(reply, rows)

    def close(self) -> None:
        """Hang up; safe to call twice."""
        with self._lock:
            self._drop()
        self._link.close()

    def _ask(self, request: policy_pb2.InferRequest, *, deadline_s: float) -> policy_pb2.InferReply:
        """Send one request and wait for its answer; anything else ends the stream."""
        with self._lock:
            request.request_id, self._next_id = self._next_id, self._next_id + 1
            try:
                if self._stream is None:
                    self._stream = _Stream(self._link)
                reply = self._stream.ask(request, deadline_s)
            except (LinkLostError, IdentityError):
                self._drop()
                self._link.reconnect()
                raise
        if reply.error:
            raise error_from_wire(reply.error, reply.message, retry=False)
        return reply

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class _Stream:
    """One Infer stream: a queue out, a thread and a queue in."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._out: queue.SimpleQueue[policy_pb2.InferRequest | None] = queue.SimpleQueue()
        self._in: queue.SimpleQueue[policy_pb2.InferReply | Exception] = queue.SimpleQueue()
        self._call = policy_pb2_grpc.PolicyServiceStub(link.channel()).Infer(self._requests())
        threading.Thread(target=self._read, name="remote-policy", daemon=True).start()

    def ask(self, request: policy_pb2.InferRequest, deadline_s: float) -> policy_pb2.InferReply:
        self._out.put(request)
        try:
            reply = self._in.get(timeout=deadline_s)
        except queue.Empty:
            raise LinkLostError(f"the remote policy did not answer within {deadline_s} s; the arm holds") from None
        if isinstance(reply, IdentityError):
            raise reply
        if isinstance(reply, Exception):
            raise LinkLostError(f"the link to the remote policy broke: {reply}; the arm holds") from reply
        if reply.request_id != request.request_id:
            raise LinkLostError(f"answer {reply.request_id} to question {request.request_id}; the arm holds")
        return reply

    def close(self) -> None:
        self._out.put(None)
        self._call.cancel()

    def _requests(self) -> Iterator[policy_pb2.InferRequest]:
        while (request := self._out.get()) is not None:
            yield request

    def _read(self) -> None:
        try:
            for reply in self._call:
                self._in.put(reply)
            self._in.put(ConnectionError("the stream ended"))
        except grpc.RpcError as failure:
            self._in.put(self._link.failure(failure))


def _chunk(reply: policy_pb2.InferReply, rows: int) -> ActionChunk:
    shape = (rows, int(reply.chunk_length), ACTION_DIM)
    count = rows * shape[1] * ACTION_DIM
    if shape[1] < 1 or len(reply.actions) != count:
        raise PolicyFailedError(f"{len(reply.actions)} action values of the remote policy came, {count} make {shape}")
    actions = np.array(reply.actions, np.float32).reshape(shape)
    if not np.isfinite(actions).all():
        raise PolicyFailedError("an action of the remote policy is not finite")
    whole = len(reply.tokens) == len(reply.log_probs) == count
    trace = {"tokens": np.array(reply.tokens, np.int64).reshape(shape)} if whole else {}
    log_probs = np.array(reply.log_probs, np.float32).reshape(shape) if whole else None
    return ActionChunk(actions, str(reply.policy_version), trace, log_probs)
