"""QueueService: what robots shall do, in which order."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from cloud_trainer.flows.queue_view import ShownEntry
from cloud_trainer.service.config import Limits
from cloud_trainer.service.handlers import QueueHandlers, QueueRequest
from cloud_trainer.service.servicers.messages import (
    MOST_CHARACTERS,
    bounded,
    fitting,
    json_field,
    json_text,
    page_after,
)
from cloud_trainer.store.sql_queue import QueuePause, StartRow
from gymnast_core.queue import MOST_ROBOTS, USUAL_PRIORITY
from gymnast_core.wire.errors import InvalidMessageError
from gymnast_core.wire.gymnast.v1 import queue_pb2
from gymnast_core.wire.identity import Peer

_MOST_KEY = 128
_SAME = ("entry_id", "kind", "flow", "what", "robots", "priority", "asked_by", "done", "total", "created_ns",
         "ended_ns")  # fmt: skip


class QueueServicer:
    """The queues of robots."""

    def __init__(self, queue: QueueHandlers, limits: Limits) -> None:
        self._queue, self._limits = queue, limits

    def Add(
        self, request: queue_pb2.AddEntryRequest, peer: Peer, context: grpc.ServicerContext
    ) -> queue_pb2.QueueEntry:
        """Add an entry, or find the one with the same key."""
        robots = bounded("robots", request.robots, MOST_ROBOTS)
        for text in (request.kind, *robots):
            bounded("characters of a text", text, MOST_CHARACTERS)
        if len(request.key) > _MOST_KEY or request.key.startswith(("entry-", "flow/")):
            raise InvalidMessageError(
                f"key {request.key[:40]!r} must have at most {_MOST_KEY} characters and not begin with entry- or flow/"
            )
        priority = request.priority if request.HasField("priority") else USUAL_PRIORITY
        spec = json_field(request.spec_json, self._limits)
        asked = QueueRequest(request.kind, tuple(robots), spec, priority, request.key)
        return _entry(self._queue.add(peer, asked))

    def Get(self, request: queue_pb2.EntryId, peer: Peer, context: grpc.ServicerContext) -> queue_pb2.QueueEntry:
        """One entry."""
        return _entry(self._queue.find(peer, request.entry_id))

    def List(
        self, request: queue_pb2.ListEntriesRequest, peer: Peer, context: grpc.ServicerContext
    ) -> queue_pb2.ListEntriesReply:
        """A page, in the order in which they go."""
        found = self._queue.all(peer, request.robot)
        rows = page_after(found, lambda shown: shown.row.entry_id, request.after, request.limit)
        rests = _rests(self._queue.pauses(peer))
        return queue_pb2.ListEntriesReply(entries=fitting(_entry(row) for row in rows), rests=rests)

    def Starts(
        self, request: queue_pb2.ListStartsRequest, peer: Peer, context: grpc.ServicerContext
    ) -> queue_pb2.ListStartsReply:
        """A page of the episodes that are there."""
        found = self._queue.starts(peer, request.entry_id)
        rows = page_after(found, lambda row: f"{row.seed}/{row.task}", request.after, request.limit)
        return queue_pb2.ListStartsReply(starts=fitting(map(_start, rows)))

    def Pause(self, request: queue_pb2.QueueTarget, peer: Peer, context: grpc.ServicerContext) -> queue_pb2.QueuesReply:
        """Have an entry or a robot's queue rest."""
        if _names_entry(request):
            return queue_pb2.QueuesReply(entry=_entry(self._queue.pause(peer, request.entry_id)))
        return queue_pb2.QueuesReply(rests=_rests(self._queue.pause_robot(peer, request.robot, request.reason)))

    def Resume(
        self, request: queue_pb2.QueueTarget, peer: Peer, context: grpc.ServicerContext
    ) -> queue_pb2.QueuesReply:
        """Have it go on."""
        if _names_entry(request):
            return queue_pb2.QueuesReply(entry=_entry(self._queue.resume(peer, request.entry_id)))
        return queue_pb2.QueuesReply(rests=_rests(self._queue.resume_robot(peer, request.robot)))

    def Cancel(self, request: queue_pb2.EntryId, peer: Peer, context: grpc.ServicerContext) -> queue_pb2.QueueEntry:
        """End one."""
        return _entry(self._queue.cancel(peer, request.entry_id))

    def Move(
        self, request: queue_pb2.MoveEntryRequest, peer: Peer, context: grpc.ServicerContext
    ) -> queue_pb2.QueueEntry:
        """Give it another place."""
        priority = request.priority if request.HasField("priority") else None
        moved = self._queue.move(
            peer, request.entry_id, before=request.before, first=request.first, last=request.last, priority=priority
        )
        return _entry(moved)


def _names_entry(request: queue_pb2.QueueTarget) -> bool:
    """Whether an entry is meant, not a robot."""
    if bool(request.entry_id) == bool(request.robot):
        raise InvalidMessageError("name an entry, or a robot whose whole queue is meant: one of the two")
    return bool(request.entry_id)


def _entry(shown: ShownEntry) -> queue_pb2.QueueEntry:
    row = shown.row
    return queue_pb2.QueueEntry(
        **{name: getattr(row, name) for name in _SAME}, spec_json=json_text(row.spec), state=shown.state,
        note=shown.note, result_json=json_text(row.result), estimated_end_ns=shown.estimated_end_ns, on=shown.on,
    )  # fmt: skip


def _start(row: StartRow) -> queue_pb2.QueueStart:
    outcome = {True: "success", False: "failure", None: "unlabelled"}[row.success]
    return queue_pb2.QueueStart(
        task=row.task, seed=row.seed, robot=row.robot, outcome=outcome, episode_id=row.episode_id,
        labelled_by=row.labelled_by, cut=row.cut, at_ns=row.at_ns,
    )  # fmt: skip


def _rests(pauses: Sequence[QueuePause]) -> list[queue_pb2.QueueRest]:
    return [
        queue_pb2.QueueRest(robot=one.robot, paused_by=one.paused_by, reason=one.reason, at_ns=one.at_ns)
        for one in pauses
    ]
