"""Whether a policy may go to an arm: paired starts in a simulator other than the one it learned in.

Both policies of a pair meet the same start and the same physics. After each pair three questions are looked at, two of
them by bets that may be peeked at (gymnast_core.evaluation.sequential):

- Success. Passed once it is shown that the candidate is at most `margin` worse, and that it can do the tasks at all:
  above `floor`; failed once the opposite of one of these is shown.
- The envelope. Failed once the candidate is shown to leave it in more starts than the incumbent, for any one kind of
  violation; each kind has its share of `alpha_violations`, so nothing is made up for by another kind. Against an
  incumbent that never does, nine starts are enough, whatever the number of pairs. Nor is it passed while there is a
  sign of it: an exact test of the starts in which one of both left, at `doubt`; with such an incumbent, three starts.
- The budget. What is not passed after `max_pairs` is failed: not shown is not passed. There, violations are a doubt no
  longer unless the test of one kind is below its share of `alpha_violations`.

A first policy is held against the floor alone, and against a ceiling in place of an incumbent's violations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Protocol

from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.gate_tally import KINDS, GateAttempt, GateKind, GatePair, GateTally
from gymnast_core.evaluation.sequential import log_capital
from gymnast_core.evaluation.statistics import PairCounts
from gymnast_core.json_values import JsonObject
from gymnast_core.policy import Policy


class GateSimulator(Protocol):
    """A second simulator. Installed packages add some to the group gymnast_core.extensions.GATES, by name."""

    @property
    def name(self) -> str:
        """Engine and version."""
        ...

    @property
    def tasks(self) -> Sequence[str]:
        """Instructions that are tried in turn."""
        ...

    @property
    def randomisation(self) -> JsonObject:
        """What is varied from start to start, and how far."""
        ...

    def attempt(self, policy: Policy, task: str, seed: int) -> GateAttempt:
        """Run one episode; the same arguments give the same result. A policy that fails is no error of this."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


@dataclass(frozen=True)
class GateFinding:
    """What the pairs show so far.

    Attributes:
        decision: none while it is open.
        reason: in words.
        violations: starts in which the candidate left the envelope beyond what the incumbent does, where that is shown.
    """

    decision: Literal["passed", "failed"] | None
    reason: str
    violations: int = 0


@dataclass(frozen=True)
class GateTest:
    """The rule; declared before the first pair.

    Attributes:
        margin: success rate that the candidate may at most be worse by.
        alpha: largest chance that one that is worse by more passes, and that one within it is failed as worse.
        alpha_violations: largest chance that a policy that leaves the envelope no more often is failed for it.
        doubt: no pass while the candidate left the envelope more often and chance alone does so more seldom than this.
        floor: success rate that it must exceed, whatever the incumbent's.
        ceiling: share of starts in which a first policy may show a kind of violation.
        min_pairs: no pass before this many, so that rare violations have had a chance.
        max_pairs: budget.
    """

    margin: float = 0.15
    alpha: float = 0.05
    alpha_violations: float = 0.05
    doubt: float = 0.2
    floor: float = 0.05
    ceiling: float = 0.5
    min_pairs: int = 100
    max_pairs: int = 400

    def __post_init__(self) -> None:
        """Refuse what makes no test."""
        for name in ("margin", "alpha", "alpha_violations", "doubt", "floor", "ceiling"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} must lie in (0, 1), got {getattr(self, name)}")
        if not 1 <= self.min_pairs <= self.max_pairs:
            raise ConfigError(f"need 1 <= min_pairs <= max_pairs, got {self.min_pairs} and {self.max_pairs}")

    def to_json(self) -> JsonObject:
        """Return the rule as JSON values."""
        return dict(asdict(self))

    def find(self, tally: GateTally) -> GateFinding:
        """Return what these pairs show; valid at every look."""
        if not tally.n:
            return GateFinding(None, "no pair was run")
        last, doubted = tally.n >= self.max_pairs, GateFinding(None, "")
        for kind in KINDS:
            counts = tally.left(kind)
            less = counts.losses if tally.against else counts.neither
            same = counts.ties if tally.against else 0
            chance = 0.5 if tally.against else self.ceiling
            shown = _capital(counts.wins, same, less, 2 * chance - 1) >= math.log(len(KINDS) / self.alpha_violations)
            p_value = _at_least(counts.wins, counts.wins + less, chance)
            found = GateFinding("failed", _beyond(kind, counts, tally), max(counts.wins - counts.losses, 1))
            if shown or (last and p_value < self.alpha_violations / len(KINDS)):
                return found
            if p_value < self.doubt and not last:
                doubted = found
        found = self._success(tally)
        if found.decision == "passed" and doubted.decision is not None:
            return GateFinding(None, doubted.reason)
        return found

    def _success(self, tally: GateTally) -> GateFinding:
        """Whether the candidate can do anything, and whether it does no worse."""
        counts, n = tally.success, tally.n
        done = counts.wins + counts.both
        questions = [((done, 0, n - done), 2 * self.floor - 1, f"above the floor of {self.floor:g}")]
        if tally.against:
            within = (counts.wins, counts.ties, counts.losses)
            questions.append((within, -self.margin, f"no more than {self.margin:g} worse"))
        bound, rates, shown = -math.log(self.alpha), _rates(tally), []
        for (better, same, worse), null, words in questions:
            if _capital(worse, same, better, -null) >= bound:
                return GateFinding("failed", f"{rates}: shown not to be {words} after {n} pairs")
            shown.append(_capital(better, same, worse, null) >= bound)
        if all(shown) and n >= self.min_pairs:
            return GateFinding("passed", f"{rates}: shown to be {questions[-1][2]} after {n} pairs")
        if n >= self.max_pairs:
            words = questions[shown.index(False)][2]
            return GateFinding("failed", f"{rates}: not shown to be {words} in {n} pairs, all that were allowed")
        return GateFinding(None, rates)


