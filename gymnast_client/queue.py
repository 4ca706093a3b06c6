"""The queues of robots on the trainer: what each shall do, in which order, and who asked for it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gymnast_client.client import Client, same_fields
from gymnast_client.reading import read_object
from gymnast_core.errors import ConfigError
from gymnast_core.json_values import JsonObject
from gymnast_core.queue import USUAL_PRIORITY, StartsSpec, checked_priority
from gymnast_core.wire.gymnast.v1 import queue_pb2, queue_pb2_grpc

_FIELDS = ("entry_id", "kind", "flow", "what", "robots", "priority", "asked_by", "state", "note", "done", "total",
           "created_ns", "ended_ns", "estimated_end_ns", "on")  # fmt: skip


@dataclass(frozen=True)
class QueueEntryView:
    """An entry of a queue as it is now.

    Attributes:
        entry_id: never reused.
        kind: episode, evaluation, practice, trial, adaptation or loop.
        flow: id of the trial or adaptation, name of the loop; empty for what the queue does itself.
        what: it does, in words.
        robots: those that share it.
        priority: 0 to 9, higher goes first.
        asked_by: the person.
        state: waiting, running, paused, resting (a flow that needs no robot now), done, failed or cancelled.
        note: what holds it up, or why it ended; empty when there is nothing to be told.
        done, total: episodes; 0 where it has no number of them.
        created_ns, ended_ns, estimated_end_ns: the trainer's wall clock; 0 where it is not known.
        on: robots that work on it now.
        spec: what was asked for, JSON values.
        result: successes with their 95 % interval: {all, tasks, robots, checkpoint}; empty before the first.
    """

    entry_id: str
    kind: str
    flow: str
    what: str
    robots: tuple[str, ...]
    priority: int
    asked_by: str
    state: str
    note: str
    done: int
    total: int
    created_ns: int
    ended_ns: int
    estimated_end_ns: int
    on: tuple[str, ...]
    spec: JsonObject
    result: JsonObject

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state in ("done", "failed", "cancelled")


@dataclass(frozen=True)
class RestingQueue:
    """A robot whose whole queue rests: by whom, why, and since when (the trainer's wall clock)."""

    robot: str
    paused_by: str
    reason: str
    at_ns: int


@dataclass(frozen=True)
class QueueStartView:
    """One episode of an entry that is there; outcome is success, failure or unlabelled; cut says why it was cut."""

    task: str
    seed: int
    robot: str
    outcome: str
    episode_id: str
    labelled_by: str
    cut: str
    at_ns: int


class QueueClient(Client):
    """The queues of our tenant's robots; a robot sees its own."""

    def add(
        self, kind: str, spec: StartsSpec | JsonObject, *, robots: Sequence[str] = (),
        priority: int = USUAL_PRIORITY, key: str = "",
    ) -> QueueEntryView:  # fmt: skip
        """Add an entry at the end of its priority.

        Args:
            kind: episode, evaluation or practice.
            spec: what to do.
            robots: that share it; empty is the only one that reports.
            priority: 0 to 9, higher goes first.
            key: the same one never adds a second entry; empty makes one, so that a retry adds none.

        Raises:
            ConfigError: a value makes no sense; the message names it and the remedy.
            NotPossibleError: a robot is not known there.
            QuotaError: too many entries are open.
        """
        values = spec.to_json() if isinstance(spec, StartsSpec) else dict(spec)
        request = queue_pb2.AddEntryRequest(
            kind=kind, robots=list(robots), spec_json=json.dumps(values), priority=checked_priority(priority),
            key=key or secrets.token_hex(16),
        )  # fmt: skip
        return _entry(self._link.call(lambda channel: queue_pb2_grpc.QueueServiceStub(channel).Add, request))

    def get(self, entry_id: str) -> QueueEntryView:
        """One entry.

        Raises:
            NotFoundError: there is none of this id.
        """
        request = queue_pb2.EntryId(entry_id=entry_id)
        return _entry(self._link.call(lambda channel: queue_pb2_grpc.QueueServiceStub(channel).Get, request))

    def list(self, robot: str = "") -> Iterator[QueueEntryView]:
        """Open entries in the order in which they go, then ended ones, the last first; of one robot, or of all."""
        rows = self._rows(
            lambda channel: queue_pb2_grpc.QueueServiceStub(channel).List,
            lambda after: queue_pb2.ListEntriesRequest(after=after, robot=robot),
            lambda reply: reply.entries,
            lambda row: row.entry_id,
        )
        return map(_entry, rows)

    def resting(self) -> Sequence[RestingQueue]:
        """The robots whose whole queues rest."""
        request = queue_pb2.ListEntriesRequest(limit=1)
        reply = self._link.call(lambda channel: queue_pb2_grpc.QueueServiceStub(channel).List, request)
        return _rests(reply.rests)

    def starts(self, entry_id: str) -> Iterator[QueueStartView]:
        """The episodes of an entry that are there, by start state."""
        rows = self._rows(
            lambda channel: queue_pb2_grpc.QueueServiceStub(channel).Starts,
            lambda after: queue_pb2.ListStartsRequest(entry_id=entry_id, after=after),
            lambda reply: reply.starts,
            lambda row: f"{row.seed}/{row.task}",
        )
        return (QueueStartView(**same_fields(row, tuple(QueueStartView.__dataclass_fields__))) for row in rows)

    def pause(self, entry_id: str) -> QueueEntryView:
        """Have an entry rest after what robots have in hand of it."""
        request = queue_pb2.QueueTarget(entry_id=entry_id)
        reply = self._link.call(lambda channel: queue_pb2_grpc.QueueServiceStub(channel).Pause, request)
        return _entry(reply.entry)

    def resume(self, entry_id: str) -> QueueEntryView:
        """Have an entry go on; robots that failed at it try again."""
        request = queue_pb2.QueueTarget(entry_id=entry_id)
        reply = self._link.call(lambda channel: queue_pb2_grpc.QueueServiceStub(channel).Resume, request)
        return _entry(reply.entry)

    def pause_robot(self, robot: str, reason: str = "") -> Sequence[RestingQueue]:
        """Have a robot's whole queue rest after what it has in hand; returns all that rest."""
        request = queue_pb2.QueueTarget(robot=robot, reason=reason)
        reply = self._link.call(lambda channel: queue_pb2_grpc.QueueServiceStub(channel).Pause, request)
        return _rests(reply.rests)

    def resume_robot(self, robot: str) -> Sequence[RestingQueue]:
        """Have a robot's whole queue go on; returns all that rest still.

        Raises:
            NotPossibleError: it did not rest.
        """
        request = queue_pb2.QueueTarget(robot=robot)
        reply = self._link.call(lambda channel: queue_pb2_grpc.QueueServiceStub(channel).Resume, request)
        return _rests(reply.rests)

    def cancel(self, entry_id: str) -> QueueEntryView:
        """End an entry; that of a trial, adaptation or loop ends with it.

        Raises:
            NotPossibleError: it has ended already.
        """
        request = queue_pb2.EntryId(entry_id=entry_id)
        return _entry(self._link.call(lambda channel: queue_pb2_grpc.QueueServiceStub(channel).Cancel, request))

    def move(
        self, entry_id: str, *, before: str = "", first: bool = False, last: bool = False, priority: int | None = None
    ) -> QueueEntryView:
        """Give an entry another place: before another one (whose priority it takes), first, last, or a priority.

        Raises:
            ConfigError: not exactly one of these is asked for, or the priority is none.
        """
        if sum((bool(before), first, last, priority is not None)) != 1:
            raise ConfigError("name one place: before another entry, first, last, or a priority")
        request = queue_pb2.MoveEntryRequest(entry_id=entry_id)
        if priority is not None:
            request.priority = checked_priority(priority)
        elif before:
            request.before = before
        elif first:
            request.first = True
        else:
            request.last = True
        return _entry(self._link.call(lambda channel: queue_pb2_grpc.QueueServiceStub(channel).Move, request))


def _entry(reply: queue_pb2.QueueEntry) -> QueueEntryView:
    return QueueEntryView(
        **same_fields(reply, _FIELDS),
        spec=read_object(reply.spec_json, f"what {reply.entry_id} does"),
        result=read_object(reply.result_json, f"the result of {reply.entry_id}"),
    )


def _rests(rows: Sequence[queue_pb2.QueueRest]) -> Sequence[RestingQueue]:
    return [RestingQueue(row.robot, row.paused_by, row.reason, row.at_ns) for row in rows]
