"""RobotService: robots report, and people see what they reported."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import grpc

from cloud_trainer.service.config import Limits
from cloud_trainer.service.handlers import REPORT_STALE_S, RobotHandlers
from cloud_trainer.service.in_force import MandateRow, RobotInForce
from cloud_trainer.service.robots import RobotReport
from cloud_trainer.service.servicers.messages import fitting, json_field, page_after
from cloud_trainer.service.words import Word
from gymnast_core.orders import OrderNews
from gymnast_core.pictures import jpeg_size
from gymnast_core.wire.errors import TooLargeError
from gymnast_core.wire.gymnast.v1 import robots_pb2, weights_pb2
from gymnast_core.wire.identity import Peer

_TEXT, _ID = 300, 80
_MOST_REFUSED, _MOST_HELD = 8, 64
_FRAME_PIXELS = 4 << 20
_TEXTS = ("state", "policy_version", "instruction", "estop_reason", "alarm")


class RobotServicer:
    """Reports of robots."""

    def __init__(self, robots: RobotHandlers, limits: Limits) -> None:
        self._robots, self._limits = robots, limits

    def Report(
        self, request: robots_pb2.RobotReport, peer: Peer, context: grpc.ServicerContext
    ) -> robots_pb2.RobotReportReply:
        """Note it; the name is the certificate's. The reply is what this robot shall be doing."""
        frame = bytes(request.frame)
        if len(frame) > self._limits.frame_bytes:
            raise TooLargeError(f"a frame of {len(frame)} bytes; at most {self._limits.frame_bytes} are accepted")
        if frame and math.prod(jpeg_size(frame)) > _FRAME_PIXELS:  # a browser decodes it whole
            raise TooLargeError(f"a frame of {jpeg_size(frame)} pixels; at most {_FRAME_PIXELS} are shown")
        status = {name: str(getattr(request, name))[:_TEXT] for name in _TEXTS}
        spool = {"entries": request.spool_entries, "bytes": request.spool_bytes, "full": request.spool_full}
        rest = {"estop": request.estop, "spool": spool, "takes_orders": request.takes_orders}
        weights = _weights(request.weights) if request.HasField("weights") else {}
        order = self._robots.report(
            peer, {**status, **rest, "weights": weights}, frame, self._news(request), takes_orders=request.takes_orders
        )
        if order is None:
            return robots_pb2.RobotReportReply()
        text = json.dumps(dict(order.spec))
        return robots_pb2.RobotReportReply(
            order=robots_pb2.RobotOrder(order_id=order.order_id, kind=order.kind, spec_json=text, by=order.by)
        )

    def List(
        self, request: robots_pb2.ListRobotsRequest, peer: Peer, context: grpc.ServicerContext
    ) -> robots_pb2.ListRobotsReply:
        """A page, by name."""
        in_force = {row.robot: row for row in self._robots.in_force(peer)}
        rows = page_after(self._robots.all(peer), lambda row: row.robot, request.after, request.limit)
        return robots_pb2.ListRobotsReply(robots=fitting(_state(row, in_force[row.robot]) for row in rows))

    def Frame(self, request: robots_pb2.RobotName, peer: Peer, context: grpc.ServicerContext) -> robots_pb2.RobotFrame:
        """The newest image."""
        report = self._robots.frame(peer, request.robot)
        return robots_pb2.RobotFrame(data=report.frame, age_s=report.frame_age_s())

    def _news(self, request: robots_pb2.RobotReport) -> OrderNews | None:
        if not request.HasField("order"):
            return None
        order = request.order
        result = json_field(order.result_json, self._limits) if order.result_json else {}
        return OrderNews(order.order_id, order.done, order.error[: 4 * _TEXT], result)


def _weights(news: robots_pb2.WeightsNews) -> dict[str, Any]:
    """What a robot says of its checkpoints, as JSON values of bounded size."""
    texts = {name: str(getattr(news, name))[:_ID] for name in ("current", "checking", "ran")}
    numbers = {name: int(getattr(news, name)) for name in ("since_ns", "obeyed", "probation_left", "ran_ns")}
    refused = {str(one.checkpoint_id)[:_ID]: str(one.reason)[:_TEXT] for one in news.refused[-_MOST_REFUSED:]}
    return {**texts, **numbers, "refused": refused, "held": [str(name)[:_ID] for name in news.held[:_MOST_HELD]]}


def _state(report: RobotReport, row: RobotInForce) -> robots_pb2.RobotState:
    age_s = report.age_s()
    return robots_pb2.RobotState(
        robot=report.robot, age_s=age_s, silent=age_s > REPORT_STALE_S, report=_status(report.status),
        runs=_word(row.runs), ran=_word(row.ran), refused=[weights_pb2.RobotWord(**vars(word)) for word in row.refused],
        ordered=_mandate(row.ordered), held=row.held,
    )  # fmt: skip


def _status(status: Mapping[str, Any]) -> robots_pb2.RobotReport:
    """What a robot reported, as it came, without its image."""
    spool, weights = status.get("spool", {}), status.get("weights", {})
    news = {name: weights[name] for name in ("checking", "probation_left", "obeyed", "current") if name in weights}
    report = robots_pb2.RobotReport(
        estop=bool(status.get("estop")), takes_orders=bool(status.get("takes_orders")),
        spool_entries=spool.get("entries", 0), spool_bytes=spool.get("bytes", 0), spool_full=spool.get("full", False),
        weights=robots_pb2.WeightsNews(**news),
    )  # fmt: skip
    for name in _TEXTS:
        setattr(report, name, str(status.get(name, "")))
    return report


def _word(word: Word | None) -> weights_pb2.RobotWord | None:
    return None if word is None else weights_pb2.RobotWord(**vars(word))


def _mandate(row: MandateRow | None) -> robots_pb2.Mandate | None:
    return None if row is None else robots_pb2.Mandate(**vars(row))
