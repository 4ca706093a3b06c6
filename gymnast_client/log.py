"""The trainer's account of itself: its log of actions, and real against imagined success."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gymnast_client.client import Client, same_fields
from gymnast_client.reading import read_object
from gymnast_core.evaluation.statistics import Interval
from gymnast_core.json_values import JsonObject
from gymnast_core.wire.gymnast.v1 import log_pb2, log_pb2_grpc


@dataclass(frozen=True)
class LogEntry:
    """One action.

    Attributes:
        sequence: rises by one with every entry of the log; other tenants' of an older trainer are left out.
        at_ns: the trainer's wall clock.
        by: its author.
        role: of the author.
        action: what was done.
        data: what else was written down, JSON values.
    """

    sequence: int
    at_ns: int
    by: str
    role: str
    action: str
    data: JsonObject


@dataclass(frozen=True)
class CalibrationView:
    """How imagined success compares with real success over some evaluations; see the trainer's ledger.

    Attributes:
        world_model: of a row of the trend; empty elsewhere.
        rows: evaluations.
        n: decided episodes.
        abstained: undecided ones.
        real: real success rate.
        imagined: imagined success rate.
        bias: imagined minus real, paired; above zero is optimism.
        agreement: share of episodes with the same outcome.
        false_success: P(judge says success | real failure); None without real failures.
        correlation: of real and imagined rates over the rows; None below three rows.
    """

    world_model: str
    rows: int
    n: int
    abstained: int
    real: Interval
    imagined: Interval
    bias: Interval
    agreement: float
    false_success: float | None
    correlation: float | None


@dataclass(frozen=True)
class LedgerView:
    """Real against imagined success.

    Attributes:
        overall: None in an empty ledger.
        tasks: by task.
        trend: by world model, in order of first use.
    """

    overall: CalibrationView | None
    tasks: Mapping[str, CalibrationView]
    trend: Sequence[CalibrationView]


class LogClient(Client):
    """The log of our tenant."""

    def entries(self, *, start: int = 0) -> Iterator[LogEntry]:
        """Every action from a sequence number on, oldest first."""
        while True:
            reply = self._page(start)
            if not reply.entries:
                return
            yield from map(_entry, reply.entries)
            start = reply.entries[-1].sequence + 1

    def head(self) -> str:
        """The hash that all of the log leads to; whoever kept an earlier one can check that nothing before changed."""
        return str(self._page(0, 1).head)

    def ledger(self) -> LedgerView:
        """Real against imagined success."""
        request = log_pb2.LedgerRequest()
        reply = self._link.call(lambda channel: log_pb2_grpc.LogServiceStub(channel).Ledger, request)
        return LedgerView(
            overall=_calibration(reply.overall) if reply.HasField("overall") else None,
            tasks={row.task: _calibration(row) for row in reply.tasks},
            trend=[_calibration(row) for row in reply.trend],
        )

    def _page(self, start: int, limit: int = 0) -> log_pb2.ListActionsReply:
        request = log_pb2.ListActionsRequest(from_sequence=start, limit=limit)
        return self._link.call(lambda channel: log_pb2_grpc.LogServiceStub(channel).List, request)


def _entry(message: log_pb2.LogEntry) -> LogEntry:
    same = same_fields(message, ("sequence", "at_ns", "by", "role", "action"))
    return LogEntry(**same, data=read_object(message.data_json, f"entry {message.sequence} of its log"))


def _calibration(message: log_pb2.CalibrationRow) -> CalibrationView:
    values = same_fields(message, ("world_model", "rows", "n", "abstained", "agreement"))
    values |= {name: _interval(getattr(message, name)) for name in ("real", "imagined", "bias")}
    for name in ("false_success", "correlation"):
        values[name] = getattr(message, name) if message.HasField(name) else None
    return CalibrationView(**values)


def _interval(message: log_pb2.Estimate) -> Interval:
    return Interval(message.mean, message.low, message.high)
