"""RobotService: robots report, and people see what they reported."""

from __future__ import annotations

import json
import math

import grpc

from cloud_trainer.service.config import Limits
from cloud_trainer.service.handlers import REPORT_STALE_S, RobotHandlers
from cloud_trainer.service.in_force import MandateRow, RobotInForce
from cloud_trainer.service.robots import RobotReport
from cloud_trainer.service.servicers.messages import fitting, json_field, page_after
from cloud_trainer.service.words import Word
from gymnast_core.orders import OrderNews
from gymnast_core.pictures import jpeg_size
from gymnast_core.robot_status import AdapterStatus, GateStatus, RobotStatus, SpoolStatus, WeightsStatus
from gymnast_core.wire.errors import TooLargeError
from gymnast_core.wire.gymnast.v1 import robots_pb2, weights_pb2
from gymnast_core.wire.identity import Peer
from gymnast_core.wire.practice import practice_news, practice_status

_TEXT, _ID = 300, 80
_MOST_REFUSED, _MOST_HELD, _MOST_ADAPTERS = 8, 64, 32
_FRAME_PIXELS = 4 << 20


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
        order = self._robots.report(
            peer, _reported(request), frame, self._news(request), takes_orders=request.takes_orders
        )
        drop = self._robots.dropping(peer)
        if order is None:
            return robots_pb2.RobotReportReply(drop_adapters=drop)
        text = json.dumps(dict(order.spec))
        return robots_pb2.RobotReportReply(
            order=robots_pb2.RobotOrder(order_id=order.order_id, kind=order.kind, spec_json=text, by=order.by),
            drop_adapters=drop,
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

    def DropAdapter(
        self, request: robots_pb2.DropAdapterRequest, peer: Peer, context: grpc.ServicerContext
    ) -> robots_pb2.DropAdapterReply:
        """Return once the robot says that it is detached."""
        self._robots.drop_adapter(peer, request.robot, request.checkpoint_id)
        return robots_pb2.DropAdapterReply()

    def _news(self, request: robots_pb2.RobotReport) -> OrderNews | None:
        if not request.HasField("order"):
            return None
        order = request.order
        result = json_field(order.result_json, self._limits) if order.result_json else {}
        return OrderNews(order.order_id, order.done, order.error[: 4 * _TEXT], order.occupied, result)


def _reported(request: robots_pb2.RobotReport) -> RobotStatus:
    """What a robot reports, of bounded size."""
    return {
        "state": request.state[:_TEXT], "policy_version": request.policy_version[:_TEXT],
        "instruction": request.instruction[:_TEXT], "estop": request.estop,
        "estop_reason": request.estop_reason[:_TEXT], "alarm": request.alarm[:_TEXT],
        "takes_orders": request.takes_orders,
        "spool": {"entries": request.spool_entries, "bytes": request.spool_bytes, "full": request.spool_full},
        "weights": _weights(request.weights) if request.HasField("weights") else {},
        "practice": practice_status(request.practice) if request.HasField("practice") else None,
    }  # fmt: skip


def _weights(news: robots_pb2.WeightsNews) -> WeightsStatus:
    """What a robot reports of its checkpoints, of bounded size."""
    return {
        "current": news.current[:_ID], "checking": news.checking[:_ID], "ran": news.ran[:_ID],
        "since_ns": news.since_ns, "obeyed": news.obeyed, "probation_left": news.probation_left,
        "ran_ns": news.ran_ns,
        "refused": {one.checkpoint_id[:_ID]: one.reason[:_TEXT] for one in news.refused[-_MOST_REFUSED:]},
        "held": [name[:_ID] for name in news.held[:_MOST_HELD]], "gate": _gate(news.gate),
        "adapters": [_adapter(one) for one in news.adapters[:_MOST_ADAPTERS]],
    }  # fmt: skip


def _adapter(news: robots_pb2.AdapterNews) -> AdapterStatus:
    """What a robot reports of an adapter, of bounded size."""
    return {
        "checkpoint_id": news.checkpoint_id[:_ID], "scene": news.scene[:_TEXT], "base": news.base[:_ID],
        "since_ns": news.since_ns, "resting": news.resting, "probation_left": news.probation_left,
        "recognised": news.recognised[:_TEXT],
    }  # fmt: skip


def _gate(news: robots_pb2.GateNews) -> GateStatus:
    """What a robot reports of its gate, of bounded size; no mode where it is from before gates."""
    return {
        "mode": news.mode[:_ID], "overrides": news.overrides, "max_age_s": news.max_age_s, "how": news.how[:_ID],
        "record": news.record[:_ID], "by": news.by[:_ID], "reason": news.reason[:_TEXT],
    }  # fmt: skip


def _state(report: RobotReport, row: RobotInForce) -> robots_pb2.RobotState:
    age_s = report.age_s()
    return robots_pb2.RobotState(
        robot=report.robot, age_s=age_s, silent=age_s > REPORT_STALE_S, report=_status(report.status),
        runs=_word(row.runs), ran=_word(row.ran), refused=[weights_pb2.RobotWord(**vars(word)) for word in row.refused],
        ordered=_mandate(row.ordered), held=row.held,
    )  # fmt: skip


def _status(status: RobotStatus) -> robots_pb2.RobotReport:
    """What a robot reported, as it came, without its image."""
    spool, weights = status.get("spool", SpoolStatus()), status.get("weights", WeightsStatus())
    practice = status.get("practice")
    return robots_pb2.RobotReport(
        state=status.get("state", ""), policy_version=status.get("policy_version", ""),
        instruction=status.get("instruction", ""), estop=status.get("estop", False),
        estop_reason=status.get("estop_reason", ""), alarm=status.get("alarm", ""),
        takes_orders=status.get("takes_orders", False), spool_entries=spool.get("entries", 0),
        spool_bytes=spool.get("bytes", 0), spool_full=spool.get("full", False),
        practice=None if practice is None else practice_news(practice),
        weights=robots_pb2.WeightsNews(
            checking=weights.get("checking", ""), probation_left=weights.get("probation_left", 0),
            obeyed=weights.get("obeyed", 0), current=weights.get("current", ""),
            gate=robots_pb2.GateNews(**weights.get("gate", GateStatus())),
            adapters=[robots_pb2.AdapterNews(**one) for one in weights.get("adapters", [])],
        ),
    )  # fmt: skip


def _word(word: Word | None) -> weights_pb2.RobotWord | None:
    return None if word is None else weights_pb2.RobotWord(**vars(word))


def _mandate(row: MandateRow | None) -> robots_pb2.Mandate | None:
    return None if row is None else robots_pb2.Mandate(**vars(row))
