"""The queues of robots: people add to them, order, pause and cancel; a robot sees its own alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from cloud_trainer.flows.queue_book import QueueBook, ended
from cloud_trainer.flows.queue_rules import placed_before
from cloud_trainer.flows.queue_view import ShownEntry, shown_entries, shown_entry
from cloud_trainer.flows.queues import RobotQueues
from cloud_trainer.records.trail import Trails
from cloud_trainer.service.handlers.flows import Flows
from cloud_trainer.service.handlers.robots import RobotHandlers
from cloud_trainer.store.sql_queue import QueuePause, QueueRow, StartRow, new_entry_id
from gymnast_core.authority import Who, authorise
from gymnast_core.errors import ConfigError, NotPossibleError
from gymnast_core.json_values import JsonObject
from gymnast_core.practice import practice_asked
from gymnast_core.queue import ADDED, MOST_ROBOTS, USUAL_PRIORITY, StartsSpec, checked_priority
from gymnast_core.wire.errors import NotFoundError, QuotaError

FlowStops = Mapping[str, Callable[[Who, str], object]]
"""Kind of a flow -> what ends one, given who asks and its id."""
_REASON = _WHAT = 300


@dataclass(frozen=True)
class QueueRequest:
    """What is asked for when an entry is added.

    Attributes:
        kind: one of ADDED.
        robots: that may do it, and share it; empty is the only one that reports.
        spec: JSON values, see StartsSpec; of practice see PracticeAsked.
        priority: see gymnast_core.queue.
        key: the same one never adds a second entry; empty is none.
    """

    kind: str
    robots: tuple[str, ...]
    spec: JsonObject
    priority: int = USUAL_PRIORITY
    key: str = ""


class QueueHandlers:
    """See the module.

    Args:
        queues: of the trainer.
        flows: of the trainer.
        robots: what they report.
        trails: where actions are written down.
        most_open: entries of a tenant that may be open.
        stops: see FlowStops.
    """

    def __init__(
        self, queues: RobotQueues, flows: Flows, robots: RobotHandlers, trails: Trails, most_open: int,
        stops: FlowStops,
    ) -> None:  # fmt: skip
        self._queues, self._flows, self._robots, self._trails = queues, flows, robots, trails
        self._most_open, self._stops = most_open, stops

    @property
    def _book(self) -> QueueBook:
        return self._queues.book

    def all(self, who: Who, robot: str = "") -> list[ShownEntry]:
        """Return open entries in the order in which they go, then ended ones, the last first; a robot sees its own.

        Args:
            who: asks.
            robot: of this one alone; empty is all.
        """
        authorise(who, "follow")
        robot = who.name if who.role == "robot" else robot
        has_ended = partial(self._flows.over, stopping=False)
        found = shown_entries(self._book, who.tenant, has_ended, self._flows.left_s)
        return [self._explained(entry) for entry in found if not robot or robot in entry.row.robots]

    def _explained(self, entry: ShownEntry) -> ShownEntry:
        """Say of a flow that rests what it rests for."""
        row = entry.row
        why = self._flows.waits_for(row.tenant, row.kind, row.flow) if entry.state == "resting" else ""
        return replace(entry, note="; ".join(filter(None, (why, entry.note)))) if why else entry

    def find(self, who: Who, entry_id: str) -> ShownEntry:
        """Return one, open or ended.

        Raises:
            NotFoundError: there is none of this id, or it is another tenant's or another robot's.
        """
        if (known := next((entry for entry in self.all(who) if entry.row.entry_id == entry_id), None)) is not None:
            return known
        with self._book.changed:
            row = self._book.entry(who.tenant, entry_id)
            if who.role == "robot" and who.name not in row.robots:
                raise NotFoundError(f"there is no entry {entry_id[:80]!r} of {who.name}")
            return shown_entry(self._book, row)

    def starts(self, who: Who, entry_id: str) -> list[StartRow]:
        """Return the episodes of an entry that are there, by start state; raises as find()."""
        self.find(who, entry_id)
        return self._book.store.starts(entry_id)

    def pauses(self, who: Who) -> list[QueuePause]:
        """Return the robots whose queues rest, by name; a robot sees its own."""
        authorise(who, "follow")
        found = sorted(self._book.pauses.values(), key=lambda pause: pause.robot)
        return [row for row in found if row.tenant == who.tenant and (who.role != "robot" or who.name == row.robot)]

    def version(self, tenant: str) -> int:
        """Return what changes whenever something of a tenant's queues does."""
        return self._book.revision(tenant)

    def add(self, who: Who, request: QueueRequest) -> ShownEntry:
        """Add an entry at the end of its priority.

        Raises:
            ConfigError: a value makes no sense; the message names it and the remedy.
            NotPossibleError: a robot is not known here, or takes no orders.
            QuotaError: the tenant has too many open entries.
        """
        authorise(who, "queue")
        book, key = self._book, request.key or new_entry_id()
        with book.changed:
            known = book.store.find(who.tenant, key=key)
            if known is None and sum(row.tenant == who.tenant for row in book.entries.values()) >= self._most_open:
                raise QuotaError(f"tenant {who.tenant!r} has {self._most_open} open entries; let some end first")
            if known is None:
                row = self._row(who, request, key)
                asked = {"entry": row.entry_id, "kind": row.kind, "robots": list(row.robots), "what": row.what}
                with self._trails.of(who.tenant).committing(who, "queue", asked):
                    known = book.store.add(row)
                book.keep(known)
        return self.find(who, known.entry_id)

    def pause(self, who: Who, entry_id: str) -> ShownEntry:
        """Have an entry rest after what robots have in hand of it."""
        why = f"paused by {who.name}"
        self._changed(who, "pause", entry_id, lambda row: replace(row, paused=True, reason=why))
        return self.find(who, entry_id)

    def resume(self, who: Who, entry_id: str) -> ShownEntry:
        """Have an entry go on; robots that failed at it try again."""

        def resumed(row: QueueRow) -> QueueRow:
            for known in [known for known in self._book.setbacks if known[0] == entry_id]:
                del self._book.setbacks[known]
            return replace(row, paused=False, reason="")

        self._changed(who, "resume", entry_id, resumed)
        return self.find(who, entry_id)

    def cancel(self, who: Who, entry_id: str) -> ShownEntry:
        """End an entry; what robots have in hand of it ends at their next step, what was recorded stays.

        The entry of a flow ends with its flow: a trial is stopped, an adaptation cancelled, a loop stopped.
        """
        authorise(who, "queue")
        row = self._open(who, entry_id)
        if row.flow and not self._flows.over(who.tenant, row.kind, row.flow):
            self._stops[row.kind](who, row.flow)
        with self._book.changed:
            if not self._book.entry(who.tenant, entry_id).ended:  # with its flow
                self._queues.dispatch.withdraw(entry_id)
                self._changed(who, "cancel", entry_id, lambda row: ended(row, "cancelled", f"by {who.name}"))
        return self.find(who, entry_id)

    def move(
        self, who: Who, entry_id: str, *, before: str = "", first: bool = False, last: bool = False,
        priority: int | None = None,
    ) -> ShownEntry:  # fmt: skip
        """Give an entry another place: before another one (whose priority it takes), first, last, or a priority.

        Raises:
            ConfigError: not exactly one of these is asked for, or the priority is none.
        """
        if sum((bool(before), first, last, priority is not None)) != 1:
            raise ConfigError("name one place: before another entry, first, last, or a priority")
        authorise(who, "queue")
        book = self._book
        with book.changed:
            row = self._open(who, entry_id)
            others = [one for one in book.open_of(who.tenant) if one.entry_id != entry_id]
            if before or first:
                target = self._open(who, before) if before else others[0] if others else row
                moved = placed_before(row, target, others, time.time_ns())
            else:
                wanted = row.priority if priority is None else checked_priority(priority)
                moved = [replace(row, priority=wanted, place=book.store.last_place(), since_ns=time.time_ns())]
            with self._trails.of(who.tenant).committing(who, "queue: move", {"entry": entry_id}):
                book.store.save(*moved)
            for one in moved:
                book.keep(one)
        return self.find(who, entry_id)

    def pause_robot(self, who: Who, robot: str, reason: str = "") -> list[QueuePause]:
        """Have a robot's whole queue rest after what it has in hand."""
        authorise(who, "queue")
        self._known_robot(who, robot)
        pause = QueuePause(who.tenant, robot, who.name, reason[:_REASON], time.time_ns())
        with self._book.changed:
            with self._trails.of(who.tenant).committing(who, "queue: pause", {"robot": robot}):
                self._book.store.pause(pause)
            self._book.pauses[who.tenant, robot] = pause
            self._book.touch(who.tenant)
        return self.pauses(who)

    def resume_robot(self, who: Who, robot: str) -> list[QueuePause]:
        """Have a robot's whole queue go on."""
        authorise(who, "queue")
        with self._book.changed:
            if (who.tenant, robot) not in self._book.pauses:
                raise NotPossibleError(f"the queue of {robot[:80]!r} does not rest; there is nothing to resume")
            with self._trails.of(who.tenant).committing(who, "queue: resume", {"robot": robot}):
                self._book.store.resume(who.tenant, robot)
            del self._book.pauses[who.tenant, robot]
            self._book.touch(who.tenant)
        return self.pauses(who)

    def _row(self, who: Who, request: QueueRequest, key: str) -> QueueRow:
        """What is asked for as an entry, if it makes sense."""
        kind = next((kind for kind in ADDED if kind == request.kind), None)
        if kind is None:
            raise ConfigError(
                f"kind {request.kind[:40]!r} is not one of {', '.join(ADDED)}; begin a trial, an adaptation or a loop "
                "by its own command: it takes its place in the queue by itself"
            )
        robots = self._robots_of(who, request.robots)
        now_ns, priority = time.time_ns(), checked_priority(request.priority)
        entry_id = key if key.startswith("entry-") and not request.key else new_entry_id()
        if kind == "practice":
            asked = practice_asked(request.spec)
            spec, total = asked.model_dump(mode="json", exclude_defaults=True), asked.episodes
            what = f"practice: {asked.task} and {asked.reset}, {asked.hours:g} h"
        else:
            starts = StartsSpec.model_validate(request.spec)
            starts = starts.changed(checkpoint=self._checkpoint(who, robots, starts.checkpoint))
            spec, total = starts.to_json(), starts.episodes
            what = f"{', '.join(starts.tasks)} from {starts.seed_count} starts by {starts.checkpoint}"
        return QueueRow(
            entry_id, who.tenant, key, kind, "", what[:_WHAT], robots, spec, priority, 0, who.name, total=total,
            created_ns=now_ns, since_ns=now_ns,
        )  # fmt: skip

    def _robots_of(self, who: Who, robots: Sequence[str]) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name.strip() for name in robots if name.strip()))
        if len(names) > MOST_ROBOTS:
            raise ConfigError(f"{len(names)} robots; at most {MOST_ROBOTS} share an entry")
        live = [] if names else self._robots.reporting(who)
        if not names and len(live) != 1:
            known = ", ".join(sorted(live)) or "none"
            raise ConfigError(f"which robots? name one or several; these report now: {known}")
        for name in names:
            self._known_robot(who, name)
        return names or tuple(live)

    def _known_robot(self, who: Who, name: str) -> None:
        known = self._robots.known(who.tenant) | {one for row in self._book.open_of(who.tenant) for one in row.robots}
        if name not in known:
            raise NotPossibleError(f"robot {name[:80]!r} has not reported here; is its bridge running and enrolled?")

    def _checkpoint(self, who: Who, robots: Sequence[str], asked: str) -> str:
        """The one checkpoint that an entry is about: a result of several would be nobody's."""
        if asked:
            return asked
        reports = self._robots.board.of_tenant(who.tenant)
        runs = {one.robot: str(one.status.get("policy_version", "")) for one in reports if one.robot in robots}
        found = set(runs.values()) - {""}
        if len(found) != 1 or len(runs) < len(robots):
            said = ", ".join(f"{name} runs {runs.get(name) or 'nothing known'}" for name in robots)
            raise ConfigError(f"which checkpoint? {said}; name one that all of them hold")
        return found.pop()

    def _open(self, who: Who, entry_id: str) -> QueueRow:
        """An entry that has not ended.

        Raises:
            NotPossibleError: it has.
        """
        with self._book.changed:
            row = self._book.entry(who.tenant, entry_id)
        if row.ended:
            raise NotPossibleError(f"{row.entry_id} has ended ({row.state}); there is nothing to change, add a new one")
        return row

    def _changed(self, who: Who, action: str, entry_id: str, change: Callable[[QueueRow], QueueRow]) -> None:
        authorise(who, "queue")
        book = self._book
        with book.changed:
            row = change(self._open(who, entry_id))
            with self._trails.of(who.tenant).committing(who, f"queue: {action}", {"entry": entry_id}):
                book.store.save(row)
            book.keep(row)
