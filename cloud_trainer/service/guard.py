"""What stands in front of every method: identity, role, limits, request id, metrics, and errors by their names."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any, NoReturn, TypeVar

import grpc

from cloud_trainer.service import metrics
from cloud_trainer.service.admission import CALL, HEALTH, STREAM, CallSlots, Patience
from cloud_trainer.service.auth import authorise_call
from cloud_trainer.service.config import ServiceConfig
from cloud_trainer.service.storable import storable
from gymnast_core.errors import GymnastError, StorageError
from gymnast_core.text import one_line
from gymnast_core.wire.channel import ERROR_KEY, FIELDS_KEY, REQUEST_ID_KEY
from gymnast_core.wire.errors import (
    InvalidMessageError,
    ServerFaultError,
    UnsupportedError,
    wire_error,
    wire_fields,
)
from gymnast_core.wire.identity import Peer

LOG = logging.getLogger(__name__)
_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")
_MOST_STATUS_BYTES, _HEAD, _TAIL = 4000, 800, 200
"""Of an error's text, of which gRPC allows 16 KiB with each odd byte written as three."""
VERSION = metadata.version("gymnast_ros")
KINDS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}
"""(requests stream, responses stream) -> what gRPC calls such a method."""
_HEALTH_THREADS = 16
_OURS = "/gymnast.v1."
_HEALTH = "/grpc.health.v1.Health/"


class _LineBudget:
    """So many lines a second about refusals: a caller that is refused all the time shall not fill the disk."""

    def __init__(self, per_second: int) -> None:
        self._per_second, self._second, self._used, self._left_out = per_second, 0, 0, 0
        self._lock = threading.Lock()

    def take(self) -> int | None:
        """How many were left out since the last line, if one may be written now."""
        with self._lock:
            second = int(time.monotonic())
            if second != self._second:
                self._second, self._used = second, 0
            if self._used >= self._per_second:
                self._left_out += 1
                return None
            self._used += 1
            left_out, self._left_out = self._left_out, 0
            return left_out


_LINES = _LineBudget(20)


