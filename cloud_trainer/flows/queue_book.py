"""The queues of all robots as this process knows them: everything is in the database before it is so here.

One process works on a trainer's folder (its lock), so what the database holds is read once, at the start.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cloud_trainer.flows.queue_rules import Key, json_of, ordered, result_of
from cloud_trainer.store.sql_queue import PortionRow, QueuePause, QueueRow, SqlQueueStore, StartRow
from gymnast_core.orders import Order
from gymnast_core.queue import QueueState, StartsSpec
from gymnast_core.robot_status import RobotStatus
from gymnast_core.wire.errors import NotFoundError

RobotKey = tuple[str, str]
"""(tenant, name)"""
KEPT = 300
"""Ended entries of a tenant that can be looked at."""
FRESH_S = 15.0
"""A report that is older says nothing about now."""
GONE_S = 60.0
"""A robot that has been silent for so long gives its portion back, where another one may do it."""
REASON_CHARACTERS = 500


@dataclass
class RobotNow:
    """What is known of one robot at the moment.

    Attributes:
        status: as last reported.
        heard_s: monotonic, of its last report.
        holder: entry whose flow has the robot; empty where none has.
    """

    status: RobotStatus = field(default_factory=RobotStatus)
    heard_s: float = 0.0
    holder: str = ""


@dataclass
class Setback:
    """How often in a row a robot failed at an entry, and until when it shall not try again (monotonic)."""

    times: int = 0
    until_s: float = 0.0


class QueueBook:
    """See the module. Whoever reads or changes it holds `changed`.

    Args:
        store: keeps it.
        clock_s: monotonic.

    Attributes:
        gone_s: see GONE_S.
        changed: the lock; notified whenever somebody may go on.
        entries: open ones by id.
        portions: what each robot has in hand.
        pauses: robots whose queue rests.
        wanting: flows' entries that wait for their robot, or will again in a moment: until when (monotonic).
        setbacks: of an entry on a robot.
        turns_s: how long a flow's last turns took, by entry.
        closing: this process ends; nobody gets a robot any more.
    """

    def __init__(self, store: SqlQueueStore, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.store, self.clock_s, self.gone_s = store, clock_s, GONE_S
        self.changed = threading.Condition()
        self.entries = {row.entry_id: row for row in store.open_entries()}
        self.portions: dict[RobotKey, PortionRow] = {(row.tenant, row.robot): row for row in store.portions()}
        self.pauses: dict[RobotKey, QueuePause] = {(row.tenant, row.robot): row for row in store.pauses()}
        self.wanting: dict[str, float] = {}
        self.setbacks: dict[tuple[str, str], Setback] = {}
        self.turns_s: dict[str, deque[float]] = {}
        self.closing = False
        self._starts: dict[str, dict[Key, StartRow]] = {}
        self._robots: dict[RobotKey, RobotNow] = {}
        self._began_s = clock_s()
        self._revisions: dict[str, int] = {}

    def robot(self, key: RobotKey) -> RobotNow:
        """Return what is known of a robot; one that has not spoken since this process began has until GONE_S."""
        return self._robots.setdefault(key, RobotNow(heard_s=self._began_s))

    def silent_s(self, key: RobotKey) -> float:
        """Return how long a robot has said nothing."""
        return self.clock_s() - self.robot(key).heard_s

    def starts(self, entry_id: str) -> dict[Key, StartRow]:
        """Return the episodes of an open entry that are there."""
        if entry_id not in self._starts:
            self._starts[entry_id] = {(row.task, row.seed): row for row in self.store.starts(entry_id)}
        return self._starts[entry_id]

    def in_hand(self, entry_id: str) -> set[Key]:
        """Return the episodes of an entry that robots have in hand."""
        return {
            (task, seed)
            for portion in self.portions.values()
            if portion.entry_id == entry_id
            for task in portion_tasks(portion)
            for seed in portion_seeds(portion)
        }

    def open_of(self, tenant: str) -> list[QueueRow]:
        """Return a tenant's open entries in the order in which they go."""
        return ordered((row for row in self.entries.values() if row.tenant == tenant), time.time_ns())

    def entry(self, tenant: str, entry_id: str) -> QueueRow:
        """Return one entry, open or ended.

        Raises:
            NotFoundError: there is none.
        """
        row = self.entries.get(entry_id)
        if row is None or row.tenant != tenant:
            row = self.store.find(tenant, entry_id=entry_id)
        if row is None or row.tenant != tenant:
            raise NotFoundError(f"there is no entry {entry_id[:80]!r}; `gymnast queue list` has those there are")
        return row

    def put(self, *rows: QueueRow) -> None:
        """Write entries down and have everybody look at them anew."""
        self.store.save(*rows)
        for row in rows:
            self.keep(row)

    def keep(self, row: QueueRow) -> None:
        """Take in an entry that is written down."""
        if row.ended:
            self.entries.pop(row.entry_id, None)
            self._starts.pop(row.entry_id, None)
            self.wanting.pop(row.entry_id, None)
            self.turns_s.pop(row.entry_id, None)
            self.store.forget(row.tenant, KEPT)
        else:
            self.entries[row.entry_id] = row
        self.touch(row.tenant)

    def note(self, row: QueueRow, starts: list[StartRow]) -> QueueRow:
        """Add episodes to an entry, which ends with the last of them; returns it as it is then."""
        spec, known = StartsSpec.model_validate(row.spec), self.starts(row.entry_id)
        fresh = {(start.task, start.seed): start for start in starts if (start.task, start.seed) not in known}
        known |= fresh
        done = len(known)
        row = replace(row, done=done, result=json_of(result_of(spec, list(known.values()))))
        if done == row.total:
            row = ended(row, "done", "")
        with self.store.transaction():
            self.store.note(row.entry_id, list(fresh.values()))
            self.put(row)
        return row

    def drop_portion(self, key: RobotKey) -> None:
        """A robot has nothing in hand any more."""
        if key in self.portions:
            self.store.take_back(*key)
            del self.portions[key]
            self.touch(key[0])

    def revision(self, tenant: str) -> int:
        """Return what changes whenever something of a tenant's queues does."""
        return self._revisions.get(tenant, 0)

    def touch(self, tenant: str) -> None:
        """Something of a tenant's has changed."""
        self._revisions[tenant] = self._revisions.get(tenant, 0) + 1
        self.changed.notify_all()

    def close(self) -> None:
        """Give no robot to anybody from now on; those that wait are turned away."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()


def ended(row: QueueRow, state: QueueState, reason: str) -> QueueRow:
    """Return an entry as it has ended."""
    return replace(row, state=state, reason=reason[:REASON_CHARACTERS], paused=False, ended_ns=time.time_ns())


def portion_seeds(portion: PortionRow) -> range:
    """Return the start states of a portion; none where it is no evaluation."""
    first, count = portion.spec.get("seed_start"), portion.spec.get("seed_count")
    return range(first, first + count) if isinstance(first, int) and isinstance(count, int) else range(0)


def portion_tasks(portion: PortionRow) -> tuple[str, ...]:
    """Return the tasks of a portion; none where it is no evaluation."""
    tasks = portion.spec.get("tasks")
    return tuple(map(str, tasks)) if isinstance(tasks, (list, tuple)) else ()


def order_of(portion: PortionRow, by: str) -> Order:
    """Return what a robot is told to do: each attempt under an id of its own."""
    return Order(order_id_of(portion), portion.kind, dict(portion.spec), by)


def order_id_of(portion: PortionRow) -> str:
    """Return the id under which a robot speaks of a portion."""
    return f"{portion.portion_id}-{portion.attempt}"
