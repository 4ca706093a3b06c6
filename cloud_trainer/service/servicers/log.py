"""LogService: the log of actions, and real against imagined success."""

from __future__ import annotations

from dataclasses import asdict

import grpc

from cloud_trainer.records.ledger import LedgerCalibration
from cloud_trainer.service.handlers import LogHandlers
from cloud_trainer.service.servicers.messages import fitting, json_text, page_size
from gymnast_core.evaluation.statistics import Interval
from gymnast_core.json_values import whole
from gymnast_core.records.journal import Entry
from gymnast_core.wire.gymnast.v1 import log_pb2
from gymnast_core.wire.identity import Peer

_OWN = ("by", "role", "at_ns", "tenant")
"""What an entry says in fields of their own, or not at all: it is the caller's tenant's."""


class LogServicer:
    """The trainer's account of itself."""

    def __init__(self, log: LogHandlers) -> None:
        self._log = log

    def List(
        self, request: log_pb2.ListActionsRequest, peer: Peer, context: grpc.ServicerContext
    ) -> log_pb2.ListActionsReply:
        """A page, oldest first."""
        entries, head = self._log.entries(peer)
        page = [entry for entry in entries if entry.sequence >= request.from_sequence][: page_size(request.limit)]
        return log_pb2.ListActionsReply(entries=fitting(_entry(entry) for entry in page), head=head)

    def Ledger(self, request: log_pb2.LedgerRequest, peer: Peer, context: grpc.ServicerContext) -> log_pb2.LedgerReply:
        """The calibration overall, by task, and over world-model versions."""
        ledger = self._log.ledger(peer)
        overall = ledger.calibration()
        return log_pb2.LedgerReply(
            overall=None if overall is None else _calibration(overall),
            tasks=[_calibration(found, task=task) for task, found in ledger.by_task().items()],
            trend=[_calibration(found, world_model=world_model) for world_model, found in ledger.trend()],
        )


def _entry(entry: Entry) -> log_pb2.LogEntry:
    data = entry.data
    rest = {name: value for name, value in data.items() if name not in _OWN}
    return log_pb2.LogEntry(
        sequence=entry.sequence, at_ns=whole(data.get("at_ns", 0)), by=str(data.get("by", "")),
        role=str(data.get("role", "")), action=entry.kind, data_json=json_text(rest),
    )  # fmt: skip


def _calibration(found: LedgerCalibration, *, task: str = "", world_model: str = "") -> log_pb2.CalibrationRow:
    values = asdict(found)
    for name in ("real", "imagined", "bias"):
        values[name] = _estimate(getattr(found, name))
    return log_pb2.CalibrationRow(task=task, world_model=world_model, **values)


def _estimate(interval: Interval) -> log_pb2.Estimate:
    return log_pb2.Estimate(mean=interval.mean, low=interval.low, high=interval.high)
