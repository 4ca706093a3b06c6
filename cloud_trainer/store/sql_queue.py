"""The queues of robots in SQL: entries, which of their episodes are there, what robots have in hand, and pauses."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import sqlalchemy as sa

from cloud_trainer.store.database import Database
from cloud_trainer.store.tables import QUEUE_ENTRIES, QUEUE_PAUSES, QUEUE_PORTIONS, QUEUE_STARTS
from gymnast_core.json_values import JsonObject
from gymnast_core.queue import OPEN_STATES, QueueKind, QueueState

_OPEN = QUEUE_ENTRIES.c.state.in_(OPEN_STATES)


@dataclass(frozen=True)
class QueueRow:
    """One entry of a queue.

    Attributes:
        entry_id: never reused.
        tenant: the tenant it belongs to.
        key: the same one never makes a second entry.
        kind: see QueueKind.
        flow: id of the trial, adaptation or loop that holds the robot by it; empty where the queue itself does it.
        what: it does, in words.
        robots: names of those that may do it; several share it.
        spec: JSON values.
        priority: see gymnast_core.queue.
        place: order within a priority.
        asked_by: the person.
        state: see QueueState.
        paused: it rests until somebody resumes it.
        reason: why it ended, rests or cannot go on; empty when there is nothing to be told.
        done, total: episodes; of a flow 0.
        result: JSON values, once it has ended.
        created_ns, since_ns, ended_ns: wall clock: when it was added, had its last turn (or was moved), and ended.
    """

    entry_id: str
    tenant: str
    key: str
    kind: QueueKind
    flow: str
    what: str
    robots: tuple[str, ...]
    spec: JsonObject
    priority: int
    place: int
    asked_by: str
    state: QueueState = "waiting"
    paused: bool = False
    reason: str = ""
    done: int = 0
    total: int = 0
    result: JsonObject = field(default_factory=dict)
    created_ns: int = 0
    since_ns: int = 0
    ended_ns: int = 0

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state not in OPEN_STATES


@dataclass(frozen=True)
class StartRow:
    """One episode of an entry that is there.

    Attributes:
        task: as the entry names it.
        seed: start state.
        robot: that ran it.
        success: its label; None when nobody labelled it.
        episode_id: of the recording; empty without one.
        labelled_by: the labeller, as the robot names it.
        cut: why it did not run to its end; empty where it did.
        at_ns: wall clock, when the trainer heard of it.
    """

    task: str
    seed: int
    robot: str
    success: bool | None
    episode_id: str
    labelled_by: str
    cut: str
    at_ns: int


@dataclass(frozen=True)
class PortionRow:
    """What one robot was given to do and has not ended.

    Attributes:
        portion_id: never reused; a robot that is asked again goes on with it where it was.
        tenant: the tenant it belongs to.
        robot: its name.
        entry_id: of what entry.
        attempt: counted from 1.
        kind: of the order, see gymnast_core.orders.
        spec: of the order.
        given_ns: wall clock.
    """

    portion_id: str
    tenant: str
    robot: str
    entry_id: str
    attempt: int
    kind: str
    spec: JsonObject
    given_ns: int


@dataclass(frozen=True)
class QueuePause:
    """A robot's whole queue rests: by whom, why and since when (wall clock)."""

    tenant: str
    robot: str
    paused_by: str
    reason: str
    at_ns: int


def new_entry_id() -> str:
    """Return an id no other entry has."""
    return f"entry-{secrets.token_hex(6)}"


def new_portion_id() -> str:
    """Return an id no other portion has."""
    return f"portion-{secrets.token_hex(8)}"


