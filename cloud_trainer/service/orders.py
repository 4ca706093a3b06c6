"""Orders to robots: kept here until the robot asks, because it is the robot that connects."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cloud_trainer.progress import ClosingError
from cloud_trainer.service.adapter_drops import AdapterDrops
from gymnast_core.authority import Who
from gymnast_core.json_values import JsonObject
from gymnast_core.orders import Order, OrderError, OrderNews, RobotOccupiedError

PICK_UP_S = 30.0
"""Longest wait until a robot takes an order; it reports once a second."""
QUIET_S = 3.0
"""A robot at an order speaks of it once a second."""
LOOK_S = 1.0
"""How soon an order is withdrawn that nobody waits for any more."""
NEXT_S = 0.2
"""How long the reply that ends an order waits for the one after it."""


def never() -> bool:
    """Whether an order is withdrawn, or its robot held up, where nobody can do that."""
    return False


@dataclass
class _Given:
    order: Order
    heard_s: float | None = None
    """When the robot last spoke of it; None before it has taken it."""
    news: OrderNews | None = None


class RobotOrders:
    """One order at a time for every robot, of the flow that has it by its queue. Threads may share it.

    Nothing is kept over a restart: a robot whose order is no longer repeated ends what it is doing, and the flow, which
    remembers its steps itself, asks for it again.

    Attributes:
        drops: what robots shall detach, beside what they are ordered to do.
    """

    def __init__(self, *, pick_up_s: float = PICK_UP_S, next_s: float = NEXT_S) -> None:
        self._pick_up_s, self._next_s, self.drops = pick_up_s, next_s, AdapterDrops()
        self._changed = threading.Condition()
        self._given: dict[tuple[str, str], _Given] = {}
        self._closing = False

    def close(self) -> None:
        """Wait no longer for robots that are not at it: this process ends."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def give(
        self, tenant: str, robot: str, kind: str, spec: JsonObject, timeout_s: float,
        *, by: str = "", paused: Callable[[], bool] = never, withdrawn: Callable[[], bool] = never,
    ) -> JsonObject:  # fmt: skip
        """Have a robot do something; returns what it reported, or withdraws the order.

        Args:
            tenant: the robot's tenant.
            robot: its name.
            kind: see gymnast_core.orders.
            spec: the call's arguments.
            timeout_s: longest wait.
            by: see Order.
            paused: whether an e-stop holds the robot up; the wait then begins anew.
            withdrawn: asked about once a second; where it holds nobody waits for this any more.

        Raises:
            ClosingError: this process ends, and the robot has not taken the order, or speaks of it no longer.
            RobotOccupiedError: it does something for somebody else.
            OrderError: it did not take the order, did not end in time, refused or failed; or another is under way.
        """
        key, given = (tenant, robot), _Given(Order(secrets.token_hex(8), kind, dict(spec), by))
        began = time.monotonic()
        with self._changed:
            if key in self._given:
                raise OrderError(f"{robot} does {self._given[key].order.kind} already; wait until that is done")
            self._given[key] = given
            self._changed.notify_all()
            try:
                while given.news is None:
                    taken = given.heard_s is not None
                    limit_s = timeout_s if taken else min(timeout_s, self._pick_up_s)
                    left_s = began + limit_s - time.monotonic()
                    if self._closing and time.monotonic() - (given.heard_s or 0.0) > QUIET_S:
                        raise ClosingError(f"the trainer ends while {robot} has {kind} before it")
                    if withdrawn():
                        raise OrderError(f"{kind} was withdrawn from {robot}")
                    if left_s <= 0 and paused():
                        began = time.monotonic()
                        continue
                    if left_s <= 0:
                        missing = "did not end" if taken else "was not taken"
                        raise OrderError(f"{kind} {missing} within {limit_s:.0f} s by {robot}; does it report?")
                    self._changed.wait(min(left_s, LOOK_S))
            finally:
                del self._given[key]
        if given.news.error:
            raise (RobotOccupiedError if given.news.occupied else OrderError)(f"{robot}: {given.news.error}")
        return given.news.result

    def under_way(self, tenant: str, robot: str) -> str:
        """Return what a robot is asked to do now, for people; empty when nothing is."""
        with self._changed:
            given = self._given.get((tenant, robot))
        return (
            ""
            if given is None
            else f"{given.order.kind} waits for it{f', for {given.order.by}' if given.order.by else ''}"
        )

    def heard(self, who: Who, news: OrderNews | None) -> Order | None:
        """Take in what a robot reports of its order; returns what it shall be doing now."""
        key = (who.tenant, who.name)
        with self._changed:
            given = self._given.get(key)
            if news is not None and given is not None and given.order.order_id == news.order_id:
                given.heard_s = time.monotonic()
                if news.done:
                    given.news = news
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._waiting(key) is not None, self._next_s)
            return self._waiting(key)

    def _waiting(self, key: tuple[str, str]) -> Order | None:
        given = self._given.get(key)
        return given.order if given is not None and given.news is None else None
