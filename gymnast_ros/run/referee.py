"""Who watches a practising arm: labels its episodes, and confirms which of two skills could begin as things stand.

A judge sees pictures alone. Where the arm is simulated and its state plays the operator, it plays this part, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from gymnast_core.outcome import Judgement, OutcomeJudge
from gymnast_core.practice import Skill
from gymnast_core.types import ByteArray, Outcome
from gymnast_ros.run.operator import SIMULATED_OPERATOR

OTHER: Mapping[Skill, Skill] = {"task": "reset", "reset": "task"}


@dataclass(frozen=True)
class Pair:
    """Two skills that undo each other.

    Attributes:
        names: of the tasks on the robot.
        instructions: as the policy gets them.
    """

    names: Mapping[Skill, str]
    instructions: Mapping[Skill, str]


@dataclass(frozen=True)
class SkillVerdict:
    """What was found after an episode.

    Attributes:
        outcome: its label.
        labelled_by: whose; empty without one.
        ready: the skill that could begin now; None where that could not be confirmed.
        reason: why not, in the judge's words.
    """

    outcome: Outcome = Outcome.UNLABELLED
    labelled_by: str = ""
    ready: Skill | None = None
    reason: str = "nobody watched"


class SkillWatch(Protocol):
    """Watches one episode.

    Attributes:
        judge: looks at its pictures when it has run to its end; None where none is needed.
        verdict: what was found; that of nobody before the end, and where it was cut.
    """

    verdict: SkillVerdict

    @property
    def judge(self) -> OutcomeJudge | None:
        """See above."""
        ...

    def label(self, truth: Mapping[str, object]) -> tuple[Outcome | None, str]:
        """Return outcome and labeller, see gymnast_ros.run.episodes.Label; asked after the judge."""
        ...


Watching = Callable[[Skill, Pair], SkillWatch]
"""Begins to watch an episode of this skill."""


class JudgeWatch:
    """Asks a judge whether the skill was done; where it was not, whether things still stand as when it began.

    Things stand so where the other skill would count as done.
    """

    def __init__(self, judge: OutcomeJudge, skill: Skill, pair: Pair) -> None:
        self._of, self._skill, self._pair = judge, skill, pair
        self.verdict = SkillVerdict()

    @property
    def judge(self) -> OutcomeJudge:
        """Itself, in the judge's name."""
        return _Asked(self._look)

    def label(self, truth: Mapping[str, object]) -> tuple[Outcome | None, str]:
        """See SkillWatch."""
        return self.verdict.outcome, self.verdict.labelled_by

    def _look(self, frames: Mapping[str, ByteArray], instruction: str, scene: str) -> Judgement:
        found = self._of.judge(frames, instruction, scene=scene)
        ready: Skill | None = OTHER[self._skill]
        reason = found.reason
        if found.outcome is not Outcome.SUCCESS:
            before = self._of.judge(frames, self._pair.instructions[OTHER[self._skill]], scene=scene)
            ready = self._skill if before.outcome is Outcome.SUCCESS else None
            reason = f"{found.outcome.value}: {found.reason}; as before: {before.outcome.value}: {before.reason}"
        self.verdict = SkillVerdict(found.label, found.labelled_by, ready, reason)
        return found


class _Asked:
    """An OutcomeJudge out of a function."""

    def __init__(self, look: Callable[[Mapping[str, ByteArray], str, str], Judgement]) -> None:
        self._look = look

    def judge(self, frames: Mapping[str, ByteArray], instruction: str, *, scene: str = "") -> Judgement:
        return self._look(frames, instruction, scene)


class SimulatorWatch:
    """The simulator's state plays the judge, as it plays the operator who labels; no policy or model ever sees it."""

    judge = None

    def __init__(self, skill: Skill, pair: Pair) -> None:
        self._skill, self._pair = skill, pair
        self.verdict = SkillVerdict()

    def label(self, truth: Mapping[str, object]) -> tuple[Outcome | None, str]:
        """See SkillWatch."""
        listed = truth.get("ready")
        could = listed if isinstance(listed, list) else []
        ready: Skill | None = next(
            (each for each in (OTHER[self._skill], self._skill) if self._pair.names[each] in could), None
        )
        reason = "" if ready else f"things stand for {', '.join(map(str, could)) or 'no task'}"
        if "succeeded" in truth:
            outcome = Outcome.SUCCESS if truth["succeeded"] else Outcome.FAILURE
            self.verdict = SkillVerdict(outcome, SIMULATED_OPERATOR, ready, reason)
        else:
            self.verdict = SkillVerdict(ready=ready, reason="this arm shows no state of a simulator")
        return self.verdict.outcome, self.verdict.labelled_by
