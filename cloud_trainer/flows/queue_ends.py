"""When entries of the queues will have ended, as far as anybody can say: by what they did so far, or their like did."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from cloud_trainer.flows.queue_begin import CHANGING, begun
from cloud_trainer.flows.queue_book import QueueBook
from cloud_trainer.store.sql_queue import QueueRow
from gymnast_core.practice import PracticeAsked
from gymnast_core.queue import QueueKind

MOST_SECONDS = 3600.0
"""Between two episodes of one robot; what lies further apart was a pause."""
FlowLeft = Callable[[str, QueueKind, str, float], float]
"""Given tenant, kind and id of a flow and how long one of its turns takes: seconds left; 0 is not known, of both."""


def estimated_ends(rows: Sequence[QueueRow], left_s: Mapping[str, float], now_ns: int) -> dict[str, int]:
    """Return when each entry will have ended (wall clock, ns); none for what nobody can say.

    Entries are done in their order, each robot one at a time, shared ones by all their robots at once. An adaptation or
    a loop leaves its robots to others between its steps, so that nothing is behind it but those that begin after it.

    Args:
        rows: open ones of a tenant, in their order.
        left_s: entry -> what is left of it, in seconds of one robot; those of which it is known.
        now_ns: wall clock.
    """
    free: dict[str, float] = {}
    ends: dict[str, float] = {}
    holders = [row for row in rows if row.kind in CHANGING and begun(row)]
    held = {name: left_s.get(row.entry_id) for row in holders for name in row.robots}
    robots_of: dict[str, set[str]] = {}
    for row in rows:
        robots_of.setdefault(row.flow, set()).update(row.robots)
    for row in rows:
        seconds = left_s.get(row.entry_id)
        if row.paused or seconds is None or not row.robots:
            continue
        if row.kind in CHANGING:
            before = [0.0] if begun(row) else [held[name] for name in robots_of[row.flow] if name in held]
            known = [one for one in before if one is not None]
            if len(known) == len(before):
                ends[row.entry_id] = max(known, default=0.0) + seconds
            continue
        robots = row.robots[:1] if row.kind == "practice" else row.robots
        end = (seconds + sum(free.get(name, 0.0) for name in robots)) / len(robots)
        free |= dict.fromkeys(robots, end)
        ends[row.entry_id] = end
    return {name: now_ns + int(end * 1e9) for name, end in ends.items()}


def entry_left_s(book: QueueBook, row: QueueRow) -> float:
    """Return how long one robot would need for what is left of episodes or practice; 0 where nobody can say."""
    if row.kind == "practice":
        begins = [portion.given_ns for portion in book.portions.values() if portion.entry_id == row.entry_id]
        done_s = (time.time_ns() - min(begins)) / 1e9 if begins else 0.0
        return max(0.0, 3600.0 * PracticeAsked.model_validate(row.spec).hours - done_s)
    by_robot: dict[str, list[int]] = {}
    for start in book.starts(row.entry_id).values():
        by_robot.setdefault(start.robot, []).append(start.at_ns)
    seconds = sum(_span_s(sorted(times)) for times in by_robot.values())
    count = sum(at > min(times) for times in by_robot.values() for at in times)  # the first portion only begins it
    return (row.total - row.done) * seconds / count if count else 0.0


def turn_s(book: QueueBook, row: QueueRow) -> float:
    """Return how long a flow's last turns took, the median; 0 where it had none since this process began."""
    return statistics.median(book.turns_s.get(row.entry_id, (0.0,)))


def flow_left_s(row: QueueRow, over: Sequence[QueueRow], now_ns: int) -> float:
    """Return what is left of a flow that takes as long as the last ones of its kind did; 0 where nobody can say.

    Args:
        row: its entry.
        over: entries that have ended; from the first to the last turn, as a flow's entry is closed when somebody looks.
        now_ns: wall clock.
    """
    took = [one.since_ns - one.created_ns for one in over if one.flow and one.kind == row.kind and one.flow != row.flow]
    if not took:
        return 0.0
    since_ns = now_ns - row.created_ns if begun(row) else 0
    return max(0.0, (statistics.median(took) - since_ns) / 1e9)


def _span_s(times_ns: Sequence[int]) -> float:
    """From the first to the last, without pauses."""
    steps = [(after - before) / 1e9 for before, after in pairwise(times_ns)]
    return sum(step for step in steps if step < MOST_SECONDS)
