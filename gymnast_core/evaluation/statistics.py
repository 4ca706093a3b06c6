"""How sure a success rate is: intervals, a paired difference, an exact test. Numpy and the standard library only.

A pair is one start state tried by two policies; outcomes are booleans in the same order. What may be peeked at after
every trial lives in gymnast_core.evaluation.sequential.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from gymnast_core.errors import ContractError
from gymnast_core.evaluation.cards import IntervalFigures, PairCountFigures

Outcomes = Sequence[bool] | npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval around it, all in the estimate's own unit."""

    mean: float
    low: float
    high: float

    def to_json(self) -> IntervalFigures:
        """Return {mean, low, high}."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class PairCounts:
    """What N pairs came to, before against after.

    Attributes:
        wins: after succeeded where before failed.
        losses: before succeeded where after failed.
        both: both succeeded.
        neither: both failed.
    """

    wins: int
    losses: int
    both: int
    neither: int

    def __post_init__(self) -> None:
        """Refuse negative counts."""
        if min(self.wins, self.losses, self.both, self.neither) < 0:
            raise ContractError(f"pair counts must not be negative, got {self}")

    def to_json(self) -> PairCountFigures:
        """Return {wins, losses, both, neither}."""
        return {"wins": self.wins, "losses": self.losses, "both": self.both, "neither": self.neither}

    @property
    def n(self) -> int:
        """Number of pairs."""
        return self.wins + self.losses + self.both + self.neither

    @property
    def ties(self) -> int:
        """Pairs in which both ended alike."""
        return self.both + self.neither

    @staticmethod
    def of(before: Outcomes, after: Outcomes) -> PairCounts:
        """Count the pairs of two aligned outcome sequences.

        Raises:
            ContractError: different lengths, or no pair at all.
        """
        before_N, after_N = np.asarray(before, bool), np.asarray(after, bool)
        if before_N.shape != after_N.shape or before_N.ndim != 1:
            raise ContractError(
                f"before {before_N.shape} and after {after_N.shape} must be outcomes of the same start states"
            )
        if not before_N.size:
            raise ContractError("no pairs; evaluate at least one start state")
        return PairCounts(
            wins=int((~before_N & after_N).sum()),
            losses=int((before_N & ~after_N).sum()),
            both=int((before_N & after_N).sum()),
            neither=int((~before_N & ~after_N).sum()),
        )


def wilson_interval(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Return the score interval of a success rate.

    Args:
        successes: 0..n.
        n: trials, at least 1.
        confidence: coverage, e.g. 0.95.

    Raises:
        ContractError: the counts are impossible.

    Source:
        E. B. Wilson 1927, as method 3 in R. G. Newcombe, Statistics in Medicine 17:857 (1998).
    """
    if n < 1 or not 0 <= successes <= n:
        raise ContractError(f"{successes} successes of {n} trials is impossible")
    z = _z(confidence)
    rate = successes / n
    centre = (successes + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(n * rate * (1 - rate) + z * z / 4)
    return Interval(rate, 0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half)


def paired_difference(counts: PairCounts, *, confidence: float = 0.95) -> Interval:
    """Return after minus before with its interval, both rates taken on the same start states.

    Args:
        counts: of the pairs, see PairCounts.of.
        confidence: coverage, e.g. 0.95.

    Raises:
        ContractError: no pairs.

    Source:
        Method 10 (hybrid score with continuity-corrected phi) of R. G. Newcombe, "Improved confidence intervals for
        the difference between binomial proportions based on paired data", Statistics in Medicine 17:2635 (1998).
    """
    if counts.n < 1:
        raise ContractError("no pairs; evaluate at least one start state")
    n = counts.n
    after = wilson_interval(counts.both + counts.wins, n, confidence=confidence)
    before = wilson_interval(counts.both + counts.losses, n, confidence=confidence)
    return _hybrid_score(before, after, _newcombe_phi(counts))


def independent_difference(
    before_successes: int, before_n: int, after_successes: int, after_n: int, *, confidence: float = 0.95
) -> Interval:
    """Return after minus before for two samples that share no start states, or whose pairs were not kept.

    For positively correlated pairs the interval is too wide, never too narrow.

    Args:
        before_successes: 0..before_n.
        before_n: trials before.
        after_successes: 0..after_n.
        after_n: trials after.
        confidence: coverage, e.g. 0.95.

    Raises:
        ContractError: the counts are impossible.

    Source:
        Method 10 of R. G. Newcombe, Statistics in Medicine 17:873 (1998).
    """
    before = wilson_interval(before_successes, before_n, confidence=confidence)
    after = wilson_interval(after_successes, after_n, confidence=confidence)
    return _hybrid_score(before, after, 0.0)


def bootstrap_difference(
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    *,
    rng: np.random.Generator,
    resamples: int = 10_000,
    confidence: float = 0.95,
) -> Interval:
    """Return after minus before with a percentile bootstrap over pairs; for scores that are not yes or no.

    Args:
        before: (N,) numbers.
        after: (N,) numbers of the same pairs.
        rng: draws the resamples.
        resamples: how many.
        confidence: coverage, e.g. 0.95.

    Raises:
        ContractError: different lengths, or no pair at all.
    """
    difference_N = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    if difference_N.ndim != 1 or not difference_N.size:
        raise ContractError(f"before and after must be two (N,) arrays, N >= 1, got {difference_N.shape}")
    means_R = np.empty(resamples)
    for index in range(resamples):
        means_R[index] = difference_N[rng.integers(0, difference_N.size, difference_N.size)].mean()
    low, high = np.quantile(means_R, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(difference_N.mean()), float(low), float(high))


def mcnemar_exact(counts: PairCounts) -> float:
    """Return the two-sided exact p-value that the two rates are equal.

    Source:
        Q. McNemar 1947 with the binomial distribution of the discordant pairs: p = 2 P(X <= min(wins, losses)),
        X ~ Binomial(wins + losses, 1/2), at most 1.
    """
    discordant = counts.wins + counts.losses
    return min(1.0, 2 * binomial_tail_half(discordant, min(counts.wins, counts.losses)))


def binomial_tail_half(n: int, at_most: int) -> float:
    """Return P(X <= at_most) for X ~ Binomial(n, 1/2), exact in integers."""
    return sum(math.comb(n, k) for k in range(at_most + 1)) / (1 << n)


def pearson(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Return the correlation of two (N,) sequences; NaN for fewer than 2 points or a constant one."""
    x_N, y_N = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x_N.size < 2 or x_N.std() == 0 or y_N.std() == 0:
        return math.nan
    return float(np.corrcoef(x_N, y_N)[0, 1])


def _hybrid_score(before: Interval, after: Interval, phi: float) -> Interval:
    """Combine two score intervals into one of their difference; phi is the correlation of the pairs."""
    mean = after.mean - before.mean
    down_after, up_after = after.mean - after.low, after.high - after.mean
    down_before, up_before = before.mean - before.low, before.high - before.mean
    low = mean - math.sqrt(max(down_after**2 - 2 * phi * down_after * up_before + up_before**2, 0.0))
    high = mean + math.sqrt(max(up_after**2 - 2 * phi * up_after * down_before + down_before**2, 0.0))
    return Interval(mean, max(low, -1.0), min(high, 1.0))


def _newcombe_phi(counts: PairCounts) -> float:
    """Correlation of the pairs; the continuity correction applies only when it is positive."""
    rows = (counts.both + counts.wins) * (counts.losses + counts.neither)
    columns = (counts.both + counts.losses) * (counts.wins + counts.neither)
    if rows == 0 or columns == 0:
        return 0.0
    numerator = float(counts.both * counts.neither - counts.wins * counts.losses)
    if numerator > 0:
        numerator = max(numerator - counts.n / 2, 0.0)
    return numerator / math.sqrt(rows * columns)


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ContractError(f"confidence must lie between 0 and 1, got {confidence}")
    return NormalDist().inv_cdf((1 + confidence) / 2)
