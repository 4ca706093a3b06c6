"""gRPC in and out for robots that report and people who look: messages to calls, nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cloud_trainer.service.codes import OpenCodes
from cloud_trainer.service.config import Limits
from cloud_trainer.service.orders import RobotOrders
from cloud_trainer.service.robots import RobotBoard
from cloud_trainer.service.servicers import json_field
from cloud_trainer.service.words import RobotWords
from gymnast_core.errors import ConfigError
from gymnast_core.orders import OrderNews
from gymnast_core.pictures import jpeg_size
from gymnast_core.wire.codec import CHUNK_BYTES
from gymnast_core.wire.errors import TooLargeError
from gymnast_core.wire.gymnast.v1 import console_pb2, enroll_pb2, robots_pb2
from gymnast_core.wire.identity import Peer

TOKEN_S = 12 * 3600
_TEXT, _ID = 300, 80
_MOST_REFUSED, _MOST_HELD = 8, 64
_NO_PAGE = "this trainer serves no page; start it without --no-console"
_FRAME_PIXELS = 4 << 20

LogIn = Callable[[Peer, float], tuple[str, str]]
"""Gets who and for how long [s]; returns the page's address and a token."""

Ask = Callable[[Peer, str, str, Mapping[str, str]], tuple[int, str, bytes]]
"""Gets who, method, path and form; returns the page's status, content type and body."""


class RobotServicer:
    """Reports of robots."""

    def __init__(self, robots: RobotBoard, orders: RobotOrders, words: RobotWords, limits: Limits) -> None:
        self._robots, self._orders, self._words, self._limits = robots, orders, words, limits

    def Report(self, request: Any, peer: Peer, context: Any) -> robots_pb2.RobotReportReply:
        """Note it; the name is the certificate's. The reply is what this robot shall be doing."""
        frame = bytes(request.frame)
        if len(frame) > self._limits.frame_bytes:
            raise TooLargeError(f"a frame of {len(frame)} bytes; at most {self._limits.frame_bytes} are accepted")
        if frame and math.prod(jpeg_size(frame)) > _FRAME_PIXELS:  # a browser decodes it whole
            raise TooLargeError(f"a frame of {jpeg_size(frame)} pixels; at most {_FRAME_PIXELS} are shown")
        names = ("state", "policy_version", "instruction", "estop_reason", "alarm")
        status = {name: str(getattr(request, name))[:_TEXT] for name in names}
        spool = {"entries": request.spool_entries, "bytes": request.spool_bytes, "full": request.spool_full}
        told = {"estop": request.estop, "spool": spool, "takes_orders": request.takes_orders}
        weights = _weights(request.weights) if request.HasField("weights") else {}
        self._robots.post(peer, {**status, **told, "weights": weights}, frame)
        if weights:
            self._words.heard(peer, weights)
        order = self._orders.heard(peer, self._news(request))
        if order is None or not request.takes_orders:
            return robots_pb2.RobotReportReply()
        text = json.dumps(dict(order.spec))
        return robots_pb2.RobotReportReply(
            order=robots_pb2.RobotOrder(order_id=order.order_id, kind=order.kind, spec_json=text)
        )

    def _news(self, request: Any) -> OrderNews | None:
        if not request.HasField("order"):
            return None
        order = request.order
        result = json_field(order.result_json, self._limits) if order.result_json else {}
        return OrderNews(order.order_id, order.done, order.error[: 4 * _TEXT], result)


class EnrollServicer:
    """Identities for whoever comes with a one-time code; None where there are no certificates."""

    def __init__(self, codes: OpenCodes | None) -> None:
        self._codes = codes

    def Enroll(self, request: Any, peer: Peer, context: Any) -> enroll_pb2.EnrollReply:
        """Issue it for the key of the caller's connection."""
        if self._codes is None:
            raise ConfigError("this trainer runs with --insecure and has no identities to give")
        certificate, authority, trust = self._codes.redeem(bytes(context.auth_context()["x509_pem_cert"][0]))
        return enroll_pb2.EnrollReply(certificate=certificate, authority=authority, trust=trust)


def _weights(news: Any) -> dict[str, Any]:
    """What a robot says of its checkpoints, as JSON values of bounded size."""
    texts = {name: str(getattr(news, name))[:_ID] for name in ("current", "checking", "ran")}
    numbers = {name: int(getattr(news, name)) for name in ("since_ns", "obeyed", "probation_left", "ran_ns")}
    refused = {str(one.checkpoint_id)[:_ID]: str(one.reason)[:_TEXT] for one in news.refused[-_MOST_REFUSED:]}
    return {**texts, **numbers, "refused": refused, "held": [str(name)[:_ID] for name in news.held[:_MOST_HELD]]}


class ConsoleServicer:
    """The way to the operator's page.

    Attributes:
        log_in, ask: of the page; None while this trainer serves none.
    """

    def __init__(self) -> None:
        self.log_in: LogIn | None = None
        self.ask: Ask | None = None

    def LogIn(self, request: Any, peer: Peer, context: Any) -> console_pb2.LogInReply:
        """Give the caller a token for its own name and role."""
        if self.log_in is None:
            raise ConfigError(_NO_PAGE)
        address, token = self.log_in(peer, TOKEN_S)
        return console_pb2.LogInReply(address=address, token=token, valid_for_s=TOKEN_S)

    def Ask(self, request: Any, peer: Peer, context: Any) -> Iterator[console_pb2.AskReply]:
        """Have the page answer; it decides what this role may see and do."""
        if self.ask is None:
            raise ConfigError(_NO_PAGE)
        status, kind, body = self.ask(peer, request.method, request.path, dict(request.form))
        yield console_pb2.AskReply(status=status, content_type=kind, data=body[:CHUNK_BYTES])
        for at in range(CHUNK_BYTES, len(body), CHUNK_BYTES):
            yield console_pb2.AskReply(data=body[at : at + CHUNK_BYTES])