class SqlQueueStore:
    """See the module. Threads may share it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self) -> AbstractContextManager[object]:
        """What this thread changes inside it is one transaction."""
        return self._database.transaction()

    def add(self, row: QueueRow) -> QueueRow:
        """Add an entry at the end of its priority and return it; the one that has its key where there is one."""
        with self._database.transaction() as connection:
            place = self._database.next_number(connection, "queue")
            values = {**_entry_values(row), "place": place}
            self._database.insert_new(connection, QUEUE_ENTRIES, values)
            same = (QUEUE_ENTRIES.c.tenant == row.tenant) & (QUEUE_ENTRIES.c.key == row.key)
            return _entry(connection.execute(sa.select(QUEUE_ENTRIES).where(same)).mappings().one())

    def last_place(self) -> int:
        """Return a place behind all others."""
        with self._database.transaction() as connection:
            return self._database.next_number(connection, "queue")

    def save(self, *rows: QueueRow) -> None:
        """Write changed entries back."""
        with self._database.transaction() as connection:
            for row in rows:
                same = QUEUE_ENTRIES.c.entry_id == row.entry_id
                connection.execute(sa.update(QUEUE_ENTRIES).where(same).values(_entry_values(row)))

    def open_entries(self) -> list[QueueRow]:
        """Every entry that has not ended, of all tenants."""
        return self._entries(sa.select(QUEUE_ENTRIES).where(_OPEN).order_by(QUEUE_ENTRIES.c.place))

    def ended_entries(self, tenant: str, limit: int) -> list[QueueRow]:
        """A tenant's entries that have ended, the last first."""
        mine = (QUEUE_ENTRIES.c.tenant == tenant) & ~_OPEN
        last = (QUEUE_ENTRIES.c.ended_ns.desc(), QUEUE_ENTRIES.c.place.desc())
        return self._entries(sa.select(QUEUE_ENTRIES).where(mine).order_by(*last).limit(limit))

    def find(self, tenant: str, *, entry_id: str = "", key: str = "") -> QueueRow | None:
        """One entry, by its id or its key."""
        named = QUEUE_ENTRIES.c.entry_id == entry_id if entry_id else QUEUE_ENTRIES.c.key == key
        found = self._entries(sa.select(QUEUE_ENTRIES).where((QUEUE_ENTRIES.c.tenant == tenant) & named))
        return found[0] if found else None

    def forget(self, tenant: str, keep: int) -> None:
        """Drop a tenant's ended entries but for so many newest, with their starts."""
        with self._database.transaction() as connection:
            old = [row.entry_id for row in self.ended_entries(tenant, keep + 1000)[keep:]]
            for table in (QUEUE_STARTS, QUEUE_ENTRIES):
                connection.execute(sa.delete(table).where(table.c.entry_id.in_(old)))

    def starts(self, entry_id: str) -> list[StartRow]:
        """The episodes of an entry that are there."""
        order = (QUEUE_STARTS.c.seed, QUEUE_STARTS.c.task)
        query = sa.select(QUEUE_STARTS).where(QUEUE_STARTS.c.entry_id == entry_id).order_by(*order)
        with self._database.transaction() as connection:
            rows = connection.execute(query).mappings().all()
        return [StartRow(**{name: value for name, value in row.items() if name != "entry_id"}) for row in rows]

    def note(self, entry_id: str, starts: Sequence[StartRow]) -> None:
        """Add episodes; one that is there stays as it is."""
        with self._database.transaction() as connection:
            for start in starts:
                self._database.insert_new(connection, QUEUE_STARTS, {"entry_id": entry_id, **asdict(start)})

    def give(self, portion: PortionRow) -> None:
        """Note what a robot has in hand from now on, in place of what it had."""
        with self._database.transaction() as connection:
            self.take_back(portion.tenant, portion.robot)
            values = {**asdict(portion), "spec": json.dumps(dict(portion.spec))}
            connection.execute(sa.insert(QUEUE_PORTIONS).values(values))

    def take_back(self, tenant: str, robot: str) -> None:
        """Note that a robot has nothing in hand."""
        mine = (QUEUE_PORTIONS.c.tenant == tenant) & (QUEUE_PORTIONS.c.robot == robot)
        with self._database.transaction() as connection:
            connection.execute(sa.delete(QUEUE_PORTIONS).where(mine))

    def portions(self) -> list[PortionRow]:
        """What all robots have in hand."""
        with self._database.transaction() as connection:
            rows = connection.execute(sa.select(QUEUE_PORTIONS)).mappings().all()
        return [PortionRow(**{**row, "spec": json.loads(row["spec"])}) for row in rows]

    def pause(self, pause: QueuePause) -> None:
        """Note that a robot's queue rests."""
        with self._database.transaction() as connection:
            self.resume(pause.tenant, pause.robot)
            connection.execute(sa.insert(QUEUE_PAUSES).values(asdict(pause)))

    def resume(self, tenant: str, robot: str) -> None:
        """Note that a robot's queue goes on."""
        mine = (QUEUE_PAUSES.c.tenant == tenant) & (QUEUE_PAUSES.c.robot == robot)
        with self._database.transaction() as connection:
            connection.execute(sa.delete(QUEUE_PAUSES).where(mine))

    def pauses(self) -> list[QueuePause]:
        """The robots whose queues rest."""
        with self._database.transaction() as connection:
            return [QueuePause(**row) for row in connection.execute(sa.select(QUEUE_PAUSES)).mappings()]

    def _entries(self, query: sa.Select[Any]) -> list[QueueRow]:
        with self._database.transaction() as connection:
            return [_entry(row) for row in connection.execute(query).mappings()]


def _entry_values(row: QueueRow) -> dict[str, object]:
    texts = {name: json.dumps(getattr(row, name)) for name in ("robots", "spec", "result")}
    return {**asdict(row), **texts}


def _entry(row: Mapping[Any, Any]) -> QueueRow:
    parsed = {name: json.loads(row[name]) for name in ("robots", "spec", "result")}
    return QueueRow(**{**row, **parsed, "robots": tuple(cast("list[str]", parsed["robots"]))})
