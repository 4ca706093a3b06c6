"""The trainer's judge of real episodes: how far it is proven, and which episodes wait for a person's label."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gymnast_client.client import Client, same_fields
from gymnast_core.outcome import Judgement
from gymnast_core.wire.gymnast.v1 import judge_pb2, judge_pb2_grpc
from gymnast_core.wire.judging import judgement_from

_PAGE = 200


@dataclass(frozen=True)
class EvidenceView:
    """An episode that a person labelled and a judge looked at: judged is the judge's word, label the person's."""

    episode_id: str
    judged: str
    score: float
    label: str
    labelled_by: str


@dataclass(frozen=True)
class PrecisionView:
    """One judge on one task in one scene; see cloud_trainer.records.precision.

    Attributes:
        judge: version.
        task: instruction.
        scene: where.
        labelled: episodes that a person labelled and the judge looked at.
        abstained: of those, by the judge.
        called_success: of those.
        true_success: of the called ones.
        called_failure: of those.
        true_failure: of the called ones.
        success_low: lower end of the 95 % interval of the share of called successes that are some.
        failure_low: of called failures.
        labels_success: whether the judge may label successes here.
        labels_failure: whether it may label failures.
        floor: that the lower ends have to reach.
        reason: why it may not, where it may not.
        evidence: the episodes, where they were asked for.
    """

    judge: str
    task: str
    scene: str
    labelled: int
    abstained: int
    called_success: int
    true_success: int
    called_failure: int
    true_failure: int
    success_low: float
    failure_low: float
    labels_success: bool
    labels_failure: bool
    floor: float
    reason: str
    evidence: tuple[EvidenceView, ...] = ()


@dataclass(frozen=True)
class PrecisionTable:
    """All of them, and the judge that runs at the trainer; empty where none does."""

    judge: str
    rows: tuple[PrecisionView, ...]


@dataclass(frozen=True)
class DoubtView:
    """An episode that waits for a person's label.

    Attributes:
        sequence: of the episode.
        episode_id: which.
        kind: disagreement (a judge found otherwise than the label), judges (they differ), abstention, or unlabelled
            (no judge has looked).
        instruction: what the arm was asked to do.
        scene: where.
        robot: whose.
        outcome: its label now.
        labelled_by: its author.
        judgements: newest first.
    """

    sequence: int
    episode_id: str
    kind: str
    instruction: str
    scene: str
    robot: str
    outcome: str
    labelled_by: str
    judgements: tuple[Judgement, ...]


class JudgingClient(Client):
    """The judge."""

    def precision(self, *, task: str = "", evidence: bool = False) -> PrecisionTable:
        """Return how far judges are proven.

        Args:
            task: only this instruction; empty is all.
            evidence: with the episodes behind each row.
        """
        request = judge_pb2.ListPrecisionRequest(task=task, evidence=evidence)
        reply = self._link.call(lambda channel: judge_pb2_grpc.JudgeServiceStub(channel).ListPrecision, request)
        return PrecisionTable(reply.judge, tuple(map(_row, reply.rows)))

    def doubts(self, limit: int = 60, *, before: int = 0) -> Iterator[DoubtView]:
        """Yield episodes that wait for a person's label, newest first.

        Args:
            limit: at most so many.
            before: sequence of one that was seen already; 0 begins with the newest.
        """
        while limit > 0:
            request = judge_pb2.ListDoubtsRequest(before_sequence=before, limit=min(limit, _PAGE))
            reply = self._link.call(lambda channel: judge_pb2_grpc.JudgeServiceStub(channel).ListDoubts, request)
            if not reply.doubts:
                return
            yield from map(_doubt, reply.doubts)
            before, limit = reply.doubts[-1].sequence, limit - len(reply.doubts)


def _row(message: judge_pb2.PrecisionRow) -> PrecisionView:
    names = [name for name in PrecisionView.__dataclass_fields__ if name != "evidence"]
    shown = (EvidenceView(**same_fields(one, list(EvidenceView.__dataclass_fields__))) for one in message.evidence)
    return PrecisionView(**same_fields(message, names), evidence=tuple(shown))


def _doubt(message: judge_pb2.Doubt) -> DoubtView:
    names = [name for name in DoubtView.__dataclass_fields__ if name != "judgements"]
    return DoubtView(**same_fields(message, names), judgements=tuple(map(judgement_from, message.judgements)))
