"""A comparison that may be peeked at after every pair: betting e-processes on the difference of two policies.

Each pair gives d in {+1, 0, -1}: after won, tie, after lost. Against the hypothesis E[d] <= m a gambler stakes a
fraction of the capital on d > m; under the hypothesis the capital is a non-negative supermartingale, so the chance that
it ever reaches 1/alpha is at most alpha, however often one looks (Ville 1939). Capital is spread over fixed
stakes, hence depends on the counts of wins, ties and losses alone, not on their order.

Source:
    I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 86:1 (2024),
    sections 4 and 5 (capital process, hedging, confidence sequences by inversion).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from gymnast_core.errors import ConfigError, ContractError
from gymnast_core.evaluation.cards import PairFigures
from gymnast_core.evaluation.statistics import Interval, PairCounts, wilson_interval

STAKES = np.linspace(0.1, 0.9, 9)
"""Fractions of the largest stake that cannot bankrupt the gambler."""

STAKE_SHARES = STAKES / STAKES.sum()
"""Starting capital on each stake. Large stakes decide large gains early; the small ones serve long, close trials."""


ALL_TASKS = "all tasks together"


class Decision(str, enum.Enum):
    """What a trial shows so far.

    ROLL_BACK (shown to be worse), FUTILE (a worthwhile gain is excluded) and EXHAUSTED (out of budget) all keep the
    running policy; they differ in what is known. Futility usually comes first: it needs less evidence than harm.
    """

    CONTINUE = "continue"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"
    FUTILE = "futile"
    EXHAUSTED = "exhausted"

    @property
    def final(self) -> bool:
        """Whether no further pair is to be run."""
        return self is not Decision.CONTINUE


MOST_ALPHA_PROMOTE = 0.1
"""No trial that somebody begins promotes by chance more often."""


@dataclass(frozen=True)
class SequentialRule:
    """The promotion rule of a trial; declared before its first pair.

    Attributes:
        alpha_promote: largest chance that a policy that is not better is ever promoted.
        alpha_roll_back: largest chance that a policy that is not worse is ever rolled back as worse.
        alpha_futile: largest chance that a policy better by worthwhile is given up as futile.
        worthwhile: the smallest gain in success rate worth promoting for; futility means it is excluded.
        max_pairs: budget; reaching it keeps the running policy.
        min_pairs: no decision before this many pairs.
    """

    alpha_promote: float = 0.025
    alpha_roll_back: float = 0.025
    alpha_futile: float = 0.10
    worthwhile: float = 0.15
    max_pairs: int = 100
    min_pairs: int = 5

    def __post_init__(self) -> None:
        """Refuse error rates, gains and budgets that make no test."""
        for name in ("alpha_promote", "alpha_roll_back", "alpha_futile"):
            if not 0 < getattr(self, name) <= 0.5:
                raise ConfigError(f"{name} must lie in (0, 0.5], got {getattr(self, name)}")
        if not 0 < self.worthwhile < 1:
            raise ConfigError(f"worthwhile must lie in (0, 1), got {self.worthwhile}")
        if not 1 <= self.min_pairs <= self.max_pairs:
            raise ConfigError(f"need 1 <= min_pairs <= max_pairs, got {self.min_pairs} and {self.max_pairs}")

    def require_strict(self) -> None:
        """Return if somebody may declare this rule for a trial.

        Raises:
            ConfigError: it would promote by chance; the message names the setting and its bound.
        """
        if self.alpha_promote > MOST_ALPHA_PROMOTE:
            raise ConfigError(
                f"alpha_promote {self.alpha_promote} lets a policy win by chance that often; at most "
                f"{MOST_ALPHA_PROMOTE} may be declared (usual is {SequentialRule.alpha_promote})"
            )

    def looser(self) -> list[str]:
        """Return in what this rule promotes more easily than the usual one: "alpha_promote 0.1, usual is 0.025"."""
        usual = SequentialRule()
        loose = {
            "alpha_promote": self.alpha_promote > usual.alpha_promote, "min_pairs": self.min_pairs < usual.min_pairs
        }  # fmt: skip
        return [f"{name} {getattr(self, name):g}, usual is {getattr(usual, name):g}" for name in loose if loose[name]]

    def to_json(self) -> dict[str, float]:
        """Return the rule as JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, float]) -> SequentialRule:
        """Return the rule that to_json() wrote."""
        rates = {name: value for name, value in values.items() if not name.endswith("_pairs")}
        counts = {name: int(values[name]) for name in ("max_pairs", "min_pairs") if name in values}
        return SequentialRule(**rates, **counts)  # type: ignore[arg-type]  # names as to_json() wrote them

    def decide(self, counts: PairCounts) -> Decision:
        """Return the decision after these pairs; valid at every look.

        Promotion is looked at first, so a pair can never end a trial two ways.
        """
        if counts.n < self.min_pairs:
            return Decision.CONTINUE
        if log_capital(counts.wins, counts.ties, counts.losses) >= -math.log(self.alpha_promote):
            return Decision.PROMOTE
        if log_capital(counts.losses, counts.ties, counts.wins) >= -math.log(self.alpha_roll_back):
            return Decision.ROLL_BACK
        if log_capital(counts.losses, counts.ties, counts.wins, -self.worthwhile) >= -math.log(self.alpha_futile):
            return Decision.FUTILE
        return Decision.EXHAUSTED if counts.n >= self.max_pairs else Decision.CONTINUE


