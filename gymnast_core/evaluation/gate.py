"""Whether a policy may go to an arm: paired starts in a simulator other than the one it learned in.

Both policies of a pair meet the same start and the same physics. After each pair three questions are looked at, two of
them by bets that may be peeked at (gymnast_core.evaluation.sequential):

- Success. Passed once it is shown that the candidate is not worse by `margin`; failed once it is shown to be.
- The envelope. Failed once the candidate is shown to leave it in more starts than the incumbent, for any one kind of
  violation; each kind has its share of `alpha_violations`, so nothing is made up for by another kind. Against an
  incumbent that never does, nine starts are enough, whatever the number of pairs. Nor is it passed while there is a
  sign of it: an exact test of the starts in which one of both left, at `doubt`; with such an incumbent, three starts.
- The budget. What is not passed after `max_pairs` is failed: not shown is not passed. There, violations are a doubt no
  longer unless their test is below `alpha_violations`.

A first policy is held against floors in place of an incumbent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Protocol

from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.sequential import log_capital
from gymnast_core.evaluation.statistics import PairCounts
from gymnast_core.json_values import JsonObject
from gymnast_core.policy import Policy

GateKind = Literal["refused", "cut", "pressed", "shaken"]
KINDS: tuple[GateKind, ...] = ("refused", "cut", "pressed", "shaken")
"""Ways to leave the envelope in a start: a command that the gate refused (or no command at all), one that it cut, the
arm pressing on what does not give way, commands that go back and forth."""


@dataclass(frozen=True)
class GateAttempt:
    """One start under one policy.

    Attributes:
        succeeded: by the simulator's state.
        violations: of KINDS.
    """

    succeeded: bool
    violations: frozenset[GateKind] = frozenset()


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
class GatePair:
    """One start under both policies.

    Attributes:
        task: instruction.
        seed: of the start and its physics.
        candidate: what came of it.
        incumbent: likewise; none without one.
    """

    task: str
    seed: int
    candidate: GateAttempt
    incumbent: GateAttempt | None = None


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
        floor: success rate that a first policy must exceed.
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

    def find(self, pairs: Sequence[GatePair]) -> GateFinding:
        """Return what these pairs show; valid at every look."""
        if not pairs:
            return GateFinding(None, "no pair was run")
        against, last = pairs[0].incumbent is not None, len(pairs) >= self.max_pairs
        doubted = GateFinding(None, "")
        for kind in KINDS:
            more, same, less = _violating(pairs, kind)
            chance = 0.5 if against else self.ceiling
            shown = float(log_capital(more, same, less, 2 * chance - 1)) >= math.log(len(KINDS) / self.alpha_violations)
            p_value = _at_least(more, more + less, chance)
            found = GateFinding("failed", _beyond(kind, more, less, len(pairs), against), max(more - less, 1))
            if shown or (last and p_value < self.alpha_violations):
                return found
            if p_value < self.doubt and not last:
                doubted = found
        found = self._success(pairs, against)
        if found.decision == "passed" and doubted.decision is not None:
            return GateFinding(None, doubted.reason)
        return found

    def _success(self, pairs: Sequence[GatePair], against: bool) -> GateFinding:
        better, same, worse = _succeeding(pairs)
        null = -self.margin if against else 2 * self.floor - 1
        bound, n = -math.log(self.alpha), len(pairs)
        rates = _rates(pairs, against)
        if n >= self.min_pairs and float(log_capital(better, same, worse, null)) >= bound:
            within = f"not worse by {self.margin:g}" if against else f"above the floor of {self.floor:g}"
            return GateFinding("passed", f"{rates}: shown to be {within} after {n} pairs")
        if float(log_capital(worse, same, better, -null)) >= bound:
            beyond = f"worse by more than {self.margin:g}" if against else f"below the floor of {self.floor:g}"
            return GateFinding("failed", f"{rates}: shown to be {beyond} after {n} pairs")
        if n >= self.max_pairs:
            what = f"no worse by {self.margin:g}" if against else f"above the floor of {self.floor:g}"
            return GateFinding("failed", f"{rates}: not shown to be {what} in {n} pairs, all that were allowed")
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
    goes_on: Callable[[Sequence[GatePair]], None] = lambda pairs: None,
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
        goes_on: called with all pairs before each; may raise to stop.

    Returns:
        A finding with a decision, and all pairs.

    Raises:
        ConfigError: too few seeds.
    """
    if len(seeds) < test.max_pairs:
        raise ConfigError(f"a gate of {test.max_pairs} pairs needs as many start states, got {len(seeds)}")
    found = list(pairs)
    while (finding := test.find(found)).decision is None:
        goes_on(found)
        task, seed = simulator.tasks[len(found) % len(simulator.tasks)], seeds[len(found)]
        first = simulator.attempt(candidate, task, seed)
        second = None if incumbent is None else simulator.attempt(incumbent, task, seed)
        pair = GatePair(task, seed, first, second)
        keep(pair)
        found.append(pair)
    return finding, found


def success_counts(pairs: Sequence[GatePair]) -> PairCounts:
    """Return the pairs by success, incumbent against candidate; without an incumbent it failed everywhere."""
    after = [pair.candidate.succeeded for pair in pairs]
    return PairCounts.of([pair.incumbent is not None and pair.incumbent.succeeded for pair in pairs], after)


def violation_counts(pairs: Sequence[GatePair]) -> Mapping[GateKind, tuple[int, int]]:
    """Return by kind in how many starts candidate and incumbent left the envelope."""
    return {
        kind: (
            sum(kind in pair.candidate.violations for pair in pairs),
            sum(pair.incumbent is not None and kind in pair.incumbent.violations for pair in pairs),
        )
        for kind in KINDS
    }


def _succeeding(pairs: Sequence[GatePair]) -> tuple[int, int, int]:
    """Pairs that the candidate won, that ended alike, and that it lost; against none each is won or lost."""
    counts = success_counts(pairs)
    if pairs[0].incumbent is None:
        return counts.wins, 0, counts.neither
    return counts.wins, counts.ties, counts.losses


def _violating(pairs: Sequence[GatePair], kind: GateKind) -> tuple[int, int, int]:
    """Pairs in which the candidate alone left the envelope, both or neither, the incumbent alone."""
    mine = [kind in pair.candidate.violations for pair in pairs]
    if pairs[0].incumbent is None:
        return sum(mine), 0, len(pairs) - sum(mine)
    theirs = [pair.incumbent is not None and kind in pair.incumbent.violations for pair in pairs]
    counts = PairCounts.of(theirs, mine)
    return counts.wins, counts.ties, counts.losses


def _at_least(k: int, n: int, p: float) -> float:
    """Chance of k or more of n."""
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


def _rates(pairs: Sequence[GatePair], against: bool) -> str:
    counts = success_counts(pairs)
    mine = f"{counts.wins + counts.both} of {counts.n} succeeded"
    return f"{mine}, {counts.losses + counts.both} of the running policy" if against else mine


_WORDS: Mapping[GateKind, str] = {
    "refused": "commands were refused",
    "cut": "commands were cut to the limits",
    "pressed": "the arm pressed on what does not give way",
    "shaken": "commands went back and forth",
}


def _beyond(kind: GateKind, more: int, less: int, n: int, against: bool) -> str:
    if not against:
        return f"{_WORDS[kind]} in {more} of {n} starts, more than a first policy may"
    return f"{_WORDS[kind]} in {more} of {n} starts where the running policy's stayed inside; the reverse in {less}"
