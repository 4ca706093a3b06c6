"""Verify and retry: the same start tried again after a judged failure, and what that gains; kept apart from trials.

A group is the attempts from one start. Attempt 0 is what every other figure counts: evaluations, trials, the ledger of
real against imagined success and training leave the later ones out (is_first_attempt), because they begin where a judge
saw a failure. The figures here are about groups alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, TypedDict

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from gymnast_core.errors import ContractError
from gymnast_core.evaluation.cards import IntervalFigures
from gymnast_core.evaluation.statistics import (
    Interval,
    PairCounts,
    paired_difference,
    wilson_interval,
)
from gymnast_core.json_values import JsonObject
from gymnast_core.types import Outcome

MOST_ATTEMPTS = 20
RESAMPLES = 10_000
JUDGED_SUCCESS, ABSTAINED, EXHAUSTED = WHOLE = ("success", "abstained", "exhausted")
"""How a group ends that nothing cut: the judge saw a success, or abstained; or the last attempt was judged a failure,
too."""
ENDS = {Outcome.SUCCESS: JUDGED_SUCCESS, Outcome.ABSTAIN: ABSTAINED}
"""What a judge found -> how it ends a group."""
DISCARDED = "discarded"
"""How a group ends whose attempt the operator discarded. One that was cut is named after the reason (estop, cancelled,
fault, arm_lost, policy_fault, link_lost, refused)."""


def end_after(cut: str, judged: Outcome, number: int, of: int) -> str:
    """Return how a group ends with an attempt; empty where another one follows.

    Args:
        cut: why the attempt did not run to its end, or DISCARDED; empty where neither is so.
        judged: what the judge found of it.
        number: attempts so far.
        of: most attempts.
    """
    return cut or ENDS.get(judged, "") or (EXHAUSTED if number == of else "")


class Retry(BaseModel):
    """Try again after a judged failure; JSON {judge, max}.

    Attributes:
        judge: id of the judge's checkpoint; empty is whichever the trainer serves. Another one's word is an abstention.
        max: attempts from one start, the first included.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    judge: Annotated[
        str,
        StringConstraints(pattern=r"^[A-Za-z0-9_-]{0,64}$"),
        Field(description="id of the judge whose failures are tried again; empty: whichever the trainer serves"),
    ] = ""
    max: Annotated[int, Field(ge=2, le=MOST_ATTEMPTS, description="attempts from one start, the first included")] = 4


@dataclass(frozen=True)
class Attempt:
    """Which attempt an episode is.

    Attributes:
        group: id of the attempts from one start; never reused.
        index: 0 is the first.
        of: most attempts of the group.
    """

    group: str
    index: int
    of: int

    def __post_init__(self) -> None:
        """Refuse an attempt that its group cannot have."""
        if not 0 <= self.index < self.of:
            raise ContractError(f"attempt index must lie in 0..{self.of - 1}, got {self.index}")

    def to_json(self) -> JsonObject:
        """Return {group, index, of}: what an episode's metadata hold under `attempt`."""
        return {"group": self.group, "index": self.index, "of": self.of}


def is_first_attempt(metadata: Mapping[str, object]) -> bool:
    """Whether an episode with this metadata is a first attempt, as every episode is that was never tried again.

    One whose `attempt` makes no sense is none: an episode counts only where that is sure to be meant.
    """
    attempt = metadata.get("attempt")
    if attempt is None:
        return True
    return isinstance(attempt, Mapping) and attempt.get("index") == 0 and not isinstance(attempt.get("index"), bool)


@dataclass(frozen=True)
class JudgedAttempt:
    """One attempt that has ended.

    Attributes:
        success: by the operator or the simulator's state; None where nobody labelled it.
        judged: what the judge found; UNLABELLED where it was not asked, because the attempt was cut.
    """

    success: bool | None
    judged: Outcome


@dataclass(frozen=True)
class AttemptGroup:
    """The attempts from one start, in order; at least one.

    Attributes:
        attempts: see JudgedAttempt.
        ended: see WHOLE and DISCARDED.
    """

    attempts: tuple[JudgedAttempt, ...]
    ended: str

    def __post_init__(self) -> None:
        """Refuse an empty group."""
        if not self.attempts:
            raise ContractError("a group has at least its first attempt")


class CountedShare(TypedDict):
    """k of n, with its 95 % Wilson interval; None for n = 0."""

    k: int
    n: int
    interval: IntervalFigures | None


class RetryFigures(TypedDict):
    """What trying again came to.

    Attributes:
        groups: starts.
        of: most attempts from one start.
        pass_1: groups whose first attempt succeeded, of those with a labelled first and last attempt.
        pass_n: of the same groups those whose last attempt succeeded: what stands before the arm when it is done.
        gain: pass_n minus pass_1, paired; None without any labelled group.
        attempts: mean attempts of a group, with its 95 % bootstrap interval; None where every group was cut.
        false_positives: failures by the label, of all that the judge took for successes.
        false_negatives: successes by the label, of all that the judge took for failures.
        ended: groups by how they ended.
    """

    groups: int
    of: int
    pass_1: CountedShare
    pass_n: CountedShare
    gain: IntervalFigures | None
    attempts: IntervalFigures | None
    false_positives: CountedShare
    false_negatives: CountedShare
    ended: dict[str, int]


def retry_figures(groups: Sequence[AttemptGroup], of: int) -> RetryFigures:
    """Count groups of attempts.

    A group that was cut (an e-stop, a lost arm) or discarded counts in `ended` alone: it says nothing of the policy. An
    attempt that nobody labelled counts for nothing: it is no failure.

    Args:
        groups: of one policy.
        of: most attempts from one start.
    """
    whole = [group for group in groups if group.ended in WHOLE]
    ends = [(group.attempts[0].success, group.attempts[-1].success) for group in whole]
    pairs = [(first, last) for first, last in ends if first is not None and last is not None]
    numbers = [len(group.attempts) for group in whole]
    return {
        "groups": len(groups), "of": of,
        "pass_1": _share([first for first, _ in pairs]),
        "pass_n": _share([last for _, last in pairs]),
        "gain": paired_difference(PairCounts.of(*zip(*pairs, strict=True))).to_json() if pairs else None,
        "attempts": _mean(numbers).to_json() if numbers else None,
        "false_positives": _share([not won for won in _labels(whole, Outcome.SUCCESS)]),
        "false_negatives": _share(_labels(whole, Outcome.FAILURE)),
        "ended": dict(sorted(Counter(group.ended for group in groups).items())),
    }  # fmt: skip


def _labels(groups: Sequence[AttemptGroup], judged: Outcome) -> list[bool]:
    """Labels of the attempts that the judge found so."""
    tried = [attempt for group in groups for attempt in group.attempts]
    return [attempt.success for attempt in tried if attempt.judged is judged and attempt.success is not None]


def _share(outcomes: Sequence[bool]) -> CountedShare:
    interval = wilson_interval(sum(outcomes), len(outcomes)).to_json() if outcomes else None
    return {"k": sum(outcomes), "n": len(outcomes), "interval": interval}


def _mean(numbers: Sequence[int]) -> Interval:
    """Mean of small whole numbers with its percentile bootstrap; resampling counts is resampling the numbers."""
    values, counts = np.unique(np.asarray(numbers), return_counts=True)
    n = len(numbers)
    means_R = np.random.default_rng(0).multinomial(n, counts / n, RESAMPLES) @ values / n
    low, high = np.quantile(means_R, [0.025, 0.975])
    return Interval(float(np.mean(numbers)), float(low), float(high))
