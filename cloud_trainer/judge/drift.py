"""Has the judge, or what it looks at, moved since it was calibrated? An alarm that looks after every batch.

Three signs: the scores' distribution (two-sample Kolmogorov-Smirnov), the abstention rate (exact binomial), and fresh
operator labels that contradict it (exact binomial against the calibrated precision). Looking again and again would
raise false alarms, so look n spends alpha / (n (n + 1)) and all looks together at most alpha.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gymnast_core.errors import ConfigError
from gymnast_core.judge import Verdict
from gymnast_core.records.manifest import Manifest
from gymnast_core.types import Episode, Outcome


@dataclass(frozen=True)
class Reference:
    """The judge as it was when calibrated.

    Attributes:
        scores: of the calibration rollouts, without NaN.
        abstained: share of them it left open.
        precision: P(operator says success | judge says success).
    """

    scores: tuple[float, ...]
    abstained: float
    precision: float

    def __post_init__(self) -> None:
        """Refuse a reference nothing can be compared with."""
        if len(self.scores) < 10:
            raise ConfigError(f"{len(self.scores)} scores are too few to notice drift; calibrate on at least 10")
        if not 0 <= self.abstained < 1 or not 0 < self.precision <= 1:
            raise ConfigError(f"abstained in [0, 1) and precision in (0, 1], got {self.abstained}, {self.precision}")


@dataclass(frozen=True)
class Drift:
    """One look.

    Attributes:
        alarm: whether any sign passed this look's threshold.
        threshold: p-value that a sign had to be under.
        p_values: sign -> p-value; signs without data are left out.
        rollouts: seen since the reference.
    """

    alarm: bool
    threshold: float
    p_values: dict[str, float]
    rollouts: int

    @property
    def signs(self) -> tuple[str, ...]:
        """What raised the alarm."""
        return tuple(name for name, p in self.p_values.items() if p < self.threshold)


class DriftMonitor:
    """Collects verdicts (and labels, where an operator gave some) and looks when asked.

    Attributes:
        reference: what normal is.
        alpha: chance of any false alarm over all looks and signs.
        window: latest scores compared.
    """

    def __init__(self, reference: Reference, *, alpha: float = 0.01, window: int = 500) -> None:
        if not 0 < alpha < 1 or window < 10:
            raise ConfigError(f"alpha must lie in (0, 1) and window be at least 10, got {alpha}, {window}")
        self.reference, self.alpha, self.window = reference, alpha, window
        self._scores: list[float] = []
        self._abstained: list[bool] = []
        self._right: list[bool] = []
        self._looks = 0

    def add(self, verdicts: Sequence[Verdict], labels: Sequence[Outcome] | None = None) -> None:
        """Take in a batch; labels that are not SUCCESS or FAILURE are ignored."""
        for verdict, label in zip(verdicts, labels or [Outcome.UNLABELLED] * len(verdicts), strict=True):
            self._abstained.append(verdict.outcome is Outcome.ABSTAIN)
            if not math.isnan(verdict.score):
                self._scores.append(verdict.score)
            if verdict.outcome is Outcome.SUCCESS and label in (Outcome.SUCCESS, Outcome.FAILURE):
                self._right.append(label is Outcome.SUCCESS)

    def look(self) -> Drift:
        """Compare what came in with the reference."""
        self._looks += 1
        recent, abstained = self._scores[-self.window :], self._abstained[-self.window :]
        p_values = {}
        if len(recent) >= 10:
            p_values["scores"] = ks_p_value(self.reference.scores, recent)
        if abstained:
            p_values["abstentions"] = binomial_at_least(sum(abstained), len(abstained), self.reference.abstained)
        right = self._right[-self.window :]
        if right:
            wrong = len(right) - sum(right)
            p_values["precision"] = binomial_at_least(wrong, len(right), 1 - self.reference.precision)
        threshold = self.alpha / (self._looks * (self._looks + 1)) / 3
        return Drift(any(p < threshold for p in p_values.values()), threshold, p_values, len(self._abstained))


def kept_reference(scores: Sequence[float], calibration: Mapping[str, Any]) -> dict[str, Any]:
    """What a judge's manifest keeps, so that its drift can be noticed later."""
    precision = calibration["precision"]
    return {
        "scores": [round(float(score), 4) for score in scores],
        "abstained": calibration["abstained"],
        "precision": None if precision is None else precision[0],
    }


def drift_of(manifest: Manifest, verdicts: Sequence[Verdict], episodes: Sequence[Episode]) -> Drift | None:
    """Compare a judge's verdicts of today with its own calibration; None where its checkpoint keeps none."""
    kept = manifest.lineage.get("reference")
    if not isinstance(kept, Mapping) or not kept["precision"] or len(kept["scores"]) < 10:
        return None
    monitor = DriftMonitor(Reference(tuple(kept["scores"]), float(kept["abstained"]), float(kept["precision"])))
    monitor.add(verdicts, [episode.outcome for episode in episodes])
    return monitor.look()


def ks_p_value(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sample Kolmogorov-Smirnov p-value.

    Source:
        Asymptotic series 2 sum (-1)^(j-1) exp(-2 j^2 t^2) with Stephens' small-sample t, as in Numerical Recipes 14.3.
    """
    a, b = np.sort(np.asarray(first, float)), np.sort(np.asarray(second, float))
    points = np.concatenate([a, b])
    gap = np.abs(np.searchsorted(a, points, "right") / len(a) - np.searchsorted(b, points, "right") / len(b)).max()
    root = math.sqrt(len(a) * len(b) / (len(a) + len(b)))
    t = (root + 0.12 + 0.11 / root) * float(gap)
    if t < 0.2:
        return 1.0
    total = 2 * sum((-1) ** (j - 1) * math.exp(-2 * j * j * t * t) for j in range(1, 101))
    return float(min(max(total, 0.0), 1.0))


def binomial_at_least(count: int, n: int, rate: float) -> float:
    """P(X >= count) for X ~ Binomial(n, rate), exactly.

    A rate of 0 would make one event impossible; it is read as "less than one in the reference" (rate 1e-3).
    """
    p = min(max(rate, 1e-3), 1.0)
    if count <= 0 or p >= 1.0:
        return 1.0
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p)
        for k in range(count, n + 1)
    ]
    return float(min(1.0, sum(math.exp(value) for value in logs)))
