"""Replay: dream recorded evaluations again, for the calibration ledger."""

from __future__ import annotations

from typing import ClassVar

from gymnast_core.jobs.spec import JobRecord, JobResult, JobSpec, Urgency
from gymnast_core.settings import Texts


class ReplaySpec(JobSpec):
    """Dream recorded evaluations again with the policy that acted, and compare the ends."""

    kind: ClassVar[str] = "replay"
    summary: ClassVar[str] = "dream recorded evaluations again"
    urgency: ClassVar[Urgency] = "background"

    episodes: Texts | None = None
    """Ids; none is every labelled episode that may be learned from."""

    @property
    def named_episodes(self) -> tuple[str, ...]:
        """See JobSpec."""
        return self.episodes or ()


class LedgerEntry(JobRecord):
    """One real evaluation of one policy on one task, and its dream: a row of the calibration ledger."""

    task: str
    """What the arm was asked to do."""
    policy: str
    """Checkpoint id."""
    world_model: str
    """Checkpoint id."""
    judge: str
    """Version."""
    both: int
    """Episodes that succeeded in reality and in the dream."""
    real_only: int
    """Those that succeeded in reality alone."""
    imagined_only: int
    """Those that succeeded in the dream alone."""
    neither: int
    """Those that failed in both."""
    abstained: int = 0
    """Those whose dream the judge would not decide; counted nowhere above."""
    episodes: tuple[str, ...] = ()
    """Ids."""


class ReplayResult(JobResult):
    """What a replay job leaves behind."""

    ledger: tuple[LedgerEntry, ...] = ()
    """Rows for the calibration ledger."""
