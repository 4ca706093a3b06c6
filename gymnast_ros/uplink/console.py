"""The operator's page for programs: its JSON, pictures and actions, asked with a certificate over the service."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from gymnast_core.errors import ConfigError, GymnastError, NotTrustedError, RejectedBridgeError, TransientBridgeError
from gymnast_core.wire.errors import NotFoundError, NotPermittedError
from gymnast_core.wire.gymnast.v1 import console_pb2, console_pb2_grpc
from gymnast_ros.uplink.clients import Client
from gymnast_ros.uplink.link import Backoff

_DEADLINE_S = 60.0
_PATIENCE_S = 20.0
_REFUSALS: Mapping[int, type[GymnastError]] = {
    403: NotPermittedError, 404: NotFoundError, 412: NotTrustedError, 422: ConfigError,
}  # fmt: skip
"""412: not better, or tainted."""


@dataclass(frozen=True)
class PageLogin:
    """How to open the operator's page.

    Attributes:
        address: of the page, as the trainer knows it.
        token: to log in with; shown once.
        valid_for_s: its life.
    """

    address: str
    token: str
    valid_for_s: int


class ConsoleClient(Client):
    """The way to the operator's page.

    Args:
        address: host:port of the trainer.
        identity: identity folder.
        insecure: no TLS.
    """

    def log_in(self) -> PageLogin:
        """Ask for a token in our certificate's name.

        Raises:
            RejectedBridgeError: this trainer serves no page.
        """
        request = console_pb2.LogInRequest()
        reply = self._link.call(lambda channel: console_pb2_grpc.ConsoleServiceStub(channel).LogIn, request)
        return PageLogin(reply.address, reply.token, reply.valid_for_s)

    def get(self, path: str) -> dict[str, Any]:
        """Read what a page shows.

        Raises:
            TransientBridgeError: the trainer is not reached.
            GymnastError: the page refuses; the message is its own.
        """
        return dict(json.loads(self._patiently(path)))

    def picture(self, path: str) -> bytes:
        """Fetch a picture of the page; raises as get()."""
        return self._patiently(path)

    def post(self, path: str, values: Mapping[str, str]) -> dict[str, Any]:
        """Do what a form of the page does, once; returns {said, go}.

        Raises:
            TransientBridgeError: the trainer is not reached, or went away before it answered: look before you repeat.
            GymnastError: the page refuses; the message is its own.
        """
        return dict(json.loads(self._ask(console_pb2.AskRequest(method="POST", path=path, form=dict(values)))))

    def _patiently(self, path: str) -> bytes:
        until, backoff = time.monotonic() + _PATIENCE_S, Backoff()
        while True:
            try:
                return self._ask(console_pb2.AskRequest(method="GET", path=path))
            except TransientBridgeError:
                pause = backoff.next_s()
                if time.monotonic() + pause > until:
                    raise
                time.sleep(pause)

    def _ask(self, request: console_pb2.AskRequest) -> bytes:
        stub = console_pb2_grpc.ConsoleServiceStub(self._link.channel())
        try:
            pieces = list(stub.Ask(request, timeout=_DEADLINE_S))
        except grpc.RpcError as failure:
            error = self._link.failure(failure)
            if isinstance(error, TransientBridgeError):
                self._link.reconnect()
            raise error from failure
        status, body = pieces[0].status, b"".join(piece.data for piece in pieces)
        if status >= 400:
            raise _REFUSALS.get(status, RejectedBridgeError)(_words(body) or f"{request.path}: status {status}")
        return body


def _words(body: bytes) -> str:
    """What the page says is wrong."""
    try:
        answer = json.loads(body)
    except ValueError:
        return ""
    return str(answer.get("error") or answer.get("detail") or answer)
