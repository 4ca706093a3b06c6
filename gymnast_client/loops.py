"""Unattended loops of the trainer: begun, followed and stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from gymnast_client.client import Client, json_object, same_fields
from gymnast_core.loop_config import LoopConfig
from gymnast_core.loop_history import LoopHistory
from gymnast_core.wire.gymnast.v1 import loops_pb2, loops_pb2_grpc

_FIELDS = ("name", "robot", "started_by", "at_ns", "state", "reason", "step", "done", "total", "note", "stopping",
           "revision")  # fmt: skip


@dataclass(frozen=True)
class LoopProgress:
    """A loop as it is now.

    Attributes:
        name: of the loop.
        robot: its name.
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
    robot: str
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
    return LoopProgress(**same_fields(message, _FIELDS), history=cast(LoopHistory, json_object(message.history_json)))
