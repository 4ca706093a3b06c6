"""One flow at a time changes what a robot runs: an adaptation or a loop begins when those before it there are over.

It stands in the queues of its robots from the start, and what begins next follows their order. That it has begun is
written down, so that no restart gives its robots to one that waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from cloud_trainer.flows.adaptation_engine import CLOSING, Ended
from cloud_trainer.flows.arms import Errand, WithdrawnError
from cloud_trainer.flows.queue_book import QueueBook, ended
from cloud_trainer.flows.queue_rules import rank
from cloud_trainer.flows.queue_turns import LOOK_S, Over, stand
from cloud_trainer.progress import ClosingError
from cloud_trainer.store.sql_queue import QueueRow
from gymnast_core.queue import QueueKind

CHANGING: tuple[QueueKind, ...] = ("adaptation", "loop")
"""Kinds of flows that change what a robot runs; a trial compares, and waits for its turns alone."""
BEGUN = "begun"
"""In the spec of such a flow's entry: false while it waits for its beginning."""
Waits = Callable[[str], None]
"""Called with what a flow waits for, whenever that changes."""
Begin = Callable[[Sequence[str], Errand, Ended, Waits], None]
"""Returns once a flow may change what these robots run; see QueueBeginnings.begin."""


def begun(row: QueueRow) -> bool:
    """Whether a flow's entry has begun; those of before there was an order among them have."""
    return row.spec.get(BEGUN) is not False


class QueueBeginnings:
    """See the module. Threads may share it.

    Args:
        book: of the trainer.
        over: why a flow has ended, see Over; one that is only being stopped has not.
    """

    def __init__(self, book: QueueBook, over: Over) -> None:
        self._book, self._over = book, over

    def begin(self, tenant: str, robots: Sequence[str], errand: Errand, ended: Ended, waits: Waits) -> None:
        """Return once a flow may change what its robots run; at once where it has begun before.

        Args:
            tenant: of the robots.
            robots: all of the flow; it begins when it is first on each of them.
            errand: in whose name, and which flow.
            ended: asked about once a second.
            waits: see Waits; called with an empty text at the end.

        Raises:
            WithdrawnError: the flow was stopped, or taken out of a queue, while it waited.
            ClosingError: this process ends.
        """
        book, said = self._book, ""
        with book.changed:
            names = [self._stand(tenant, robot, errand).entry_id for robot in robots]
        while True:
            with book.changed:
                before = self._before(tenant, names)
                if not before:
                    book.put(*(replace(row, spec={BEGUN: True}, reason="") for row in self._mine(tenant, names)))
                    break
            if self._drop_ended(before):
                continue
            if (why := "begins after " + " and ".join(dict.fromkeys(map(_named, before)))) != said:
                said = why
                self._show(tenant, names, why)
                waits(why)
            if reason := ended():
                self._end(tenant, names, reason)
            with book.changed:
                book.changed.wait(LOOK_S)
        waits("")

    def _stand(self, tenant: str, robot: str, errand: Errand) -> QueueRow:
        """Its entry in a robot's queue; one that has ended waits for its beginning anew."""
        known = stand(self._book, tenant, robot, errand, "its first step", {BEGUN: False})
        self._book.put(known)
        return known

    def _mine(self, tenant: str, names: Sequence[str]) -> list[QueueRow]:
        book = self._book
        if book.closing:
            raise ClosingError("a flow waits for its robots; it goes on after the restart")
        if gone := next((name for name in names if name not in book.entries), ""):
            row = book.entry(tenant, gone)
            raise WithdrawnError(f"{row.flow} no longer waits for {row.robots[0]}: {row.reason or row.state}")
        return [book.entries[name] for name in names]

    def _before(self, tenant: str, names: Sequence[str]) -> list[QueueRow]:
        """Entries of other flows that go first, or the flow's own where somebody has them rest; none: it may begin."""
        mine, now_ns = self._mine(tenant, names), time.time_ns()
        if all(map(begun, mine)):
            return []
        if rests := [row for row in mine if row.paused]:
            return rests
        flows: dict[tuple[str, str], list[QueueRow]] = {}
        for row in self._book.open_of(tenant):
            if row.kind in CHANGING:
                flows.setdefault((row.kind, row.flow), []).append(row)
        del flows[mine[0].kind, mine[0].flow]
        robots, place = {name for row in mine for name in row.robots}, min(rank(row, now_ns) for row in mine)
        return [
            row
            for rows in flows.values()
            for row in rows
            if not robots.isdisjoint(row.robots)
            and (begun(row) or (not row.paused and min(rank(one, now_ns) for one in rows) < place))
        ]

    def _drop_ended(self, rows: Sequence[QueueRow]) -> bool:
        """End the entries of flows that are over; returns whether there was one."""
        found = {row.entry_id: why for row in rows if (why := self._over(row.tenant, row.kind, row.flow))}
        with self._book.changed:
            for name in found.keys() & self._book.entries.keys():
                self._book.put(ended(self._book.entries[name], "done", found[name]))
        return bool(found)

    def _show(self, tenant: str, names: Sequence[str], why: str) -> None:
        with self._book.changed:
            self._book.put(*(replace(row, reason=why) for row in self._mine(tenant, names)))

    def _end(self, tenant: str, names: Sequence[str], why: str) -> None:
        """It shall not begin any more; raises."""
        if why == CLOSING:
            raise ClosingError("a flow waits for its robots; it goes on after the restart")
        with self._book.changed:
            self._book.put(*(ended(row, "cancelled", why) for row in self._mine(tenant, names)))
        raise WithdrawnError(f"it no longer waits for its robots: {why}")


def _named(row: QueueRow) -> str:
    if row.paused and not begun(row):
        return "somebody resumes it"
    return f"{row.kind} {row.flow} of {row.asked_by} on {', '.join(row.robots)}"
