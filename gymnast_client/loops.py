"""Unattended loops of the trainer: begun, followed and stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gymnast_client.client import Client, same_fields
from gymnast_client.reading import read
from gymnast_core.loop_history import LoopHistory
from gymnast_core.wire.gymnast.v1 import loops_pb2, loops_pb2_grpc

if TYPE_CHECKING:  # most clients begin none
    from gymnast_core.loop_config import LoopConfig

_WATCH_DEADLINE_S = 300.0
_FIELDS = ("name", "started_by", "at_ns", "state", "reason", "step", "done", "total", "note", "stopping",
           "revision")  # fmt: skip


@dataclass(frozen=True)
class LoopProgress:
    """A loop as it is now.

    Attributes:
        name: of the loop.
        robots: their names.
        started_by: the person.
        at_ns: the trainer's wall clock, when it was begun or taken up last.
        state: running, done, stopped or failed.
        reason: why it ended; empty while it runs.
        step: at hand; empty between two.
        done, total, note: progress of that step.
        stopping: it ends after what it does now.
        revision: changes with everything else here.
        history: of its rounds, JSON values; empty before the first.
    """

    name: str
    robots: tuple[str, ...]
    started_by: str
    at_ns: int
    state: str
    reason: str
    step: str
    done: int
    total: int
    note: str
    stopping: bool
    revision: int
    history: LoopHistory


class LoopsClient(Client):
    """Loops."""

    def begin(self, config: LoopConfig) -> LoopProgress:
        """Begin a loop, or go on with the one of this name; one that runs is left alone, so this may be repeated.

        Raises:
            ConfigError: it was begun with other settings, or no robot is named and not exactly one reports.
            NotPossibleError: the robot cannot be ordered about now, or is busy.
        """
        request = loops_pb2.BeginLoopRequest(config_json=json.dumps(config.to_json()))
        return _progress(self._link.call(lambda channel: loops_pb2_grpc.LoopServiceStub(channel).Begin, request))

    def get(self, name: str) -> LoopProgress:
        """One loop.

        Raises:
            NotFoundError: there is none of this name.
        """
        request = loops_pb2.LoopName(name=name)
        return _progress(self._link.call(lambda channel: loops_pb2_grpc.LoopServiceStub(channel).Get, request))

    def watch(self, name: str, *, patience_s: float = 60.0) -> Iterator[LoopProgress]:
        """A loop as it is now, then again after every change, until it has ended.

        Goes on across broken links and restarts of the trainer.

        Args:
            name: of the loop.
            patience_s: give up after being without a trainer for so long.

        Raises:
            NotFoundError: there is none of this name.
            TransientBridgeError: the trainer stayed away.
        """
        replies = self._link.follow(
            lambda channel: loops_pb2_grpc.LoopServiceStub(channel).Watch,
            lambda: loops_pb2.LoopName(name=name),
            timeout_s=_WATCH_DEADLINE_S,
            patience_s=patience_s,
        )
        return map(_progress, replies)

    def list(self) -> Iterator[LoopProgress]:
        """Every loop, the one that was taken up last first."""
        rows = self._rows(
            lambda channel: loops_pb2_grpc.LoopServiceStub(channel).List,
            lambda after: loops_pb2.ListLoopsRequest(after=after),
            lambda reply: reply.loops,
            lambda row: row.name,
        )
        return map(_progress, rows)

    def stop(self, name: str) -> LoopProgress:
        """End one after what it does now; begun again, it goes on where it was.

        Raises:
            NotPossibleError: it is not running.
        """
        request = loops_pb2.LoopName(name=name)
        return _progress(self._link.call(lambda channel: loops_pb2_grpc.LoopServiceStub(channel).Stop, request))


def _progress(message: loops_pb2.Loop) -> LoopProgress:
    return LoopProgress(
        **same_fields(message, _FIELDS), robots=tuple(message.robots) or (message.robot,),  # of 0.1: the one
        history=read(LoopHistory, message.history_json, f"the history of loop {message.name}"),
    )  # fmt: skip