class Guard(grpc.ServerInterceptor):
    """Puts itself in front of every method of every service, health and reflection included.

    Every call takes its one request, too, as a stream would: gRPC itself would wait for it in a thread before anybody
    has looked who calls, and 64 calls that send nothing were enough to hold all threads.

    Args:
        caller: context -> whose call it is.
        config: of the service.
    """

    def __init__(self, caller: Callable[[grpc.ServicerContext], Peer | None], config: ServiceConfig) -> None:
        self._caller = caller
        self.pool = ThreadPoolExecutor(config.call_threads, thread_name_prefix="call")
        self._pools = {
            CALL: self.pool,
            STREAM: ThreadPoolExecutor(config.limits.streams, thread_name_prefix="stream"),
            HEALTH: ThreadPoolExecutor(_HEALTH_THREADS, thread_name_prefix="health"),
        }
        self._slots = CallSlots(config.limits, config.call_threads)
        self.patience = Patience(config.limits.first_message_s)
        self._guarded: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[_Request, _Reply] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[_Request, _Reply] | None:
        """Return the guarded handler; a method of another version of this service is answered with its remedy."""
        method = handler_call_details.method
        handler = continuation(handler_call_details)
        if handler is None:
            return _unsupported(method) if method.startswith(_OURS) else None
        if method not in self._guarded:
            self._guarded[method] = self._wrap(method, handler)
        return self._guarded[method]

    def _wrap(
        self, method: str, handler: grpc.RpcMethodHandler[_Request, _Reply]
    ) -> grpc.RpcMethodHandler[_Request, _Reply]:
        ours, one = method.startswith(_OURS), not handler.request_streaming
        behaviour = next(getattr(handler, kind) for kind in KINDS.values() if getattr(handler, kind) is not None)
        long = handler.request_streaming or handler.response_streaming
        kind = STREAM if long else HEALTH if method.startswith(_HEALTH) else CALL

        def called(requests: Iterator[_Request], context: grpc.ServicerContext) -> Iterator[_Reply]:
            peer = authorise_call(method, self._caller(context))
            with self._slots.slot(peer, kind, method):
                if ours:
                    requests = map(storable, requests)
                request = self._first(requests, context) if one else requests
                answer = behaviour(request, peer, context) if ours else behaviour(request, context)
                if handler.response_streaming:
                    yield from answer
                else:
                    yield answer

        streams = handler.response_streaming
        guarded: Any = _guarded_stream(method, called) if streams else _guarded_call(method, called)
        guarded.experimental_thread_pool = self._pools[kind]  # as gRPC's own health service asks for one
        made: grpc.RpcMethodHandler[_Request, _Reply] = getattr(grpc, f"{KINDS[True, streams]}_rpc_method_handler")(
            guarded,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return made

    def _first(self, requests: Iterator[_Request], context: grpc.ServicerContext) -> _Request:
        with self.patience.waiting(context):
            for request in requests:
                return request
        raise InvalidMessageError("the call ended without its message")


def _unsupported(method: str) -> grpc.RpcMethodHandler[_Request, _Reply]:
    """Answers a method that this version has not, or no longer."""

    def answer(requests: Iterator[_Request], context: grpc.ServicerContext) -> Iterator[_Reply]:
        error = UnsupportedError(
            f"this trainer (gymnast {VERSION}) has no {one_line(method.removeprefix(_OURS))[:120]}: the caller is of "
            "another version; upgrade the older one"
        )
        _abort(method, error, uuid.uuid4().hex, context)
        yield from ()

    return grpc.stream_stream_rpc_method_handler(answer)


def _guarded_call(
    method: str, call: Callable[[Iterator[_Request], grpc.ServicerContext], Iterator[_Reply]]
) -> Callable[[Iterator[_Request], grpc.ServicerContext], _Reply]:
    def guarded(requests: Iterator[_Request], context: grpc.ServicerContext) -> _Reply:
        request_id, started = _begin(context)
        try:
            [answer] = call(requests, context)
            return answer
        except Exception as error:  # noqa: BLE001  # _abort names it; gRPC itself would pass on its text as UNKNOWN
            _abort(method, error, request_id, context)
        finally:
            metrics.CALLS.labels(method).observe(time.monotonic() - started)

    return guarded


def _guarded_stream(
    method: str, call: Callable[[Iterator[_Request], grpc.ServicerContext], Iterator[_Reply]]
) -> Callable[[Iterator[_Request], grpc.ServicerContext], Iterator[_Reply]]:
    def guarded(requests: Iterator[_Request], context: grpc.ServicerContext) -> Iterator[_Reply]:
        request_id, started = _begin(context)
        metrics.STREAMS.labels(method).inc()
        try:
            yield from call(requests, context)
        except Exception as error:  # noqa: BLE001  # as above
            _abort(method, error, request_id, context)
        finally:
            metrics.STREAMS.labels(method).dec()
            metrics.CALLS.labels(method).observe(time.monotonic() - started)

    return guarded


def _begin(context: grpc.ServicerContext) -> tuple[str, float]:
    given = dict(context.invocation_metadata() or ()).get(REQUEST_ID_KEY, "")
    request_id = given if isinstance(given, str) and given.isalnum() and len(given) <= 32 else uuid.uuid4().hex
    return request_id, time.monotonic()


def _bounded(text: str) -> str:
    """An error may quote what was sent: a status that a client's library refuses would look like a broken link."""
    if len(text.encode(errors="replace")) <= _MOST_STATUS_BYTES:
        return text
    return f"{text[:_HEAD]} ...({len(text)} characters)... {text[-_TAIL:]}"


def _abort(method: str, error: Exception, request_id: str, context: grpc.ServicerContext) -> NoReturn:
    """Report the error's name and public text to the caller; the log gets the rest under the request id."""
    if not context.is_active():
        raise error  # the caller is gone
    if not isinstance(error, (GymnastError, OSError)):
        LOG.exception("call_failed method=%s request_id=%s", method, request_id, exc_info=error)
    domain = error if isinstance(error, GymnastError) else StorageError("the service failed")
    name, status, _ = wire_error(domain)
    public = _bounded(str(domain))
    if name == ServerFaultError.__name__:
        hidden = isinstance(domain, StorageError)
        public = f"{'see the log' if hidden else public} [{request_id}]"
    metrics.ERRORS.labels(method, name).inc()
    if (left_out := _LINES.take()) is not None:
        line = (one_line(method), request_id, name, one_line(_bounded(str(error))), left_out)
        LOG.warning("call_refused method=%s request_id=%s error=%s detail=%s left_out=%d", *line)
    trailing = [(ERROR_KEY, name), (REQUEST_ID_KEY, request_id)]
    if fields := wire_fields(domain):
        trailing.append((FIELDS_KEY, fields))
    context.set_trailing_metadata(tuple(trailing))
    context.abort(getattr(grpc.StatusCode, status), public)
