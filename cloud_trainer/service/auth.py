"""Who may call what: identity from the certificate, a table of roles, deny by default."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from gymnast_core.authority import authorise
from gymnast_core.wire.errors import BusyError, NotPermittedError
from gymnast_core.wire.identity import Peer

LOG = logging.getLogger(__name__)

_V1 = "/gymnast.v1."

ACTION_OF: dict[str, str] = {
    f"{_V1}TrajectoryService/Upload": "upload",
    f"{_V1}TrajectoryService/ListEpisodes": "look",
    f"{_V1}TrajectoryService/LabelEpisode": "label",
    f"{_V1}TrajectoryService/RetractEpisode": "retract",
    f"{_V1}WeightsService/Publish": "deliver weights",
    f"{_V1}WeightsService/Watch": "follow",
    f"{_V1}WeightsService/ListReleases": "follow",
    f"{_V1}WeightsService/Fetch": "follow",
    f"{_V1}WeightsService/Rollback": "roll back",
    f"{_V1}WeightsService/Why": "look",
    f"{_V1}JobService/Submit": "submit",
    f"{_V1}JobService/Get": "follow",
    f"{_V1}JobService/List": "follow",
    f"{_V1}JobService/Cancel": "cancel its own",
    f"{_V1}JobService/Events": "follow",
    f"{_V1}JobService/Claim": "work",
    f"{_V1}JobService/Report": "work",
    f"{_V1}PolicyService/Infer": "infer",
    f"{_V1}RobotService/Report": "report",
    f"{_V1}EnrollService/Enroll": "enroll",
    f"{_V1}ConsoleService/LogIn": "log in",
    f"{_V1}ConsoleService/Ask": "follow",
    "/grpc.health.v1.Health/Check": "follow",
    "/grpc.health.v1.Health/List": "follow",
    "/grpc.health.v1.Health/Watch": "follow",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "inspect",
}
"""Method -> action (gymnast_core.authority). A method that is not listed is refused to everybody; a test walks every
registered service."""

INSECURE_PEER = Peer(name="insecure", role="admin", tenant="default")


def authorise_call(method: str, peer: Peer | None) -> Peer:
    """Return the peer if it may call the method.

    Raises:
        NotPermittedError: no certificate of ours, an unlisted method, or another role is needed.
    """
    action = ACTION_OF.get(method)
    if action is None:
        raise NotPermittedError(f"{method[:120]} is no method of this service")
    try:
        return authorise(peer, action)
    except NotPermittedError as error:
        raise NotPermittedError(f"{error} (method {method})") from error


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
