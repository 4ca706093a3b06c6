"""How trials, adaptations and loops come to their robot: turn by turn, in the order of its queue.

A flow is one entry of the queue. It takes the robot for one step (a pair of a trial, some episodes), gives it back, and
stands at its own place again for the next; what comes before it by then goes first.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from cloud_trainer.flows.arms import Errand, WithdrawnError
from cloud_trainer.flows.queue_book import QueueBook, RobotKey, ended
from cloud_trainer.flows.queue_dispatch import QueueDispatch
from cloud_trainer.progress import ClosingError
from cloud_trainer.store.sql_queue import QueueRow, new_entry_id
from gymnast_core.json_values import JsonObject
from gymnast_core.queue import USUAL_PRIORITY, QueueKind

LOOK_S = 1.0
"""A flow that waits looks whether it is its turn whenever something changes, and so often: entries age."""
LINGER_S = 1.5
"""A flow that has given its robot back is waited for, as what it does between two turns takes so long at most."""
WHAT_CHARACTERS = 300
LAST_TURNS = 9
"""Of which the time is remembered, for the estimate of a flow's end."""


Over = Callable[[str, QueueKind, str], str]
"""Given tenant, kind and id of a flow: why it asks nothing more of its robot; empty where it goes on."""


class QueueTurns:
    """See the module. Threads may share it.

    Args:
        book: of the trainer.
        dispatch: decides whose turn it is.
        over: see Over.
    """

    def __init__(self, book: QueueBook, dispatch: QueueDispatch, over: Over) -> None:
        self._book, self._dispatch, self._over = book, dispatch, over

    @contextmanager
    def turn(
        self, tenant: str, robot: str, errand: Errand, what: str, *, must: bool = False,
        withdrawn: Callable[[], bool] = lambda: False,
    ) -> Iterator[None]:  # fmt: skip
        """Hold a robot for one step of a flow, once it is its turn.

        Args:
            tenant: the robot's tenant.
            robot: its name.
            errand: in whose name, and which flow.
            what: is done in this turn, in words.
            must: it is waited for even where the flow was stopped, as it puts something right.
            withdrawn: asked about once a second; where it holds nobody waits for this turn any more.

        Raises:
            WithdrawnError: the flow was stopped while it waited.
            ClosingError: this process ends.
        """
        row = self._stand(tenant, robot, errand, what[:WHAT_CHARACTERS])
        while not self._taken(row, (tenant, robot)):
            if not must and (stopped := self._over(tenant, errand.kind, errand.flow_id)):
                self._withdraw(row, stopped)
            if withdrawn():
                self._book.wanting.pop(row.entry_id, None)
                raise WithdrawnError(f"{row.flow} waits for {robot} no longer")
        why, began_s = "", self._book.clock_s()
        try:
            yield
        except BaseException as error:
            why = f"{type(error).__name__}: {error}"
            raise
        else:
            with self._book.changed:
                took = self._book.turns_s.setdefault(row.entry_id, deque(maxlen=LAST_TURNS))
                took.append(self._book.clock_s() - began_s)
        finally:
            self._leave(row.entry_id, (tenant, robot), why)

    def _withdraw(self, row: QueueRow, why: str) -> None:
        with self._book.changed:
            if row.entry_id in self._book.entries:
                self._book.put(ended(row, "cancelled", why))
        raise WithdrawnError(f"{row.flow} no longer waits for {', '.join(row.robots)}: {why}")

    def _stand(self, tenant: str, robot: str, errand: Errand, what: str) -> QueueRow:
        """Take the flow's place in the queue; one that had its turn before has it still."""
        book = self._book
        with book.changed:
            row = replace(stand(book, tenant, robot, errand, what, {}), state="waiting", what=what, reason="")
            book.put(row)
            book.wanting[row.entry_id] = float("inf")
        return row

    def _taken(self, row: QueueRow, key: RobotKey) -> bool:
        """Take the robot if it is this entry's turn; else wait until something changes, for a moment."""
        book = self._book
        with book.changed:
            if book.closing:
                raise ClosingError(f"{row.flow} waits for {key[1]}; it goes on after the restart")
            now = book.entries.get(row.entry_id)
            if now is None:
                gone = book.entry(row.tenant, row.entry_id)
                raise WithdrawnError(f"{row.flow} no longer waits for {key[1]}: {gone.reason or gone.state}")
            robot = book.robot(key)
            first = None if robot.holder or key in book.portions else self._dispatch.first(key)
            if first is None or first.entry_id != row.entry_id:
                book.changed.wait(LOOK_S)
                return False
            robot.holder = row.entry_id
            book.put(replace(now, state="running", since_ns=time.time_ns()))
            return True

    def _leave(self, entry_id: str, key: RobotKey, why: str) -> None:
        """Give the robot back; the entry keeps its place for a moment, if the flow goes on."""
        book = self._book
        with book.changed:
            book.robot(key).holder = ""
            row = book.entries.get(entry_id)
            book.changed.notify_all()
            if row is None or book.closing:
                return
            book.wanting[entry_id] = book.clock_s() + LINGER_S
            book.put(replace(row, state="waiting", reason=why))


def stand(book: QueueBook, tenant: str, robot: str, errand: Errand, what: str, spec: JsonObject) -> QueueRow:
    """Return a flow's entry in a robot's queue, open; whoever calls holds the lock, and puts it.

    Args:
        book: of the trainer.
        tenant: the robot's tenant.
        robot: its name.
        errand: in whose name, and which flow.
        what: is done, in words; of a new entry.
        spec: of a new entry, and of one that had ended.
    """
    key, now_ns = f"flow/{errand.kind}/{errand.flow_id}/{robot}", time.time_ns()
    known = book.store.find(tenant, key=key)
    if known is None:
        fresh = QueueRow(
            new_entry_id(), tenant, key, errand.kind, errand.flow_id, what, (robot,), spec, USUAL_PRIORITY, 0,
            errand.person, created_ns=now_ns, since_ns=now_ns,
        )  # fmt: skip
        return book.store.add(fresh)
    if not known.ended:
        return known
    return replace(
        known, state="waiting", reason="", spec=spec, what=what, ended_ns=0, since_ns=now_ns, created_ns=now_ns,
        place=book.store.last_place(),
    )  # fmt: skip
