"""Verify and retry on the arm: after a judged failure it goes home and tries again, each attempt an episode of its own.

The judge alone decides whether there is another attempt. Labels come from the operator, as ever, and show what it was
worth: it sees what the cameras saw, never a label or the simulator's state. An abstention is no failure, so it ends the
group, as everything does that cuts an attempt: an e-stop, a cancellation, a fault.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from gymnast_core.errors import ContractError
from gymnast_core.evaluation.attempts import (
    DISCARDED,
    Attempt,
    AttemptGroup,
    JudgedAttempt,
    RetryFigures,
    end_after,
    retry_figures,
)
from gymnast_core.json_values import JsonObject
from gymnast_core.outcome import Judgement, OutcomeJudge, judge_in
from gymnast_core.policy import Policy
from gymnast_core.types import ByteArray, Outcome
from gymnast_ros.run.episodes import EpisodeRunner
from gymnast_ros.run.plan import EpisodePlan, EpisodeResult


@dataclass(frozen=True)
class TriedGroup:
    """The attempts from one start.

    Attributes:
        group: its id.
        rows: one per attempt, in order.
        ended: see gymnast_core.evaluation.attempts.
    """

    group: str
    rows: tuple[EpisodeResult, ...]
    ended: str

    @property
    def counted(self) -> AttemptGroup:
        """What the figures count; where a judge labels what nobody else does, that is no label to hold judges to."""
        truths = [None if judge_in(row.labelled_by) else row.success for row in self.rows]
        attempts = [JudgedAttempt(won, judged(row)) for won, row in zip(truths, self.rows, strict=True)]
        return AttemptGroup(tuple(attempts), self.ended)

    def to_json(self) -> JsonObject:
        """Return {group, policy, task, seed, ended, retries}: the rows after the first."""
        first = self.rows[0]
        return {
            "group": self.group, "policy": first.policy, "task": first.task, "seed": first.seed, "ended": self.ended,
            "retries": [row.to_json() for row in self.rows[1:]],
        }  # fmt: skip


class NamedJudge:
    """A judge that was asked for by name: what another one found is no reason to try again.

    Args:
        judge: answers.
        name: id it must have; empty takes any.
    """

    def __init__(self, judge: OutcomeJudge, name: str) -> None:
        self._judge, self._name = judge, name

    def judge(self, frames: Mapping[str, ByteArray], instruction: str, *, scene: str = "") -> Judgement:
        """Return what the judge finds, or an abstention where it is another one than was asked for."""
        found = self._judge.judge(frames, instruction, scene=scene)
        if not self._name or not found.decided or found.judge == self._name:
            return found
        return Judgement.abstain(f"{found.judge} answers, and {self._name} was asked for", judge=found.judge)


class RetryingRunner:
    """Runs attempts from one start until the judge sees a success.

    Args:
        runner: of the arm.
        judge: looks at every attempt.
        of: most attempts from one start, at least 2.
        cancelled: asked between attempts and steps.
        began: called with each attempt's number, from 1.

    Attributes:
        of: as given.
        groups: the groups that have ended.
    """

    def __init__(
        self, runner: EpisodeRunner, judge: OutcomeJudge, of: int, cancelled: Callable[[], bool],
        began: Callable[[int], None] = lambda number: None,
    ) -> None:  # fmt: skip
        self._runner, self._judge, self.of = runner, judge, of
        self._cancelled, self._began = cancelled, began
        self.groups: list[TriedGroup] = []

    def first(self, plan: EpisodePlan, policy: Policy) -> EpisodeResult:
        """Begin a new group: run its first attempt."""
        return self._attempt(plan, policy, Attempt(uuid.uuid4().hex[:16], 0, self.of))

    def again(self, row: EpisodeResult, plan: EpisodePlan, policy: Policy) -> TriedGroup:
        """Go on from the first attempt until its group ends.

        Args:
            row: of the first attempt.
            plan: of the start.
            policy: made the first attempt, and makes the others.

        Raises:
            ContractError: the row is of no first attempt.
        """
        if row.attempt is None or row.attempt.index != 0:
            raise ContractError(f"a group goes on from its first attempt, got attempt {row.attempt}")
        rows, name = [row], row.attempt.group
        while not (ended := self._ended(rows)):
            rows.append(self._attempt(plan, policy, Attempt(name, len(rows), self.of)))
        group = TriedGroup(name, tuple(rows), ended)
        self.groups.append(group)
        return group

    def _attempt(self, plan: EpisodePlan, policy: Policy, attempt: Attempt) -> EpisodeResult:
        self._began(attempt.index + 1)
        return self._runner.run(replace(plan, attempt=attempt), policy, self._cancelled, self._judge)

    def _ended(self, rows: Sequence[EpisodeResult]) -> str:
        """How the group ended with its newest attempt; empty where another one follows."""
        last = rows[-1]
        cut = last.truncated_reason or (DISCARDED if last.discarded else "")
        return end_after(cut, judged(last), len(rows), self.of) or ("cancelled" if self._cancelled() else "")


def judged(row: EpisodeResult) -> Outcome:
    """What the judge found of an attempt; UNLABELLED where none was asked."""
    return Outcome.UNLABELLED if row.judge is None else Outcome(str(row.judge["outcome"]))


def by_policy(groups: Sequence[TriedGroup], of: int) -> Mapping[str, RetryFigures]:
    """Version -> figures of its groups."""
    versions = dict.fromkeys(group.rows[0].policy for group in groups)
    return {
        version: retry_figures([tried.counted for tried in groups if tried.rows[0].policy == version], of)
        for version in versions
    }
