"""The calibration ledger: every real evaluation beside its replay in imagination."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cloud_trainer.records.chain import LEDGER, Chain
from cloud_trainer.records.measured import Imagine, rows_of
from cloud_trainer.store.database import Database
from cloud_trainer.store.tenants import DEFAULT_TENANT
from gymnast_core.errors import ContractError
from gymnast_core.evaluation.statistics import Interval, PairCounts, paired_difference, pearson, wilson_interval
from gymnast_core.jobs.replay import LedgerRow
from gymnast_core.types import Episode


@dataclass(frozen=True)
class LedgerCalibration:
    """How imagined success compares with real success over some rows.

    Attributes:
        rows: evaluations.
        n: decided episodes.
        abstained: undecided ones.
        real: real success rate with its interval.
        imagined: imagined success rate with its interval.
        bias: imagined minus real, paired; above zero is optimism.
        agreement: share of episodes with the same outcome.
        false_success: P(judge says success | real failure); None without real failures.
        correlation: Pearson's r of real and imagined rates over the rows; None below three rows.
    """

    rows: int
    n: int
    abstained: int
    real: Interval
    imagined: Interval
    bias: Interval
    agreement: float
    false_success: float | None
    correlation: float | None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


class CalibrationLedger:
    """Rows in a chain of hashes: an evaluation that embarrasses the world model cannot be dropped quietly.

    Args:
        database: of the trainer.
        tenant: the evaluations' tenant.

    Raises:
        CorruptError: a row was changed, removed or reordered; the message names it.
    """

    def __init__(self, database: Database, tenant: str = DEFAULT_TENANT) -> None:
        self._chain = Chain(database, tenant, LEDGER)

    @property
    def rows(self) -> tuple[LedgerRow, ...]:
        """Every row, oldest first."""
        entries = self._chain.entries
        return tuple(LedgerRow.from_json(entry.data) for entry in entries)

    def add(self, row: LedgerRow) -> None:
        """Write one row.

        Raises:
            ContractError: no episode of it was decided, so it says nothing.
        """
        if row.n < 1:
            raise ContractError(f"no dream of {row.task} with {row.policy} was decided; the row would say nothing")
        self._chain.append("evaluation", asdict(row))

    def record(
        self, episodes: Sequence[Episode], imagine: Imagine, *, policy: str, world_model: str, judge: str
    ) -> list[LedgerRow]:
        """Write what rows_of() finds; tasks of which nothing was decided are left out."""
        decided = [row for row in rows_of(episodes, imagine, policy=policy, world_model=world_model, judge=judge)
                   if row.n]  # fmt: skip
        for row in decided:
            self.add(row)
        return decided

    def calibration(self, *, task: str | None = None, world_model: str | None = None) -> LedgerCalibration | None:
        """Return the calibration over all rows, of one task, of one world model; None without rows."""
        chosen = [
            row
            for row in self.rows
            if (task is None or row.task == task) and (world_model is None or row.world_model == world_model)
        ]
        return calibration_of(chosen)

    def by_task(self) -> dict[str, LedgerCalibration]:
        """Return the calibration of every task."""
        return self._by(row.task for row in self.rows)

    def trend(self) -> list[tuple[str, LedgerCalibration]]:
        """Return the calibration of every world-model version, in order of first use."""
        versions = list(dict.fromkeys(row.world_model for row in self.rows))
        return [(version, found) for version in versions if (found := self.calibration(world_model=version))]

    def to_json(self) -> dict[str, Any]:
        """JSON values: the calibration overall, by task, and over world-model versions."""
        overall = self.calibration()
        return {
            "overall": None if overall is None else overall.to_json(),
            "tasks": {task: found.to_json() for task, found in self.by_task().items()},
            "trend": [{"world_model": version, **found.to_json()} for version, found in self.trend()],
        }

    def _by(self, tasks: Iterable[str]) -> dict[str, LedgerCalibration]:
        return {task: found for task in dict.fromkeys(tasks) if (found := self.calibration(task=task))}


def calibration_of(rows: Sequence[LedgerRow]) -> LedgerCalibration | None:
    """Return the pooled calibration of some rows; None without rows."""
    if not rows:
        return None
    both, real_only, imagined_only, neither = (
        sum(getattr(row, name) for row in rows) for name in ("both", "real_only", "imagined_only", "neither")
    )
    n = both + real_only + imagined_only + neither
    failures = imagined_only + neither
    correlation = pearson([row.real for row in rows], [row.imagined for row in rows]) if len(rows) > 2 else None
    return LedgerCalibration(
        rows=len(rows),
        n=n,
        abstained=sum(row.abstained for row in rows),
        real=wilson_interval(both + real_only, n),
        imagined=wilson_interval(both + imagined_only, n),
        bias=paired_difference(PairCounts(wins=imagined_only, losses=real_only, both=both, neither=neither)),
        agreement=(both + neither) / n,
        false_success=imagined_only / failures if failures else None,
        correlation=None if correlation is None or correlation != correlation else correlation,
    )
