"""Practice without people: two skills of one policy take turns, and what one leaves is where the other begins.

Here is what was asked for, what became of it, and what follows from an episode; the same for the robot that practises
and for whoever looks at it. A run's state is all that a robot needs to go on with it after any restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from gymnast_core.episodes.messages import MAX_INSTRUCTION_CHARACTERS
from gymnast_core.errors import ConfigError
from gymnast_core.json_values import JsonObject
from gymnast_core.practice_rules import tries_for
from gymnast_core.practice_status import PracticeStatus, RunState, SkillFigures
from gymnast_core.sampling import USUAL_TEMPERATURE, Temperature, require_sampled
from gymnast_core.types import Outcome

Skill = Literal["task", "reset"]
JudgeName = Literal["", "trainer", "simulator"]
MOST_HOURS, MOST_EPISODES, MOST_CALLS = 168.0, 10_000, 20
MOST_TRIES_ASKED = 100
LOST, HARD_RESET = "lost_object", "hard_reset"
LAID_BY_HAND = (LOST, HARD_RESET)
"""Pages after which a person has put everything back to where the task begins."""

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_INSTRUCTION_CHARACTERS)]


class PracticeAsked(BaseModel):
    """What somebody asks a robot to practise; also the spec of an order `practise`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    task: Annotated[Text, Field(description="what is to be learned: an instruction, or a task's name")]
    reset: Annotated[Text, Field(description="what undoes it: an instruction, or a task's name")]
    hours: Annotated[float, Field(gt=0, le=MOST_HOURS, description="ends so long after it began")]
    resume: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{0,64}$"),
        Field(description="a name of yours: asked for again by it, the same run goes on; empty is always a new one"),
    ] = ""  # fmt: skip
    episodes: Annotated[
        int, Field(ge=0, le=MOST_EPISODES, description="ends after so many, if the hours are not over; 0 sets no limit")
    ] = 0
    tries: Annotated[
        int,
        Field(ge=0, le=MOST_TRIES_ASKED, description="failures of one skill in a row, then a person is asked to lay "
              "the scene; 0: so many that luck alone asks at most twice in 100 episodes, by the skill's success"),
    ] = 0  # fmt: skip
    scene: Annotated[str, Field(description="look of the simulated world, or name of where a real arm stands")] = (
        "standard"
    )
    checkpoint: Annotated[str, Field(description="id in the store; empty: the one in force at each episode")] = ""
    sample: Annotated[int, Field(ge=-1, le=2**53, description="seed of the policy's exploration; -1: greedy")] = 0
    temperature: Annotated[
        Temperature | None,
        Field(description=f"at which the policy explores; none is {USUAL_TEMPERATURE:g} where it can be given one, "
              "else its own"),
    ] = None  # fmt: skip
    seed: Annotated[int, Field(ge=0, le=10**6, description="chooses the start states, where the arm is simulated")] = 0
    judge: Annotated[
        JudgeName,
        Field(description="who watches: the trainer's judge, or the simulator's state; empty: the simulator where it "
              "labels episodes, else the trainer"),
    ] = ""  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _of_before(cls, values: object) -> object:
        """Read what was asked when a share of the episodes was explored: runs and orders of then go on."""
        if not isinstance(values, dict) or "explore" not in values:
            return values
        never = {"sample": -1} if values["explore"] == 0 else {}
        return {name: value for name, value in values.items() if name != "explore"} | never

    @model_validator(mode="after")
    def _explores(self) -> PracticeAsked:
        require_sampled(self.temperature, self.sample)
        return self


def practice_asked(values: Mapping[str, object]) -> PracticeAsked:
    """Return what JSON values ask for.

    Raises:
        ConfigError: the message names each field that is wrong, missing or unknown.
    """
    try:
        return PracticeAsked.model_validate(dict(values))
    except ValidationError as error:
        wrong = [
            f"{name} is missing" if item["type"] == "missing" else f"{name}={str(item['input'])[:60]!r}: {item['msg']}"
            for item in error.errors(include_url=False, include_context=False)[:4]
            for name in (".".join(map(str, item["loc"])),)
        ]
        raise ConfigError(f"practice: {'; '.join(wrong)}") from error


@dataclass(frozen=True)
class PracticeMark:
    """What an episode is of a practice run.

    Attributes:
        run: of which.
        skill: task or reset.
        number: of the run's episodes, from 1.
        continues: it begins where the episode before left everything; only the arm goes home.
    """

    run: str
    skill: Skill
    number: int
    continues: bool = True

    def metadata(self) -> JsonObject:
        """For the recording."""
        return {"run": self.run, "skill": self.skill, "number": self.number, "continues": self.continues}


class SkillCount(BaseModel):
    """How often a skill was practised, and how its episodes are labelled.

    Attributes:
        passed: episodes after which the other skill could begin; one that reached its goal may have lost it again.
    """

    episodes: int = 0
    successes: int = 0
    failures: int = 0
    unlabelled: int = 0
    passed: int = 0

    def plus(self, outcome: Outcome, *, passed: bool) -> SkillCount:
        """With one more episode."""
        won, lost = outcome is Outcome.SUCCESS, outcome is Outcome.FAILURE
        return SkillCount(
            episodes=self.episodes + 1, successes=self.successes + won, failures=self.failures + lost,
            unlabelled=self.unlabelled + (not won and not lost), passed=self.passed + passed,
        )  # fmt: skip

    def figures(self) -> SkillFigures:
        """What is reported of it."""
        return SkillFigures(
            episodes=self.episodes, successes=self.successes, failures=self.failures, unlabelled=self.unlabelled
        )


