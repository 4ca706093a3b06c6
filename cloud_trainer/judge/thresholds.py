"""How much a judge's word is worth: thresholds chosen on held-out outcomes, and a report with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.statistics import wilson_interval
from gymnast_core.types import BoolArray, FloatArray, Outcome


@dataclass(frozen=True)
class Thresholds:
    """Where a score becomes an outcome.

    Attributes:
        low: at or below it: failure.
        high: at or above it: success. Between them the judge abstains.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        """Refuse anything but 0 <= low <= high <= 1."""
        if not 0.0 <= self.low <= self.high <= 1.0:
            raise ConfigError(f"thresholds need 0 <= low <= high <= 1, got low {self.low}, high {self.high}")

    def outcome(self, score: float) -> Outcome:
        """Name the outcome of one score; NaN abstains."""
        if score >= self.high:
            return Outcome.SUCCESS
        if score <= self.low:
            return Outcome.FAILURE
        return Outcome.ABSTAIN


def choose_thresholds(score_N: FloatArray, success_N: BoolArray, *, abstain: float = 0.08) -> Thresholds:
    """Pick the centre that loses least, then open the band around it until a share of examples falls inside.

    The loss of a centre is the balanced error plus the absolute optimism (called minus real success rate):
    a judge that is right on average but generous would be farmed.

    Args:
        score_N: (N,) scores of held-out examples.
        success_N: (N,) their real outcomes.
        abstain: share of examples to leave undecided; 0 gives low == high.

    Raises:
        ConfigError: the examples do not hold both outcomes.
    """
    if success_N.all() or not success_N.any():
        raise ConfigError(f"all {len(success_N)} held-out examples have the same outcome; thresholds need both")
    centres = np.linspace(0.05, 0.95, 91)
    called = score_N[None, :] >= centres[:, None]
    missed = (~called[:, success_N]).mean(1)
    false = called[:, ~success_N].mean(1)
    optimism = np.abs(called.mean(1) - success_N.mean())
    centre = float(centres[np.argmin((missed + false) / 2 + optimism)])
    half = float(np.quantile(np.abs(score_N - centre), abstain)) if abstain > 0 else 0.0
    return Thresholds(max(0.0, centre - half), min(1.0, centre + half))


@dataclass(frozen=True)
class Calibration:
    """What a judge was worth on held-out examples. Intervals are Wilson, 95 %.

    Attributes:
        examples: how many.
        abstained: share it did not decide.
        accuracy: of the decided ones.
        precision: P(real success | called success) and its interval; None where it called none.
        recall: P(called success | real success and decided) and its interval.
        false_success: P(called success | real failure and decided) and its interval.
        optimism: called minus real success rate among the decided.
        brier: mean squared error of the score over all examples.
    """

    examples: int
    abstained: float
    accuracy: float
    precision: tuple[float, float, float] | None
    recall: tuple[float, float, float] | None
    false_success: tuple[float, float, float] | None
    optimism: float
    brier: float


def calibrate(score_N: FloatArray, success_N: BoolArray, thresholds: Thresholds) -> Calibration:
    """Measure a judge at its thresholds.

    Raises:
        ConfigError: it abstained on everything.
    """
    decided = (score_N >= thresholds.high) | (score_N <= thresholds.low)
    if not decided.any():
        raise ConfigError(f"the judge abstains on all {len(score_N)} examples; narrow its band {thresholds}")
    called, real = score_N[decided] >= thresholds.high, success_N[decided]
    return Calibration(
        examples=len(score_N),
        abstained=float((~decided).mean()),
        accuracy=float((called == real).mean()),
        precision=_rate(real[called]),
        recall=_rate(called[real]),
        false_success=_rate(called[~real]),
        optimism=float(called.mean() - real.mean()),
        brier=float(np.mean((score_N - success_N) ** 2)),
    )


def calibration_report(
    score_N: FloatArray, success_N: BoolArray, instructions: Sequence[str], thresholds: Thresholds
) -> dict[str, Any]:
    """Return JSON values: the calibration overall and per instruction, for the manifest's lineage."""
    names = np.array(instructions)
    report: dict[str, Any] = {"overall": asdict(calibrate(score_N, success_N, thresholds)), "tasks": {}}
    for name in np.unique(names):
        rows = names == name
        decided = (score_N[rows] >= thresholds.high) | (score_N[rows] <= thresholds.low)
        if decided.any():
            report["tasks"][str(name)] = asdict(calibrate(score_N[rows], success_N[rows], thresholds))
    return report


def _rate(hits: BoolArray) -> tuple[float, float, float] | None:
    if len(hits) == 0:
        return None
    interval = wilson_interval(int(hits.sum()), len(hits))
    return float(hits.mean()), interval.low, interval.high
