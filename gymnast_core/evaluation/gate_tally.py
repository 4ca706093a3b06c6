"""What a gate's pairs of starts came to: by success, and by each way to leave the envelope."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gymnast_core.evaluation.statistics import PairCounts

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


class GateTally:
    """What the pairs came to so far, counted as they come.

    Args:
        pairs: that were run already.
    """

    def __init__(self, pairs: Sequence[GatePair] = ()) -> None:
        self.n = 0
        self.against = True
        """Whether there is an incumbent."""
        self._succeeded: Counter[tuple[bool, bool]] = Counter()
        self._violated: Counter[tuple[GateKind, bool, bool]] = Counter()
        for pair in pairs:
            self.add(pair)

    def add(self, pair: GatePair) -> None:
        """Count one more."""
        other = pair.incumbent or GateAttempt(False)
        self.n, self.against = self.n + 1, pair.incumbent is not None
        self._succeeded[pair.candidate.succeeded, other.succeeded] += 1
        for kind in pair.candidate.violations | other.violations:
            self._violated[kind, kind in pair.candidate.violations, kind in other.violations] += 1

    @property
    def success(self) -> PairCounts:
        """Pairs by success; without an incumbent it failed everywhere."""
        won, lost, both, neither = (
            self._succeeded[key] for key in ((True, False), (False, True), (True, True), (False, False))
        )
        return PairCounts(wins=won, losses=lost, both=both, neither=neither)

    def left(self, kind: GateKind) -> PairCounts:
        """Pairs by one kind of violation; a win is the candidate's alone."""
        mine, theirs, both = (
            self._violated[kind, one, other] for one, other in ((True, False), (False, True), (True, True))
        )
        return PairCounts(wins=mine, losses=theirs, both=both, neither=self.n - mine - theirs - both)