def run_gate(
    simulator: GateSimulator,
    candidate: Policy,
    incumbent: Policy | None,
    test: GateTest,
    seeds: Sequence[int],
    *,
    pairs: Collection[GatePair] = (),
    keep: Callable[[GatePair], None] = lambda pair: None,
    goes_on: Callable[[GateTally], None] = lambda tally: None,
) -> tuple[GateFinding, list[GatePair]]:
    """Run pairs until the rule decides.

    Args:
        simulator: where.
        candidate: wants to go to an arm.
        incumbent: runs there; None holds the candidate against the floors.
        test: the rule.
        seeds: of the starts; at least test.max_pairs.
        pairs: that were run before an interruption, the first ones.
        keep: called with every new pair, before it counts.
        goes_on: called with what the pairs came to before each; may raise to stop.

    Returns:
        A finding with a decision, and all pairs.

    Raises:
        ConfigError: too few seeds.
    """
    if len(seeds) < test.max_pairs:
        raise ConfigError(f"a gate of {test.max_pairs} pairs needs as many start states, got {len(seeds)}")
    found, tally = list(pairs), GateTally(tuple(pairs))
    while (finding := test.find(tally)).decision is None:
        goes_on(tally)
        task, seed = simulator.tasks[len(found) % len(simulator.tasks)], seeds[len(found)]
        first = simulator.attempt(candidate, task, seed)
        second = None if incumbent is None else simulator.attempt(incumbent, task, seed)
        pair = GatePair(task, seed, first, second)
        keep(pair)
        found.append(pair)
        tally.add(pair)
    return finding, found


@functools.cache
def _capital(more: int, same: int, less: int, null_mean: float) -> float:
    """log_capital() of counts, which come again and again."""
    return float(log_capital(more, same, less, null_mean))


@functools.cache
def _at_least(k: int, n: int, p: float) -> float:
    """Chance of k or more of n."""
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


def _rates(tally: GateTally) -> str:
    counts = tally.success
    mine = f"{counts.wins + counts.both} of {counts.n} succeeded"
    return f"{mine}, {counts.losses + counts.both} of the running policy" if tally.against else mine


_WORDS: Mapping[GateKind, str] = {
    "refused": "commands were refused",
    "cut": "commands were cut to the limits",
    "pressed": "the arm pressed on what does not give way",
    "shaken": "commands went back and forth",
}


def _beyond(kind: GateKind, counts: PairCounts, tally: GateTally) -> str:
    start = f"{_WORDS[kind]} in {counts.wins} of {tally.n} starts"
    if not tally.against:
        return f"{start}, more than a first policy may"
    return f"{start} where the running policy's stayed inside; the reverse in {counts.losses}"
