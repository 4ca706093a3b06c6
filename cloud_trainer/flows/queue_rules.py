"""What a queue decides without looking at anything but its arguments: who goes first, and what is left."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict, cast

from cloud_trainer.store.sql_queue import QueueRow, StartRow
from gymnast_core.evaluation.cards import SuccessCount
from gymnast_core.evaluation.results import counts
from gymnast_core.evaluation.statistics import wilson_interval
from gymnast_core.json_values import JsonObject
from gymnast_core.queue import StartsSpec

AGE_S = 3600.0
"""An entry that had no turn for so long goes before those of the next higher priority, after twice that of the next but
one: nothing waits for ever, whatever comes in above it."""
PORTION = 5
"""Start states a robot is given at once, at most: what its death may cost, and how long a higher priority waits."""
Key = tuple[str, int]
"""(task, seed) of an entry."""


@dataclass(frozen=True)
class Range:
    """Tasks from neighbouring start states."""

    tasks: tuple[str, ...]
    seed_start: int
    seed_count: int

    @property
    def keys(self) -> set[Key]:
        """Each task from each of them."""
        return {(task, self.seed_start + more) for task in self.tasks for more in range(self.seed_count)}


def rank(row: QueueRow, now_ns: int) -> tuple[float, int]:
    """Return what orders entries: the lowest goes first."""
    aged = max(0, int((now_ns - row.since_ns) / 1e9 / AGE_S))
    return -(row.priority + aged), row.place


def ordered(rows: Iterable[QueueRow], now_ns: int) -> list[QueueRow]:
    """Return entries in the order in which they go."""
    return sorted(rows, key=lambda row: rank(row, now_ns))


def placed_before(row: QueueRow, target: QueueRow, others: Sequence[QueueRow], now_ns: int) -> list[QueueRow]:
    """An entry directly before another one of its priority; the places of those between are handed on."""
    group = [one for one in others if one.priority == target.priority and one.entry_id != row.entry_id]
    at = next((number for number, one in enumerate(group) if one.entry_id == target.entry_id), 0)
    order = [*group[:at], replace(row, priority=target.priority), *group[at:]]
    places = sorted(one.place for one in order)
    return [replace(one, place=place, since_ns=now_ns) for one, place in zip(order, places, strict=True)]


def next_range(spec: StartsSpec, taken: Collection[Key], sharing: int) -> Range | None:
    """Return what a robot shall do next of an entry; None where nothing is left.

    Args:
        spec: of the entry.
        taken: what is there, or in some robot's hand.
        sharing: robots that work on it, so that they finish together.
    """
    left = spec.episodes - len(taken)
    most = max(1, min(PORTION, -(-left // (len(spec.tasks) * max(1, sharing)))))
    found: Range | None = None
    for seed in range(spec.seed_start, spec.seed_start + spec.seed_count):
        tasks = tuple(task for task in spec.tasks if (task, seed) not in taken)
        if found is None:
            found = Range(tasks, seed, 1) if tasks else None
        elif tasks != found.tasks or found.seed_count >= most:
            break
        else:
            found = Range(tasks, found.seed_start, found.seed_count + 1)
    return found


def task_named(spec: StartsSpec, *names: str) -> str | None:
    """Return the task of an entry that goes by one of these names at a robot; None where it is of none."""
    known = [name.strip().lower() for name in names]
    return next((task for task in spec.tasks if task.strip().lower() in known), None)


class StartsCount(SuccessCount, total=False):
    """Successes with their 95 % interval (Wilson); without one where nothing is labelled."""

    rate: float
    low: float
    high: float


class StartsResult(TypedDict):
    """What an entry of episodes came to: all of it, each task, and each robot's share."""

    all: StartsCount
    tasks: dict[str, StartsCount]
    robots: dict[str, StartsCount]
    checkpoint: str


def result_of(spec: StartsSpec, starts: Sequence[StartRow]) -> StartsResult:
    """Return what an entry came to so far."""
    whole = counts({(row.task, row.seed): row.success for row in starts})
    robots = sorted({row.robot for row in starts})
    shares = {
        name: counts({(row.task, row.seed): row.success for row in starts if row.robot == name}) for name in robots
    }
    return {
        "all": _with_interval(whole),
        "tasks": {task: _with_interval(count) for task, count in whole["tasks"].items()},
        "robots": {name: _with_interval(count) for name, count in shares.items()},
        "checkpoint": spec.checkpoint,
    }


def _with_interval(count: SuccessCount) -> StartsCount:
    shown: StartsCount = {"successes": count["successes"], "n": count["n"], "unlabelled": count["unlabelled"]}
    if count["n"]:
        interval = wilson_interval(count["successes"], count["n"])
        shown |= {"rate": count["successes"] / count["n"], "low": interval.low, "high": interval.high}
    return shown


def json_of(result: StartsResult) -> JsonObject:
    """JSON values of a result."""
    return cast("JsonObject", result)
