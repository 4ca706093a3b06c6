"""One channel to the trainer, rebuilt when the certificate was rotated or the link failed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np

from gymnast_core.errors import BridgeError, GymnastError, RejectedBridgeError, TransientBridgeError
from gymnast_core.wire.address import Address
from gymnast_core.wire.channel import UNARY_DEADLINE_S, domain_error, open_channel
from gymnast_core.wire.diagnosis import diagnose
from gymnast_core.wire.identity import CERTIFICATE, Identity

LOG = logging.getLogger(__name__)
_Reply = TypeVar("_Reply")
_FIRST_S, _LONGEST_S = 0.1, 5.0
_NOT_REACHED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_LOOK_AGAIN_S = 5.0
"""How long a diagnosis is believed: what fails may fail often."""


class Backoff:
    """Waiting times that double up to a limit, with jitter so that a fleet does not knock in step.

    Args:
        first_s: the first one.
        longest_s: the limit.
        rng: of the jitter.
    """

    def __init__(
        self, first_s: float = _FIRST_S, longest_s: float = _LONGEST_S, rng: np.random.Generator | None = None
    ) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self._rng = rng or np.random.default_rng()
        self._failures = 0

    def next_s(self) -> float:
        """How long to wait after one more failure."""
        ceiling = min(self._longest_s, self._first_s * 2.0**self._failures)
        self._failures = min(self._failures + 1, 30)
        return float(self._rng.uniform(0.5, 1.0) * ceiling)

    def reset(self) -> None:
        """It worked."""
        self._failures = 0


class Link:
    """Where the trainer is and who we are.

    Args:
        address: host:port.
        identity: identity folder; None only with insecure.
        insecure: no TLS.

    Raises:
        ConfigError: the address is none, or the folder holds no identity.
    """

    def __init__(self, address: str, identity: Path | Identity | None, *, insecure: bool = False) -> None:
        self._where = Address.parse(address)
        self.address = str(self._where)
        self._folder = identity.folder if isinstance(identity, Identity) else identity
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
        make: Callable[[grpc.Channel], Callable[..., _Reply]],
        request: Any,
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
            RejectedBridgeError: the trainer refused.
            TransientBridgeError: it could not be reached in time.
        """
        until, backoff = time.monotonic() + patience_s, Backoff()
        while True:
            try:
                return make(self.channel())(request, timeout=timeout_s)
            except grpc.RpcError as failure:
                error = self.failure(failure)
                if isinstance(error, RejectedBridgeError) or not isinstance(error, BridgeError):
                    raise error from failure
                pause = backoff.next_s()
                if time.monotonic() + pause > until:
                    raise error from failure
                if isinstance(error, TransientBridgeError):
                    self.reconnect()
                time.sleep(pause)

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
