"""Does what the trainer's operators order, one thing at a time, through the graph's own services.

An order comes as the reply to this robot's report and is repeated until its end was reported; one that is no longer
repeated was withdrawn (it took too long, or the trainer was started again), and what it began is ended. One that lasts
for hours is given RESUMED_S to be given again by a trainer that was started anew. The arm sees nothing of this: an
ordered episode is run by the rollout node and goes through the command gate like any other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from gymnast_core.episodes.messages import checked_id
from gymnast_core.errors import GymnastError, OccupiedError
from gymnast_core.json_values import JsonObject, JsonValue
from gymnast_core.orders import KINDS, LASTING, Order, OrderNews
from gymnast_ros.run.ports import Log

READY_S = 30.0
RESUMED_S = 60.0
"""How long a trainer that answers may do without an order that lasts for hours, before it counts as withdrawn."""


class OrderedGraph(Protocol):
    """A robot's graph with a method for each of KINDS (gymnast_ros.nodes.client.GraphClient).

    Attributes:
        ordered_by: in whose name it is asked, see Order.by.
    """

    ordered_by: str

    def wait_ready(self, timeout_s: float = ..., /) -> None:
        """Wait until the graph answers."""
        ...

    def close(self) -> None:
        """Leave the graph."""
        ...


class OrderTaker:
    """See the module.

    Args:
        allowed: whether this robot was started so that the trainer may order it.
        connect: makes a client of this robot's graph; called once, in the worker.
        cancel: ends what the rollout node runs, without waiting for an answer.
        log: gets a line for each order.
        clock_s: monotonic.
    """

    def __init__(
        self, *, allowed: bool, connect: Callable[[], OrderedGraph], cancel: Callable[[], None], log: Log,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._clock_s = clock_s
        self.allowed, self._log = allowed, log
        self._connect, self._cancel = connect, cancel
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._order: Order | None = None
        self._news: OrderNews | None = None
        self._closing = False
        self._missing_s: float | None = None
        self._thread = threading.Thread(target=self._work, name="orders", daemon=True)
        if allowed:
            self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Take no more; what runs is ended with the graph."""
        self._closing = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def news(self) -> OrderNews | None:
        """What to report of the order at hand."""
        with self._lock:
            return self._news

    def take(self, order: Order | None) -> None:
        """Begin a new order, or end one that was withdrawn."""
        with self._lock:
            at_hand = self._news
            if order is None and self._may_come_again():
                return
            self._missing_s = None
            if order is None:
                self._news = None
                withdrawn = at_hand is not None and not at_hand.done
            elif (at_hand is not None and at_hand.order_id == order.order_id) or not self.allowed:
                return
            else:
                withdrawn = at_hand is not None and not at_hand.done and not self._is_of_the_same(order)
                self._order, self._news = order, OrderNews(order.order_id)
                self._wake.set()
        if withdrawn:
            self._log.warning(f"order withdrawn id={at_hand.order_id if at_hand else ''}")
            self._cancel()

    def _may_come_again(self) -> bool:
        """Whether an order that lasts is missing for so short that a trainer may just have been started again."""
        if self._order is None or self._order.kind not in LASTING or self._news is None or self._news.done:
            return False
        if self._missing_s is None:
            self._missing_s = self._clock_s()
        return self._clock_s() - self._missing_s < RESUMED_S

    def _is_of_the_same(self, order: Order) -> bool:
        """Whether this order asks for what lasts already: the trainer gave it again under a new id."""
        last = self._order
        if last is None or last.kind not in LASTING or order.kind != last.kind:
            return False
        return bool(order.spec.get("resume")) and order.spec.get("resume") == last.spec.get("resume")

    def _work(self) -> None:
        client: OrderedGraph | None = None
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._closing:
                break
            with self._lock:
                order = self._order
            if order is None:
                continue
            try:
                if client is None:
                    client = self._connect()
                    client.wait_ready(READY_S)
                news = OrderNews(order.order_id, done=True, result=_result(self._do(client, order)))
            except (GymnastError, OSError, TypeError, ValueError, KeyError) as error:
                words, occupied = f"{type(error).__name__}: {error}", isinstance(error, OccupiedError)
                news = OrderNews(order.order_id, done=True, error=words, occupied=occupied)
                self._log.error(f"order failed kind={order.kind} error={error}")
            with self._lock:
                if self._news is not None and self._news.order_id == order.order_id:
                    self._news = news
        if client is not None:
            client.close()

    def _do(self, client: OrderedGraph, order: Order) -> Any:
        self._log.info(f"order kind={order.kind} id={order.order_id} by={order.by!r}")
        if order.kind not in KINDS:
            raise ValueError(f"order {order.kind!r} is not one of {', '.join(KINDS)}")
        _check_checkpoints(order)
        client.ordered_by = order.by
        return getattr(client, order.kind)(**order.spec)


def _check_checkpoints(order: Order) -> None:
    """Orders name checkpoints by id alone: a user at the robot may name a folder, a file or a host, too.

    Raises:
        ContractError: one is no id.
    """
    spec = order.spec
    given = [spec[name] for name in ("checkpoint", "checkpoint_id") if spec.get(name)]
    for name in ("checkpoints", "checkpoint_ids"):
        listed = spec.get(name, ())
        given += listed if isinstance(listed, list | tuple) else [listed]
    for value in given:
        checked_id(value, "a checkpoint in an order")


def _result(value: JsonValue) -> JsonObject:
    return value if isinstance(value, dict) else {"value": value}
