"""Is this judge good enough to train on? Its verdicts against operator labels, per task and judge version.

thresholds.py sets a learned judge's thresholds; this file measures any judge from the outside and shuts the gate.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gymnast_core.errors import ConfigError, ContractError, CorruptError, NotTrustedError
from gymnast_core.evaluation.statistics import Interval, wilson_interval
from gymnast_core.judge import Verdict
from gymnast_core.types import Outcome

ALL_TASKS = "*"
"""Row over every task together."""


@dataclass(frozen=True)
class TaskTrust:
    """One judge version on one task. Intervals are Wilson.

    Attributes:
        task: instruction, or "*" for all.
        labelled: rollouts with an operator's label.
        abstained: how many of them the judge left open.
        precision: P(operator says success | judge says success); None where it never did.
        recall: P(judge says success | operator says success); an abstention counts as missed. None without any.
    """

    task: str
    labelled: int
    abstained: int
    precision: Interval | None
    recall: Interval | None


@dataclass(frozen=True)
class JudgeCalibration:
    """What `gymnast judge calibrate` prints and RL asks.

    Attributes:
        judge: version.
        confidence: of the intervals.
        tasks: one row per task, "*" first.
    """

    judge: str
    confidence: float
    tasks: tuple[TaskTrust, ...]

    def of(self, task: str) -> TaskTrust | None:
        """The row of a task."""
        return next((row for row in self.tasks if row.task == task), None)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def write(self, path: Path) -> None:
        """Save beside the judge's checkpoint."""
        path.write_text(json.dumps(self.to_json(), indent=1), encoding="utf-8")

    @staticmethod
    def read(path: Path) -> JudgeCalibration:
        """Read what write wrote.

        Raises:
            CorruptError: it is something else.
        """
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            rows = tuple(_row_of(row) for row in fields["tasks"])
            return JudgeCalibration(str(fields["judge"]), float(fields["confidence"]), rows)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptError(f"{path} is no judge calibration: {error!r}; run `gymnast judge calibrate`") from error


def _row_of(fields: Mapping[str, Any]) -> TaskTrust:
    ends = {name: None if fields[name] is None else Interval(**fields[name]) for name in ("precision", "recall")}
    return TaskTrust(str(fields["task"]), int(fields["labelled"]), int(fields["abstained"]), **ends)


def compare(
    version: str,
    verdicts: Sequence[Verdict],
    labels: Sequence[Outcome],
    tasks: Sequence[str],
    *,
    confidence: float = 0.95,
) -> JudgeCalibration:
    """Compare a judge's verdicts with an operator's labels.

    Args:
        version: of the judge.
        verdicts: of N rollouts, real or imagined; whatever the judge will be used on.
        labels: of the same N; rows that are not SUCCESS or FAILURE are left out.
        tasks: their instructions.
        confidence: of the intervals.

    Raises:
        ContractError: the numbers of verdicts, labels and tasks differ.
        ConfigError: no row is labelled.
    """
    if not len(verdicts) == len(labels) == len(tasks):
        counts = f"{len(verdicts)} verdicts, {len(labels)} labels and {len(tasks)} tasks"
        raise ContractError(f"{counts}; pass one of each per rollout")
    rows = [
        (task, verdict.outcome, label)
        for verdict, label, task in zip(verdicts, labels, tasks, strict=True)
        if label in (Outcome.SUCCESS, Outcome.FAILURE)
    ]
    if not rows:
        raise ConfigError(f"none of {len(labels)} rollouts has an operator's label; label some first")
    names = [ALL_TASKS, *sorted({task for task, _, _ in rows})]
    table = tuple(
        _measure(name, [(said, label) for task, said, label in rows if name in (ALL_TASKS, task)], confidence)
        for name in names
    )
    return JudgeCalibration(version, confidence, table)


def _measure(task: str, pairs: Sequence[tuple[Outcome, Outcome]], confidence: float) -> TaskTrust:
    said = sum(verdict is Outcome.SUCCESS for verdict, _ in pairs)
    real = sum(label is Outcome.SUCCESS for _, label in pairs)
    both = sum(verdict is label is Outcome.SUCCESS for verdict, label in pairs)
    abstained = sum(verdict is Outcome.ABSTAIN for verdict, _ in pairs)
    precision = wilson_interval(both, said, confidence=confidence) if said else None
    recall = wilson_interval(both, real, confidence=confidence) if real else None
    return TaskTrust(task, len(pairs), abstained, precision, recall)


def require_trusted(report: JudgeCalibration, version: str, tasks: Sequence[str], *, floor: float) -> None:
    """Let RL pass only with a judge whose precision is proven on the very tasks it will reward.

    Args:
        report: calibration.
        version: of the judge RL is about to use.
        tasks: instructions RL is about to train.
        floor: the lower end of the precision interval must reach it.

    Raises:
        NotTrustedError: another version, an uncalibrated task, or a lower bound under the floor.
    """
    if not 0 < floor < 1:
        raise ConfigError(f"precision floor must lie in (0, 1), got {floor}")
    if report.judge != version:
        raise NotTrustedError(f"calibration is of judge {report.judge}, not {version}; calibrate this version")
    for task in dict.fromkeys(tasks):
        row = report.of(task)
        if row is None or row.precision is None:
            raise NotTrustedError(f"judge {version} has no proven success on {task!r}; label more rollouts")
        if row.precision.low < floor:
            raise NotTrustedError(
                f"judge {version} on {task!r}: precision {row.precision.mean:.2f}, lower bound "
                f"{row.precision.low:.2f} of {row.labelled} labels is under the floor {floor}; label more"
            )