@dataclass(frozen=True)
class HarmRule:
    """When a canary on the other tasks shows that a policy does harm there; declared before its first pair.

    Success of every task, and of all together, is bet against "not worse than before"; alpha is shared among these
    bets (Bonferroni): half of it is for all together, where a loss that is spread shows first. ROLL_BACK is harm shown;
    EXHAUSTED is none shown by the end, which excludes only so much: the intervals show how much.

    Attributes:
        alpha: largest chance that a policy that is worse in no task is ever turned away.
        pairs: of each task, at most; tasks take turns.
        tasks: how many there are.
    """

    alpha: float = 0.05
    pairs: int = 36
    tasks: int = 1

    def __post_init__(self) -> None:
        """Refuse error rates and budgets that make no test."""
        if not 0 < self.alpha <= 0.5:
            raise ConfigError(f"alpha must lie in (0, 0.5], got {self.alpha}")
        if self.pairs < 1 or self.tasks < 1:
            raise ConfigError(f"need at least one pair and one task, got {self.pairs} and {self.tasks}")

    @property
    def max_pairs(self) -> int:
        """Of all tasks together."""
        return self.pairs * self.tasks

    @property
    def log_bound(self) -> float:
        """Log capital at which the bet on one task has shown harm."""
        return math.log((2 * self.tasks if self.tasks > 1 else 1) / self.alpha)

    @property
    def log_bound_together(self) -> float:
        """The same of the bet on all tasks together, where there are several."""
        return math.log(2 / self.alpha)

    def to_json(self) -> dict[str, float]:
        """Return the rule as JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, float]) -> HarmRule:
        """Return the rule that to_json() wrote."""
        return HarmRule(alpha=values["alpha"], pairs=int(values["pairs"]), tasks=int(values["tasks"]))

    def decide(self, counts: Mapping[str, PairCounts]) -> Decision:
        """Return the decision after these pairs, by task; valid at every look."""
        if self.harmed(counts):
            return Decision.ROLL_BACK
        done = sum(each.n for each in counts.values())
        return Decision.EXHAUSTED if done >= self.max_pairs else Decision.CONTINUE

    def harmed(self, counts: Mapping[str, PairCounts]) -> str:
        """Return the task in which harm is shown, ALL_TASKS where only all together show it, "" where nothing does."""
        surplus = {name: _against(each) - self.log_bound for name, each in counts.items()}
        worst = max(surplus, key=lambda name: surplus[name], default="")
        if worst and surplus[worst] >= 0:
            return worst
        together = PairCounts(
            *(sum(getattr(one, name) for one in counts.values()) for name in ("wins", "losses", "both", "neither"))
        )
        return ALL_TASKS if self.tasks > 1 and _against(together) >= self.log_bound_together else ""


def _against(counts: PairCounts) -> float:
    """Log capital of the bet that the candidate is worse."""
    return float(log_capital(counts.losses, counts.ties, counts.wins))


def log_capital(
    wins: npt.ArrayLike, ties: npt.ArrayLike, losses: npt.ArrayLike, null_mean: float = 0.0
) -> npt.NDArray[np.float64]:
    """Return the log capital of a gambler against E[d] <= null_mean; the arrays broadcast.

    Args:
        wins: pairs with d = +1.
        ties: pairs with d = 0.
        losses: pairs with d = -1.
        null_mean: m, in (-1, 1). Swap wins with losses and negate m to bet against E[d] >= m.

    Raises:
        ContractError: null_mean is not in (-1, 1).
    """
    if not -1 < null_mean < 1:
        raise ContractError(f"null_mean must lie in (-1, 1), got {null_mean}")
    stake_S = STAKES / (1 + null_mean)
    counts = np.stack(np.broadcast_arrays(wins, ties, losses), axis=-1).astype(np.float64)
    growth_3S = np.log1p(stake_S * (np.array([[1.0], [0.0], [-1.0]]) - null_mean))
    log_S = counts @ growth_3S
    peak = log_S.max(axis=-1)
    return np.asarray(peak + np.log(np.exp(log_S - peak[..., None]) @ STAKE_SHARES))


def confidence_sequence(counts: PairCounts, *, confidence: float = 0.95, tolerance: float = 1e-4) -> Interval:
    """Return after minus before with an interval that holds at every look at once.

    Args:
        counts: of the pairs so far.
        confidence: chance that the interval covers the true difference at all times.
        tolerance: of the bisection; rounded outwards.

    Raises:
        ContractError: no pairs, or confidence outside (0, 1).
    """
    if counts.n < 1 or not 0 < confidence < 1:
        raise ContractError(f"need at least one pair and 0 < confidence < 1, got {counts.n} and {confidence}")
    bound = -math.log((1 - confidence) / 2)
    low = _excluded_below(counts.wins, counts.ties, counts.losses, bound, tolerance)
    high = -_excluded_below(counts.losses, counts.ties, counts.wins, bound, tolerance)
    return Interval((counts.wins - counts.losses) / counts.n, low, high)


def pair_figures(counts: PairCounts) -> PairFigures:
    """What N pairs came to, for a card: both rates and their difference, each with its 95 % interval."""
    return {
        "n": counts.n,
        "counts": counts.to_json(),
        "incumbent_success": wilson_interval(counts.both + counts.losses, counts.n).to_json(),
        "candidate_success": wilson_interval(counts.both + counts.wins, counts.n).to_json(),
        "difference": confidence_sequence(counts).to_json(),
    }


def _excluded_below(wins: int, ties: int, losses: int, bound: float, tolerance: float) -> float:
    """Largest m (within tolerance) whose hypothesis E[d] <= m is refuted; capital falls as m grows."""
    low, high = -1.0, 1.0
    while high - low > tolerance:
        middle = (low + high) / 2
        if float(log_capital(wins, ties, losses, middle)) >= bound:
            low = middle
        else:
            high = middle
    return low
