"""Who may call what: identity from the certificate, a table of roles, deny by default."""

from __future__ import annotations

import functools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from gymnast_core.wire.errors import BusyError, NotPermittedError
from gymnast_core.wire.identity import Peer, peer_of

LOG = logging.getLogger(__name__)

_ROBOT, _OPERATOR, _TRAINER, _ADMIN = "robot", "operator", "trainer", "admin"
_PEOPLE = frozenset({_OPERATOR, _ADMIN})
_EVERYBODY = frozenset({_ROBOT, _OPERATOR, _TRAINER, _ADMIN})
_V1 = "/gymnast.v1."

ROLES_OF: dict[str, frozenset[str]] = {
    f"{_V1}TrajectoryService/Upload": frozenset({_ROBOT, _ADMIN}),
    f"{_V1}TrajectoryService/ListEpisodes": _PEOPLE | {_TRAINER},
    f"{_V1}TrajectoryService/LabelEpisode": _PEOPLE,
    f"{_V1}TrajectoryService/RetractEpisode": _PEOPLE,
    f"{_V1}WeightsService/Publish": frozenset({_TRAINER, _ADMIN}),
    f"{_V1}WeightsService/Watch": _EVERYBODY,
    f"{_V1}WeightsService/ListReleases": _EVERYBODY,
    f"{_V1}WeightsService/Fetch": _EVERYBODY,
    f"{_V1}WeightsService/Rollback": frozenset({_ADMIN}),
    f"{_V1}WeightsService/Why": _PEOPLE | {_TRAINER},
    f"{_V1}JobService/Submit": _PEOPLE | {_ROBOT, _TRAINER},
    f"{_V1}JobService/Get": _EVERYBODY,
    f"{_V1}JobService/List": _EVERYBODY,
    f"{_V1}JobService/Cancel": _PEOPLE | {_ROBOT},
    f"{_V1}JobService/Events": _EVERYBODY,
    f"{_V1}JobService/Claim": frozenset({_TRAINER, _ADMIN}),
    f"{_V1}JobService/Report": frozenset({_TRAINER, _ADMIN}),
    f"{_V1}PolicyService/Infer": frozenset({_ROBOT, _ADMIN}),
    f"{_V1}RobotService/Report": frozenset({_ROBOT, _ADMIN}),
    f"{_V1}ConsoleService/LogIn": _PEOPLE | {_TRAINER},
    f"{_V1}ConsoleService/Ask": _EVERYBODY,
    "/grpc.health.v1.Health/Check": _EVERYBODY,
    "/grpc.health.v1.Health/List": _EVERYBODY,
    "/grpc.health.v1.Health/Watch": _EVERYBODY,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": frozenset({_ADMIN}),
}
"""Method -> roles. A method that is not listed is refused to everybody; a test walks every registered service."""

INSECURE_PEER = Peer(name="insecure", role=_ADMIN, tenant="default")

_peer_of = functools.lru_cache(maxsize=1024)(peer_of)


def authorise(method: str, peer: Peer | None) -> Peer:
    """Return the peer if it may call the method.

    Raises:
        NotPermittedError: no certificate of ours, an unlisted method, or another role is needed.
    """
    if peer is None:
        raise NotPermittedError("the certificate names no gymnast identity; get one with `gymnast enroll`")
    allowed = ROLES_OF.get(method, frozenset())
    if peer.role not in allowed:
        raise NotPermittedError(f"{method} needs one of {sorted(allowed)}, {peer.name!r} is {peer.role!r}")
    return peer


def peer_from(context: Any, *, insecure: bool) -> Peer | None:
    """The caller's identity, from its certificate alone."""
    if insecure:
        return INSECURE_PEER
    certificates = context.auth_context().get("x509_pem_cert")
    return _peer_of(bytes(certificates[0])) if certificates else None


class StreamSlots:
    """How many long calls each certificate has open.

    Args:
        per_peer: at most so many.
    """

    def __init__(self, per_peer: int) -> None:
        self._per_peer = per_peer
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def slot(self, peer: Peer, kind: str) -> Iterator[None]:
        """Hold one slot.

        Raises:
            BusyError: the peer has too many calls of this kind open.
        """
        key = f"{peer.uri()}/{kind}"
        with self._lock:
            if self._open[key] >= self._per_peer:
                raise BusyError(f"{peer.name!r} has {self._per_peer} {kind} streams open; close one")
            self._open[key] += 1
        try:
            yield
        finally:
            with self._lock:
                self._open[key] -= 1
                if not self._open[key]:
                    del self._open[key]


Wrap = Callable[[str, grpc.RpcMethodHandler], grpc.RpcMethodHandler]


class GuardInterceptor(grpc.ServerInterceptor):  # type: ignore[misc]
    """Puts the guard in front of every method of every service, health and reflection included.

    Args:
        wrap: gets a method's name and handler and returns the guarded handler.
    """

    def __init__(self, wrap: Wrap) -> None:
        self._wrap = wrap
        self._guarded: dict[str, grpc.RpcMethodHandler] = {}

    def intercept_service(
        self, continuation: Callable[[Any], grpc.RpcMethodHandler | None], handler_call_details: Any
    ) -> grpc.RpcMethodHandler | None:
        """Return the guarded handler; an unknown method stays unknown."""
        method = handler_call_details.method
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        if method not in self._guarded:
            self._guarded[method] = self._wrap(method, handler)
        return self._guarded[method]
