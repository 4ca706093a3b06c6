"""What calls a person without anybody asking for it: robots that stand still or fall silent, refusals, failed loops."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

from blake3 import blake3

from cloud_trainer.flows.queue_book import QueueBook
from cloud_trainer.paging.desk import PageDesk
from cloud_trainer.service.handlers.flows import Flows
from cloud_trainer.service.orders import RobotOrders
from cloud_trainer.service.robots import RobotBoard, RobotReport
from cloud_trainer.service.words import REFUSED, RobotWords
from cloud_trainer.store.tenants import DEFAULT_TENANT
from gymnast_core.errors import GymnastError
from gymnast_core.paging import Page
from gymnast_core.robot_status import SpoolStatus

LOG = logging.getLogger(__name__)
LOOK_S = 2.0
_NEWS_NS = 24 * 3600 * 1_000_000_000
"""What was refused or failed earlier is old news, e.g. after an upgrade."""
Condition = tuple[str, str, str]
"""Tenant, robot and kind of a call."""


class PageWatch:
    """Looks every other second, in a thread of its own.

    Args:
        desk: takes the calls.
        board: newest reports.
        orders: what robots are asked to do.
        words: what they said of their checkpoints.
        flows: what goes on for hours.
        queue: of every robot.
        clock_s: monotonic.
    """

    def __init__(
        self, desk: PageDesk, board: RobotBoard, orders: RobotOrders, words: RobotWords, flows: Flows,
        queue: QueueBook, *, clock_s: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._desk, self._board, self._orders, self._words, self._flows = desk, board, orders, words, flows
        self._queue, self._clock_s = queue, clock_s
        self._began_s = clock_s()
        self._since_s: dict[Condition, float] = {}
        self._raised: set[Condition] = set()
        self._seen: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="page-watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(5.0)

    def look(self) -> None:
        """Look once; raises calls for what began and ends those that are over."""
        tenants = {DEFAULT_TENANT, *self._board.tenants(), *self._flows.loops.tenants()}
        now = {condition: text for tenant in tenants for condition, text in self._conditions(tenant)}
        for condition in [known for known in self._since_s if known not in now]:
            del self._since_s[condition]
            if condition in self._raised:
                self._raised.discard(condition)
                self._desk.over(*condition)
        for condition, text in now.items():
            since_s = self._since_s.setdefault(condition, self._clock_s())
            if condition not in self._raised and self._clock_s() - since_s >= self._patience_s(condition[2]):
                tenant, robot, kind = condition
                self._desk.raise_page(tenant, Page(kind, robot, text))
                self._raised.add(condition)
        for tenant in tenants:
            self._take_news(tenant)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                self.look()
            except GymnastError as error:  # the database: it is looked again
                LOG.error("page_watch_failed error=%s", error)
            except Exception:  # nobody would notice that nobody looks
                LOG.exception("page_watch_failed")

    def _patience_s(self, kind: str) -> float:
        """How long a condition may last; silence has lasted that long when it is seen."""
        return self._desk.config.stop_minutes * 60.0 if kind == "estop" else 0.0

    def _conditions(self, tenant: str) -> Iterator[tuple[Condition, str]]:
        """What is wrong with a tenant's robots now."""
        reports = {report.robot: report for report in self._board.of_tenant(tenant)}
        silent_s = self._desk.config.silent_minutes * 60.0
        with self._queue.changed:
            queued = {robot for row in self._queue.open_of(tenant) for robot in row.robots}
        for robot in {*reports, *queued, *(word.robot for word in self._words.of(tenant))}:
            work, report = self._work(tenant, robot), reports.get(robot)
            age_s = self._clock_s() - self._began_s if report is None else report.age_s()
            if age_s >= silent_s:
                if work:
                    text = f"{robot} has not reported for {age_s / 60:.0f} min; {work}. Look at its link and its power"
                    yield (tenant, robot, "robot_silent"), text
            elif report is not None:
                yield from self._reported(tenant, report, work)

    def _reported(self, tenant: str, report: RobotReport, work: str) -> Iterator[tuple[Condition, str]]:
        """What a robot itself reports."""
        robot, status = report.robot, report.status
        alarm, reason = status.get("alarm", ""), status.get("estop_reason", "") or "e-stop"
        if status.get("spool", SpoolStatus()).get("full"):
            text = f"{robot} has no room for another episode; see that it reaches the trainer, or free its disk"
            yield (tenant, robot, "spool_full"), text
        elif alarm:
            yield (tenant, robot, "robot_alarm"), f"{robot}: {alarm}"
        if status.get("estop") and work:
            text = f"{robot} is stopped ({reason}); {work}. Look at the arm, then `gymnast rearm` at the robot"
            yield (tenant, robot, "estop"), text

    def _work(self, tenant: str, robot: str) -> str:
        """What waits for a robot; empty when nothing does."""
        queue, key = self._queue, (tenant, robot)
        with queue.changed:
            rows = [] if key in queue.pauses else [row for row in queue.open_of(tenant) if robot in row.robots]
            holder, now_s = queue.robot(key).holder, queue.clock_s()
            wanted = [
                row for row in rows
                if row.entry_id == holder
                or (not row.paused and (not row.flow or queue.wanting.get(row.entry_id, 0.0) > now_s))
            ]  # fmt: skip
        if wanted:
            return f"{wanted[0].what} of {wanted[0].asked_by} waits for it"
        return self._orders.under_way(tenant, robot)

    def _take_news(self, tenant: str) -> None:
        """Checkpoints that were turned down and loops that failed; each once, also over restarts."""
        oldest_ns = time.time_ns() - _NEWS_NS
        for word in self._words.of(tenant):
            if word.word == REFUSED and word.at_ns > oldest_ns:
                text = f"{word.robot} turned down {word.checkpoint_id}: {word.reason}; it keeps what it ran before"
                self._once(tenant, "policy_refused", word.robot, text, f"{word.checkpoint_id} {word.at_ns}")
        for loop in self._flows.loops.of(tenant):
            if loop.state == "failed" and loop.at_ns > oldest_ns:
                text = f"loop {loop.name} of {loop.started_by} failed: {loop.reason}; begun again, it goes on"
                robot = loop.robots[0] if len(loop.robots) == 1 else ""
                self._once(tenant, "loop_failed", robot, text, f"{loop.name} {loop.at_ns}")

    def _once(self, tenant: str, kind: str, robot: str, text: str, what: str) -> None:
        name = f"page-{blake3(f'{tenant} {kind} {robot} {what}'.encode()).hexdigest()[:16]}"
        if name not in self._seen:
            self._desk.raise_page(tenant, Page(kind, robot, text, page_id=name))
            self._seen.add(name)
