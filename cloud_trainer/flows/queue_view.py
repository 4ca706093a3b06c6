"""What people see of the queues: each entry's state, who works on it, what holds it up, and when it will have ended."""

from __future__ import annotations

import time
from dataclasses import dataclass

from cloud_trainer.flows.queue_begin import begun
from cloud_trainer.flows.queue_book import FRESH_S, QueueBook, ended
from cloud_trainer.flows.queue_dispatch import AGAIN_S, QueueDispatch
from cloud_trainer.flows.queue_ends import FlowLeft, entry_left_s, estimated_ends, flow_left_s, turn_s
from cloud_trainer.flows.queue_turns import Over
from cloud_trainer.store.sql_queue import QueueRow
from gymnast_core.queue import StartsSpec

SHOWN_ENDED = 50


@dataclass(frozen=True)
class ShownEntry:
    """An entry as people see it.

    Attributes:
        row: what is written down.
        state: waiting, running, paused, resting (a flow that needs no robot now), done, failed or cancelled.
        on: robots that work on it now.
        estimated_end_ns: wall clock; 0 where nobody can say.
        note: what holds it up; empty when nothing does.
    """

    row: QueueRow
    state: str
    on: tuple[str, ...]
    estimated_end_ns: int
    note: str


def shown_entries(book: QueueBook, tenant: str, has_ended: Over, left: FlowLeft) -> list[ShownEntry]:
    """Return a tenant's open entries in the order in which they go, then ended ones, the last first.

    Args:
        book: of the trainer.
        tenant: whose.
        has_ended: why a flow has, see Over; its entry ends with it.
        left: see FlowLeft.
    """
    with book.changed:
        held = {row.entry_id for row in book.open_of(tenant) if row.flow and not _resting(book, row)}
    gone = {
        row.entry_id: why
        for row in book.open_of(tenant)
        if row.flow and row.entry_id not in held and (why := has_ended(tenant, row.kind, row.flow))
    }
    with book.changed:
        for entry_id in gone.keys() & book.entries.keys():
            if _resting(book, book.entries[entry_id]):
                book.put(ended(book.entries[entry_id], "done", gone[entry_id]))
        rows, over = book.open_of(tenant), book.store.ended_entries(tenant, SHOWN_ENDED)
        left_s = {row.entry_id: entry_left_s(book, row) for row in rows if not row.flow}
        turns_s = {row.entry_id: turn_s(book, row) for row in rows if row.flow}
    for row in rows:
        if row.flow:
            known_s = left(tenant, row.kind, row.flow, turns_s[row.entry_id])
            left_s[row.entry_id] = known_s or flow_left_s(row, over, time.time_ns())
    ends = estimated_ends(rows, {name: seconds for name, seconds in left_s.items() if seconds > 0}, time.time_ns())
    with book.changed:
        shown = [shown_entry(book, row, ends.get(row.entry_id, 0)) for row in rows]
        return [*shown, *(shown_entry(book, row) for row in over)]


def shown_entry(book: QueueBook, row: QueueRow, estimated_end_ns: int = 0) -> ShownEntry:
    """Return one entry as people see it."""
    on = sorted(name for (_, name), portion in book.portions.items() if portion.entry_id == row.entry_id)
    holders = [name for name in row.robots if book.robot((row.tenant, name)).holder == row.entry_id]
    state: str = row.state
    if not row.ended and row.paused:
        state = "paused"
    elif not row.ended and row.flow and _resting(book, row):
        state = "resting" if begun(row) else "waiting"
    elif not row.ended and not row.flow and not on:
        state = "waiting"
    note = "" if row.ended else row.reason or _note(book, row)
    return ShownEntry(row, state, (*on, *holders), estimated_end_ns, note if not row.ended else row.reason)


def _resting(book: QueueBook, row: QueueRow) -> bool:
    """Whether a flow neither has its robot nor waits for it."""
    holds = any(book.robot((row.tenant, name)).holder == row.entry_id for name in row.robots)
    return not holds and book.wanting.get(row.entry_id, 0.0) <= book.clock_s()


def _note(book: QueueBook, row: QueueRow) -> str:
    """What keeps robots from an entry, robot by robot; empty where one may go on."""
    found = []
    for name in row.robots:
        key = (row.tenant, name)
        status = book.robot(key).status
        if key in book.pauses:
            found.append(f"the queue of {name} rests")
        elif not status or book.silent_s(key) > FRESH_S:
            found.append(f"{name} does not report")
        elif status.get("takes_orders") is False:
            found.append(f"{name} takes no orders")
        elif status.get("estop"):
            found.append(f"{name} is stopped ({status.get('estop_reason') or 'e-stop'})")
        elif row.kind == "practice" and (waits := _awaited(book, row, name)):
            found.append(f"{name} waits for a person: {waits}")
        elif not row.flow and row.kind != "practice" and not _holds(row, book, name):
            found.append(f"{name} does not hold {StartsSpec.model_validate(row.spec).checkpoint}; offer it there")
        elif (back := book.setbacks.get((row.entry_id, name))) is not None and back.times > len(AGAIN_S):
            found.append(f"{name} failed at it {back.times} times")
    return "; ".join(found)


def _awaited(book: QueueBook, row: QueueRow, name: str) -> str:
    """What a robot that practises for an entry waits for a person for; empty where it waits for nobody."""
    portion, now = book.portions.get((row.tenant, name)), book.robot((row.tenant, name)).status.get("practice")
    mine = portion is not None and portion.entry_id == row.entry_id and now is not None
    return now["reason"] if mine and now is not None and now["state"] == "waiting" else ""


def _holds(row: QueueRow, book: QueueBook, name: str) -> bool:
    return QueueDispatch.holds(book.robot((row.tenant, name)).status, StartsSpec.model_validate(row.spec).checkpoint)
