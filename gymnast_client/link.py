"""One channel to the trainer, rebuilt when the certificate was rotated or the link failed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import grpc
import tenacity

from gymnast_client.waits import Waits, wait_strategy
from gymnast_core.errors import CorruptError, GymnastError, TransientBridgeError
from gymnast_core.wire.address import Address
from gymnast_core.wire.channel import UNARY_DEADLINE_S, domain_error, open_channel
from gymnast_core.wire.codec import crc32c
from gymnast_core.wire.diagnosis import diagnose
from gymnast_core.wire.gymnast.v1 import weights_pb2
from gymnast_core.wire.identity import CERTIFICATE, Identity

LOG = logging.getLogger(__name__)
_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")
_NOT_REACHED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_LOOK_AGAIN_S = 5.0
"""How long a diagnosis is believed: what fails may fail often."""


class Link:
    """Where the trainer is, and our identity.

    Args:
        address: host:port.
        identity: identity folder; None only with insecure.
        insecure: no TLS.

    Raises:
        ConfigError: the address is none, or the folder holds no identity.
    """

    def __init__(self, address: str, identity: Path | str | Identity | None, *, insecure: bool = False) -> None:
        self._where = Address.parse(address)
        self.address = str(self._where)
        self._folder = identity.folder if isinstance(identity, Identity) else Path(identity) if identity else None
        self._insecure = insecure
        self._lock = threading.Lock()
        given = identity if isinstance(identity, Identity) else None
        self._identity = given or (Identity.load(self._folder) if self._folder else None)
        self._channel: grpc.Channel | None = None
        self._looking = threading.Lock()
        self._diagnosis: tuple[float, GymnastError | None] = (-_LOOK_AGAIN_S, None)

    @property
    def identity(self) -> Identity | None:
        """As last read."""
        return self._identity

    @property
    def robot(self) -> str:
        """Our name in the certificate."""
        return self._identity.peer.name if self._identity else "insecure"

    def channel(self) -> grpc.Channel:
        """The channel, new if the certificate on the disk changed."""
        with self._lock:
            if self._identity is not None and self._rotated():
                LOG.info("certificate_rotated folder=%s", self._folder)
                self._drop()
                self._identity = Identity.load(self._identity.folder)
            if self._channel is None:
                self._channel = open_channel(self.address, self._identity, insecure=self._insecure)
            return self._channel

    def reconnect(self) -> None:
        """The next channel() is a fresh one; gRPC's own reconnection may wait longer than we want."""
        with self._lock:
            self._drop()

    def close(self) -> None:
        """Hang up."""
        self.reconnect()

    def failure(self, failure: grpc.RpcError) -> GymnastError:
        """Return what a failed call means; where the trainer was not reached at all, the reason is looked for."""
        error = domain_error(failure)
        if failure.code() not in _NOT_REACHED or type(error) is not TransientBridgeError:
            return error
        with self._looking:
            looked_at, found = self._diagnosis
            if time.monotonic() - looked_at > _LOOK_AGAIN_S:
                found = diagnose(self._where, None if self._insecure else self._identity)
                self._diagnosis = time.monotonic(), found
        return error if found is None else type(found)(str(found))

    def call(
        self,
        make: Callable[[grpc.Channel], grpc.UnaryUnaryMultiCallable[_Request, _Reply]],
        request: _Request,
        *,
        timeout_s: float = UNARY_DEADLINE_S,
        patience_s: float = 20.0,
    ) -> _Reply:
        """Make one call, again while the failure is transient; every method we call this way may be repeated.

        Args:
            make: gets the method from a channel (a stub's attribute).
            request: the message.
            timeout_s: deadline of one attempt.
            patience_s: no attempt starts later than this.

        Raises:
            GymnastError: the trainer refused; of the class it was refused with.
            TransientBridgeError: it could not be reached in time.
        """
        attempt_again = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientBridgeError), wait=wait_strategy(),
            stop=tenacity.stop_before_delay(patience_s), reraise=True,
        )  # fmt: skip
        reply: _Reply = attempt_again(self.once, make, request, timeout_s=timeout_s)
        return reply

    def once(
        self,
        make: Callable[[grpc.Channel], grpc.UnaryUnaryMultiCallable[_Request, _Reply]],
        request: _Request,
        *,
        timeout_s: float,
    ) -> _Reply:
        """Make one call that may not be repeated: what it does is done twice then; raises as call()."""
        try:
            return make(self.channel())(request, timeout=timeout_s)
        except grpc.RpcError as failure:
            error = self.failure(failure)
            if isinstance(error, TransientBridgeError):
                self.reconnect()
            raise error from failure

    def stream(
        self,
        make: Callable[[grpc.Channel], grpc.UnaryStreamMultiCallable[_Request, _Reply]],
        request: _Request,
        *,
        timeout_s: float,
    ) -> Iterator[_Reply]:
        """Yield the answers of one call; raises as call()."""
        try:
            yield from make(self.channel())(request, timeout=timeout_s)
        except grpc.RpcError as failure:
            error = self.failure(failure)
            if isinstance(error, TransientBridgeError):
                self.reconnect()
            raise error from failure

    def follow(
        self,
        make: Callable[[grpc.Channel], grpc.UnaryStreamMultiCallable[_Request, _Reply]],
        request: Callable[[], _Request],
        *,
        timeout_s: float,
        patience_s: float,
    ) -> Iterator[_Reply]:
        """Yield the answers of a call that lasts until it ends, across broken links and restarts of the trainer.

        Args:
            make: gets the method from a channel.
            request: makes the message of each call, so that a later one goes on behind what was answered.
            timeout_s: deadline of one call; what is followed may be silent for longer.
            patience_s: give up after being without a trainer for so long.

        Raises:
            GymnastError: the trainer refused; of the class it was refused with.
            TransientBridgeError: it stayed away.
        """
        waits, away_since_s = Waits(), time.monotonic()
        while True:
            try:
                for reply in make(self.channel())(request(), timeout=timeout_s):
                    away_since_s = time.monotonic()
                    waits.reset()
                    yield reply
                return
            except grpc.RpcError as failure:
                error = self.failure(failure)
                if failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED:  # it was silent for long; asked again
                    away_since_s = time.monotonic()
                    continue
                if not isinstance(error, TransientBridgeError) or time.monotonic() - away_since_s > patience_s:
                    raise error from failure
                self.reconnect()
                time.sleep(waits.next_s())

    def pieces(
        self,
        make: Callable[[grpc.Channel], grpc.UnaryStreamMultiCallable[_Request, weights_pb2.BlobChunk]],
        request: _Request,
        what: str,
        *,
        timeout_s: float,
    ) -> bytes:
        """Return an answer that comes in pieces; raises as call().

        Raises:
            CorruptError: it was damaged on the way.
        """
        whole = bytearray()
        for chunk in self.stream(make, request, timeout_s=timeout_s):
            if chunk.offset != len(whole) or crc32c(chunk.data) != chunk.crc32c:
                raise CorruptError(f"the answer about {what} is damaged at byte {len(whole)}; ask again")
            whole += chunk.data
        return bytes(whole)

    def _rotated(self) -> bool:
        assert self._identity is not None  # asked only with one
        try:
            return (self._identity.folder / CERTIFICATE).read_bytes() != self._identity.certificate
        except OSError as error:
            LOG.warning("certificate_unreadable error=%s", error)
            return False

    def _drop(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
