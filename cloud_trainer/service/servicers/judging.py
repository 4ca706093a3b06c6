"""JudgeService: what a judge finds of real episodes, how far it is proven, and what waits for a person."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from cloud_trainer.records.precision import Precision
from cloud_trainer.service.handlers import JudgingHandlers
from cloud_trainer.service.handlers.judging import Doubt
from cloud_trainer.service.servicers.messages import MOST_CHARACTERS, bounded, fitting, page_size
from cloud_trainer.store.judgements import JudgedRow
from gymnast_core.wire.gymnast.v1 import judge_pb2
from gymnast_core.wire.identity import Peer
from gymnast_core.wire.judging import reply_of

_COUNTS = (
    "judge", "task", "scene", "labelled", "abstained", "called_success", "true_success", "called_failure",
    "true_failure", "success_low", "failure_low", "labels_success", "labels_failure", "floor", "reason",
)  # fmt: skip


class JudgeServicer:
    """The judge."""

    def __init__(self, judging: JudgingHandlers) -> None:
        self._judging = judging

    def Judge(self, request: judge_pb2.JudgeRequest, peer: Peer, context: grpc.ServicerContext) -> judge_pb2.JudgeReply:
        """Judge an episode; what is not proven is an abstention, not an error."""
        return reply_of(self._judging.judge(peer, request))

    def ListPrecision(
        self, request: judge_pb2.ListPrecisionRequest, peer: Peer, context: grpc.ServicerContext
    ) -> judge_pb2.ListPrecisionReply:
        """The table."""
        task = "".join(bounded("characters of a task", request.task, MOST_CHARACTERS))
        rows = self._judging.precision(peer, task=task)
        shown = (_row(row, self._judging.evidence(peer, row) if request.evidence else ()) for row in rows)
        return judge_pb2.ListPrecisionReply(judge=self._judging.version, rows=fitting(shown))

    def ListDoubts(
        self, request: judge_pb2.ListDoubtsRequest, peer: Peer, context: grpc.ServicerContext
    ) -> judge_pb2.ListDoubtsReply:
        """A page of the queue."""
        limit = page_size(request.limit)
        doubts = self._judging.doubts(peer, before=request.before_sequence, limit=limit)
        return judge_pb2.ListDoubtsReply(doubts=fitting(_doubt(doubt) for doubt in doubts))


def _row(row: Precision, evidence: Sequence[JudgedRow]) -> judge_pb2.PrecisionRow:
    shown = [
        judge_pb2.Evidence(
            episode_id=one.episode_id, judged=one.judged.value, score=one.score, label=one.label.value,
            labelled_by=one.labelled_by,
        )
        for one in evidence
    ]  # fmt: skip
    return judge_pb2.PrecisionRow(**{name: getattr(row, name) for name in _COUNTS}, evidence=shown)


def _doubt(doubt: Doubt) -> judge_pb2.Doubt:
    row = doubt.row
    return judge_pb2.Doubt(
        sequence=row.sequence, episode_id=row.episode_id, kind=doubt.kind, instruction=row.instruction,
        scene=str(row.metadata.get("scene", "")), robot=row.robot, outcome=row.outcome, labelled_by=row.labelled_by,
        judgements=[reply_of(judgement) for judgement in doubt.judgements],
    )  # fmt: skip
