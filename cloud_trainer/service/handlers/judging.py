"""The judge of real episodes: asked by robots, proven by people's labels, doubted in a queue of episodes to label."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cloud_trainer.flows.judge_watch import SCENE_KEY, ServingJudge
from cloud_trainer.records.precision import Precision, precision_of, table_of
from cloud_trainer.service.handlers.episodes import EpisodeHandlers
from cloud_trainer.store.judgements import JudgedRow, SqlJudgements
from cloud_trainer.store.protocols import EpisodeRow
from gymnast_core.authority import Who, authorise
from gymnast_core.outcome import Judgement
from gymnast_core.types import Outcome
from gymnast_core.wire.gymnast.v1 import judge_pb2
from gymnast_core.wire.judging import check_request

NO_JUDGE = "this trainer runs no judge; start it with gymnast serve --judge CHECKPOINT"
_WAITING = 4
"""Questions that wait for the judge at once; each holds a thread of the service."""
_TABLE_S = 2.0
"""How old a row of the table may be that a question is held against."""
_LABELS = (Outcome.SUCCESS.value, Outcome.FAILURE.value)


@dataclass(frozen=True)
class Doubt:
    """An episode that waits for a person's label.

    Attributes:
        row: the episode.
        judgements: newest first.
    """

    row: EpisodeRow
    judgements: tuple[Judgement, ...]

    @property
    def kind(self) -> str:
        """Return disagreement, judges (which differ), abstention, or unlabelled where no judge has looked."""
        decided = {judgement.outcome.value for judgement in self.judgements if judgement.decided}
        if self.row.outcome in _LABELS and decided - {self.row.outcome}:
            return "disagreement"
        if len(decided) > 1:
            return "judges"
        return "abstention" if self.judgements else "unlabelled"


class JudgingHandlers:
    """See the module.

    Args:
        judgements: what judges found.
        episodes: of the trainer.
        judge: runs here; None where none does.
        floor: of precision.
        clock: monotonic [s].
    """

    def __init__(
        self, judgements: SqlJudgements, episodes: EpisodeHandlers, judge: ServingJudge | None, floor: float,
        *, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._judgements, self._episodes, self._judge, self._floor = judgements, episodes, judge, floor
        self._waiting, self._clock = threading.BoundedSemaphore(_WAITING), clock
        self._rows: dict[tuple[str, str, str], tuple[float, Precision]] = {}
        self._lock = threading.Lock()

    @property
    def version(self) -> str:
        """Of the judge that runs here; empty where none does."""
        return "" if self._judge is None else self._judge.version

    def judge(self, who: Who, request: judge_pb2.JudgeRequest) -> Judgement:
        """Judge an episode of the caller's tenant; where the judge is not proven for task and scene, it abstains.

        Raises:
            InvalidMessageError: the frames do not make sense.
            TooLargeError: too many frames, pixels or characters.
            CorruptError: a picture is none.
        """
        authorise(who, "judge")
        check_request(request)
        if self._judge is None:
            return Judgement.abstain(NO_JUDGE)
        if not self._waiting.acquire(blocking=False):
            return Judgement.abstain(f"the judge is busy with {_WAITING} other episodes", judge=self._judge.version)
        try:
            found = self._judge.judge(request)
        finally:
            self._waiting.release()
        return self._row(who.tenant, request.instruction, request.scene).held_to(found)

    def precision(self, who: Who, *, task: str = "") -> list[Precision]:
        """Return how far each judge is proven, for each task and scene."""
        authorise(who, "look")
        return table_of(self._judgements.counts(who.tenant, task=task), self._floor)

    def evidence(self, who: Who, row: Precision) -> list[JudgedRow]:
        """Return the episodes behind a row of the table, in order of arrival."""
        authorise(who, "look")
        return self._judgements.evidence(who.tenant, judge=row.judge, task=row.task, scene=row.scene)

    def doubts(self, who: Who, *, before: int = 0, limit: int) -> list[Doubt]:
        """Return episodes that wait for a person's label, newest first.

        Args:
            who: asks.
            before: sequence of the last one of the page before; 0 begins with the newest.
            limit: at most so many.
        """
        authorise(who, "look")
        rows = self._judgements.doubtful(who.tenant, before=before, limit=limit)
        return [Doubt(self._episodes.find(who, row.episode_id), row.judgements) for row in rows]

    def held(self, who: Who, doubt: Doubt) -> list[Judgement]:
        """Return what judges found of an episode, the words of the one that runs here held to what is proven."""
        authorise(who, "look")
        row = self._row(who.tenant, doubt.row.instruction, str(doubt.row.metadata.get(SCENE_KEY, "")))
        return [row.held_to(found) if found.judge == self.version else found for found in doubt.judgements]

    def count(self, tenant: str) -> int:
        """Return how many judgements a tenant's episodes have: something that changes with every one."""
        return self._judgements.count(tenant)

    def of(self, who: Who, episode_id: str) -> list[Judgement]:
        """Return what judges found of an episode, newest first."""
        authorise(who, "look")
        return self._judgements.of(who.tenant, episode_id)

    def _row(self, tenant: str, task: str, scene: str) -> Precision:
        """The table's row, not older than a moment: an early end asks every few steps."""
        place, now = (tenant, task, scene), self._clock()
        with self._lock:
            read_at, row = self._rows.get(place, (float("-inf"), None))
        if row is None or now - read_at > _TABLE_S or row.judge != self.version:
            counts = self._judgements.counts(tenant, judge=self.version, task=task, scene=scene)
            row = precision_of(self.version, task, scene, counts, self._floor)
            with self._lock:
                if len(self._rows) > 1000:
                    self._rows.clear()
                self._rows[place] = now, row
        return row
