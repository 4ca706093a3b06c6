"""Reports to the trainer about once a second: on a link of its own, one at a time, never in the way."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from gymnast_client.waits import Waits
from gymnast_core.errors import GymnastError, TransientBridgeError
from gymnast_core.orders import Order, OrderNews
from gymnast_core.practice_status import PracticeStatus
from gymnast_core.robot_status import AdapterNews, GateNews
from gymnast_core.wire.errors import NotPermittedError
from gymnast_core.wire.gymnast.v1 import robots_pb2, robots_pb2_grpc
from gymnast_core.wire.identity import Identity
from gymnast_core.wire.practice import practice_news
from gymnast_ros.uplink.link_task import LinkTask

LOG = logging.getLogger(__name__)
PERIOD_S = 1.0
QUICK_S = 0.3
"""The trainer accepts four reports a second."""
DEADLINE_S = 2.0
FRAME_SHARE = 10.0
"""A picture may use a tenth of the link: after one that took d seconds the next waits 10 d."""


@dataclass(frozen=True)
class WeightsNews:
    """What became of the checkpoints a robot was given.

    Attributes:
        current: in force from the next episode on.
        since_ns: the robot's wall clock, when it was put in force.
        obeyed: sequence of the newest promotion or rollback it has acted on, or turned down.
        checking: what is tried beside the running one at the moment.
        probation_left: good episodes the current one still needs.
        refused: (id, why) of the last ones that were turned down or rolled back, newest last.
        held: every checkpoint on the robot.
        ran: policy of its newest episode.
        ran_ns: the robot's wall clock, when that ended.
        gate: what it asks of a release, and how the one in force came past that.
        adapters: that stand beside a base, each for its scene, oldest first.
    """

    current: str = ""
    since_ns: int = 0
    obeyed: int = 0
    checking: str = ""
    probation_left: int = 0
    refused: Sequence[tuple[str, str]] = ()
    held: Sequence[str] = ()
    ran: str = ""
    ran_ns: int = 0
    gate: GateNews | None = None
    adapters: Sequence[AdapterNews] = ()


@dataclass(frozen=True)
class RobotNews:
    """One report.

    Attributes:
        state: idle, running, awaiting_label, disarmed, ...
        policy_version: in force.
        instruction: what is being done; empty when nothing is.
        estop: the arm is stopped until somebody re-arms it.
        estop_reason: why.
        spool_entries: episodes waiting for the trainer.
        spool_bytes: their size.
        spool_full: nothing more can be recorded.
        alarm: what an operator must do something about.
        takes_orders: the trainer's operators may run episodes on it.
        order: what became of the order it was given; None without one.
        weights: what became of the checkpoints it was given; None where it keeps none.
        practice: its newest practice run; None before the first.
    """

    state: str = ""
    policy_version: str = ""
    instruction: str = ""
    estop: bool = False
    estop_reason: str = ""
    spool_entries: int = 0
    spool_bytes: int = 0
    spool_full: bool = False
    alarm: str = ""
    takes_orders: bool = False
    order: OrderNews | None = None
    weights: WeightsNews | None = None
    practice: PracticeStatus | None = None


class Pace:
    """When a picture may travel along.

    Args:
        clock_s: monotonic.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._frame_due_s = 0.0

    def with_frame(self) -> bool:
        """Whether the next report may carry one."""
        return self._clock_s() >= self._frame_due_s

    def sent(self, began_s: float, framed: bool) -> None:
        """A report has ended, well or not; one that failed has used the link as well."""
        now_s = self._clock_s()
        if framed:
            self._frame_due_s = now_s + FRAME_SHARE * (now_s - began_s)