class PersonCall(BaseModel):
    """A person was called.

    Attributes:
        page_id: of the page.
        kind: see gymnast_core.paging.KINDS.
        text: for the person.
        at_ns: the robot's wall clock.
        by: who answered; empty while nobody did.
        answered_ns: when; 0 while nobody did.
    """

    page_id: str
    kind: str
    text: str
    at_ns: int
    by: str = ""
    answered_ns: int = 0


class PracticeState(BaseModel):
    """A run, and where it is; kept on the robot after every change.

    Attributes:
        run: its id, never reused.
        asked: what was asked for.
        by: in whose name.
        began_ns: the robot's wall clock; the hours count from here.
        ended_ns: 0 while it has not.
        state: waiting is for a person.
        reason: why it ended, or what holds it up; empty where nothing does.
        next: the skill of the next episode.
        failed: episodes in a row in which this skill was not done.
        unknown: the last of them after which nothing could be confirmed.
        lay_out: a person has put the scene back; a simulated one is laid out anew with the next episode.
        number: episodes begun; names their start states.
        task: of the task.
        reset: of the reset.
        cut: episodes that did not run to their end.
        interventions: times a person had to do something.
        pages: times a person was called.
        waiting: what a person is waited for.
        calls: the last ones.
    """

    model_config = ConfigDict(extra="ignore")
    run: str
    asked: PracticeAsked
    by: str = ""
    began_ns: int
    ended_ns: int = 0
    state: RunState = "running"
    reason: str = ""
    next: Skill = "task"
    failed: int = 0
    unknown: int = 0
    lay_out: bool = False
    number: int = 0
    task: SkillCount = SkillCount()
    reset: SkillCount = SkillCount()
    cut: int = 0
    interventions: int = 0
    pages: int = 0
    waiting: PersonCall | None = None
    calls: tuple[PersonCall, ...] = ()

    @property
    def episodes(self) -> int:
        """Done, of both skills."""
        return self.task.episodes + self.reset.episodes

    @property
    def until_ns(self) -> int:
        """When the hours are over: by the wall clock, whatever happens to the robot meanwhile."""
        return self.began_ns + round(self.asked.hours * 3600e9)

    def over(self, now_ns: int) -> str:
        """Return why it is over by what was asked for; empty while it is not."""
        if now_ns >= self.until_ns:
            return f"the {self.asked.hours:g} hours are over"
        if self.asked.episodes and self.episodes >= self.asked.episodes:
            return f"all {self.asked.episodes} episodes are done"
        return ""

    def done(self, outcome: Outcome, ready: Skill | None) -> PracticeState:
        """After an episode of the next skill.

        Args:
            outcome: its label.
            ready: the skill that could be begun as things now stand; None where that could not be confirmed.
        """
        skill = self.next
        passed = ready is not None and ready != skill
        counted: dict[str, SkillCount] = {skill: getattr(self, skill).plus(outcome, passed=passed)}
        if passed:
            return self.model_copy(update={**counted, "next": ready, "failed": 0, "unknown": 0, "lay_out": False})
        unknown = self.unknown + 1 if ready is None else 0
        return self.model_copy(update={**counted, "failed": self.failed + 1, "unknown": unknown, "lay_out": False})

    @property
    def tries(self) -> int:
        """Failures in a row of the next skill after which a person is called; those under way prove nothing yet."""
        count: SkillCount = getattr(self, self.next)
        return self.asked.tries or tries_for(count.passed, count.episodes - self.failed)

    @property
    def needs(self) -> str:
        """Kind of the page that is due by now; empty for none."""
        if self.unknown >= self.tries:
            return LOST
        return HARD_RESET if self.failed >= self.tries else ""

    def called(self, call: PersonCall) -> PracticeState:
        """A person was called and is waited for."""
        return self.model_copy(
            update={"waiting": call, "state": "waiting", "reason": call.text, "pages": self.pages + 1}
        )

    def answered(self, by: str, at_ns: int) -> PracticeState:
        """The person has done it."""
        if self.waiting is None:
            return self
        call = self.waiting.model_copy(update={"by": by, "answered_ns": at_ns})
        laid = call.kind in LAID_BY_HAND
        again = {"next": "task", "lay_out": True} if laid else {}
        return self.model_copy(update={
            "waiting": None, "state": "running", "reason": "", "failed": 0, "unknown": 0,
            "interventions": self.interventions + 1, "calls": (*self.calls, call)[-MOST_CALLS:], **again,
        })  # fmt: skip

    def ended(self, reason: str, at_ns: int) -> PracticeState:
        """It is over."""
        return self.model_copy(update={"state": "ended", "reason": reason, "ended_ns": at_ns, "waiting": None})

    def status(self, now_ns: int) -> PracticeStatus:
        """As it is reported."""
        left_s = 0.0 if self.state == "ended" else max(0.0, (self.until_ns - now_ns) / 1e9)
        done = self.episodes
        return {
            "run": self.run, "resume": self.asked.resume, "state": self.state, "reason": self.reason,
            "task": self.asked.task, "reset": self.asked.reset, "next": getattr(self.asked, self.next),
            "of_task": self.task.figures(), "of_reset": self.reset.figures(),
            "episodes": done, "cut": self.cut, "pages": self.pages, "interventions": self.interventions,
            "per_100": round(100 * self.interventions / done, 2) if done else 0.0,
            "left_s": round(left_s), "page_id": self.waiting.page_id if self.waiting else "",
            "page_kind": self.waiting.kind if self.waiting else "", "by": self.by,
        }  # fmt: skip