class Reporter(LinkTask):
    """Reports for as long as it runs; a report that cannot be sent in time is dropped, the next one is newer anyway.

    Args:
        address: host:port of the trainer.
        identity: identity folder (or the loaded one); None only with insecure.
        news: called in this thread for every report; must not wait.
        frame: returns the newest picture as JPEG, b"" when there is no new one; called in this thread.
        insecure: no TLS.
        period_s: from one report to the next; while there is an order it is QUICK_S.
        take: called with every reply with what this robot shall be doing, None for nothing; in this thread.
        drop: called with the adapters that an operator at the trainer wants detached, where there are any; likewise.
    """

    def __init__(
        self,
        address: str,
        identity: Path | Identity | None,
        news: Callable[[], RobotNews],
        frame: Callable[[], bytes] = bytes,
        *,
        insecure: bool = False,
        period_s: float = PERIOD_S,
        take: Callable[[Order | None], None] = lambda order: None,
        drop: Callable[[Sequence[str]], None] = lambda checkpoint_ids: None,
    ) -> None:
        super().__init__("reporter", address, identity, insecure=insecure)
        self._news, self._frame, self._period_s, self._take, self._drop = news, frame, period_s, take, drop
        self._pace = Pace()
        self.sent = self.dropped = 0
        self._unwelcome = False

    def _run(self) -> None:
        waits, wait_s = Waits(self._period_s, 30.0), 0.0
        while not self._stop.wait(wait_s):
            began_s = time.monotonic()
            try:
                order = self._report(began_s)
                self.sent += 1
                waits.reset()
                self._unwelcome = False
                self._take(order)
                period_s = self._period_s if order is None else min(self._period_s, QUICK_S)
                wait_s = max(0.0, period_s - (time.monotonic() - began_s))
            except (GymnastError, OSError, ValueError) as error:  # ValueError: gRPC's for a channel closed meanwhile
                self.dropped += 1
                wait_s = self._period_s + waits.next_s()
                self._dropped(error)
                if isinstance(error, TransientBridgeError):
                    self._link.reconnect()

    def _dropped(self, error: Exception) -> None:
        LOG.info("report_dropped error=%s: %s", type(error).__name__, error)
        if isinstance(error, NotPermittedError) and not self._unwelcome:
            self._unwelcome = True
            LOG.error("trainer_refused %s: %s", type(error).__name__, error)

    def _report(self, began_s: float) -> Order | None:
        frame = self._frame() if self._pace.with_frame() else b""
        news = self._news()
        practice = None if news.practice is None else practice_news(news.practice)
        parts = {"order": _order_news(news.order), "weights": _weights_news(news.weights), "practice": practice}
        request = robots_pb2.RobotReport(**{**vars(news), **parts}, frame=frame)
        try:
            reply = robots_pb2_grpc.RobotServiceStub(self._link.channel()).Report(request, timeout=DEADLINE_S)
            if reply.drop_adapters:
                self._drop(tuple(reply.drop_adapters))
            if not reply.HasField("order"):
                return None
            order = reply.order
            return Order(order.order_id, order.kind, json.loads(order.spec_json), order.by)
        except grpc.RpcError as failure:
            raise self._link.failure(failure) from failure
        finally:
            self._pace.sent(began_s, bool(frame))


def _order_news(news: OrderNews | None) -> robots_pb2.OrderNews | None:
    if news is None:
        return None
    text = json.dumps(dict(news.result))
    return robots_pb2.OrderNews(
        order_id=news.order_id, done=news.done, error=news.error, occupied=news.occupied, result_json=text
    )


def _weights_news(news: WeightsNews | None) -> robots_pb2.WeightsNews | None:
    if news is None:
        return None
    refused = [robots_pb2.RefusedCheckpoint(checkpoint_id=name, reason=reason) for name, reason in news.refused]
    gate = None if news.gate is None else robots_pb2.GateNews(**vars(news.gate))
    adapters = [robots_pb2.AdapterNews(**vars(one)) for one in news.adapters]
    return robots_pb2.WeightsNews(**{**vars(news), "refused": refused, "gate": gate, "adapters": adapters})
