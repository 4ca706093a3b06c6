"""Fields that specs and results of several kinds of jobs share: what is asked for, and what is left behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from gymnast_core.jobs.practice import PracticeSettings, RefiningSettings, ReinforcingSettings
from gymnast_core.settings import Says, Seed, Settings, Texts

RecordT = TypeVar("RecordT", bound="JobRecord")
Urgency = Literal["quick", "interactive", "usual", "background"]


class JobSpec(Settings):
    """What a job is asked to do. Names of checkpoints are ids that the trainer knows."""

    where: ClassVar[str] = "spec"
    kind: ClassVar[str]
    """Of the job: names it on the wire, in pages and on the command line."""
    summary: ClassVar[str]
    """What it does, in a few words."""
    urgency: ClassVar[Urgency] = "usual"
    """quick: it takes a minute and somebody waits for it, so it waits behind no training. interactive: somebody waits
    for it, so it goes first and has workers of its own. background: nobody waits."""

    seed: Seed = 0
    """Of everything random in this job."""

    @property
    def named_episodes(self) -> tuple[str, ...]:
        """Ids of episodes that the job names and that must be at the trainer."""
        return ()

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """Settings that name the checkpoints which the job needs."""
        return ()


class PolicySpec(JobSpec):
    """A job that a policy goes into."""

    policy: Annotated[str, Field(min_length=1), Says("a checkpoint's id")]
    """Checkpoint to start from (`gymnast weights list`)."""

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """See JobSpec."""
        return ("policy",)


class DreamSpec(PolicySpec):
    """A job that looks at dreams."""

    world_model: str = ""
    """Checkpoint; empty is the trainer's newest."""
    judge: str = ""
    """Checkpoint of a learned judge; empty is the trainer's newest."""

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """See JobSpec."""
        return ("policy", "world_model", "judge")


class TrainingSpec(DreamSpec):
    """A job that trains a policy and leaves candidates."""

    mode: Literal["full", "lora"] = "full"
    """What of the policy is trained: what its checkpoint is, or a fresh adapter that travels without its parent."""
    offer_to: Texts = ()
    """Robots that the candidates are offered to at once; without any, somebody offers them on their page."""
    config: PracticeSettings = Field(default_factory=PracticeSettings)
    """How much of everything."""


class RefiningSpec(TrainingSpec):
    """A training job that may refine world model and judge first."""

    config: RefiningSettings = Field(default_factory=RefiningSettings)
    """How much of everything."""


class ReinforcingSpec(TrainingSpec):
    """A training job that reinforces."""

    config: ReinforcingSettings = Field(default_factory=ReinforcingSettings)
    """How much of everything."""


class JobRecord(BaseModel):
    """Part of what a job leaves behind. Unknown fields are ignored: a newer trainer may add some."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, use_attribute_docstrings=True)

    def to_json(self) -> dict[str, Any]:
        """Return what was measured as JSON values."""
        return self.model_dump(mode="json", exclude_unset=True, by_alias=True)

    def extended(self, kind: type[RecordT], **more: Any) -> RecordT:
        """Return what was measured as a record of another kind, with more."""
        return kind(**{**{name: getattr(self, name) for name in self.model_fields_set}, **more})


class JobResult(JobRecord):
    """What every job leaves behind."""

    registered: tuple[str, ...] = Field(default=(), alias="register")
    """Folders of checkpoints that the trainer keeps beside the candidates."""
    episodes: int = 0
    """Recorded episodes that were learned from."""
    folder: str = ""
    """Of the job, at the trainer."""


class TaskChange(JobRecord):
    """Imagined success on one task, of two policies from the same starts."""

    before: float
    """Rate of the policy that was trained."""
    after: float
    """Of the candidate."""
    n: int
    """Starts judged for both."""
    low: float
    """Change, lower end at 95 % one-sided confidence."""
    high: float
    """Upper end."""


class Remembered(TaskChange):
    """Imagined success on other tasks, before and after, and what may be lost there."""

    iteration: int | None = None
    """Of the candidate, after how many updates."""
    sight: float | None = None
    """P(success imagined | success) - P(success imagined | failure) on held-out recorded episodes: an imagined
    difference is this share of a real one (Rogan & Gladen 1978); none where it was not measured."""
    by_task: Mapping[str, TaskChange] = Field(default_factory=dict)
    """The same by instruction."""
    most: float
    """The most that may really have been lost, 0..1, at 95 % one-sided confidence."""
    bound: float
    """The most that may be."""
    ok: bool
    """Whether a loss beyond the bound is excluded."""


class Candidate(JobRecord):
    """A checkpoint that a job made."""

    id: str
    """Of the checkpoint."""
    iteration: int
    """After how many updates."""
    folder: str
    """At the trainer."""
    imagined_reward: float | None = None
    """Mean reward of the rollouts of that update."""
    other_tasks: Remembered | None = None
    """Imagined success on every task beside the parent's; reported, decides nothing."""


class TrainingResult(JobResult):
    """What a training job leaves behind."""

    candidates: tuple[Candidate, ...] = ()
    """In order of iteration."""


class Range95(JobRecord):
    """A share with its 95 % interval."""

    mean: float
    """Of the sample."""
    low: float
    """Lower end."""
    high: float
    """Upper end."""


class JudgedTask(JobRecord):
    """How a judge does on one task."""

    task: str
    """Instruction, or * for all."""
    labelled: int
    """Rollouts with an operator's label."""
    abstained: int
    """How many of them the judge left open."""
    precision: Range95 | None = None
    """P(operator says success | judge says success); none where it never did."""
    recall: Range95 | None = None
    """P(judge says success | operator says success); an abstention counts as missed."""


class JudgeTrust(JobRecord):
    """A judge's precision and recall on held-out dreams."""

    judge: str
    """Version."""
    confidence: float
    """Of the intervals."""
    tasks: tuple[JudgedTask, ...]
    """One row per task, * first."""


class JudgeDrift(JobRecord):
    """A judge against its own calibration."""

    alarm: bool
    """Whether it has drifted."""
    signs: tuple[str, ...]
    """What shows it."""
    p_values: Mapping[str, float]
    """By sign."""


class Sight(JobRecord):
    """How well the dream tells a policy's successes from its failures, on its own held-out episodes."""

    policy: str
    """Id of the policy."""
    sight: float
    """P(judge says success | it succeeded) - P(judge says success | it failed); 0 is blind."""
    low: float
    """Lower end at 95 %."""
    high: float
    """Upper end."""
    succeeded: int
    """Held-out episodes that succeeded and were judged."""
    failed: int
    """Those that failed."""
    floor: float | None = None
    """What was demanded; none asked for nothing."""


class DreamResult(TrainingResult):
    """What a job leaves behind that practised in a dream."""

    world_model: str = ""
    """Id of the world model that was practised in."""
    judge: str = ""
    """Id of the learned judge."""
    audit: Mapping[str, Any] = Field(default_factory=dict)
    """Figures of the world model's audit by name, broken bounds, and whether it passed."""
    judge_trust: JudgeTrust | None = None
    """The judge's precision and recall on held-out dreams, by task."""
    judge_drift: JudgeDrift | None = None
    """Of the judge the job came with, against its own calibration; none where its checkpoint has none."""
    sight: Sight | None = None
    """On the policy that practised; none where none of its held-out episodes succeeded, or none failed."""
    horizon: int | None = None
    """Steps a dream could last; none is no cap."""
    overridden: Mapping[str, str] = Field(default_factory=dict)
    """What was not good enough and was ignored by an operator's decision, and why."""


class RewardPoint(JobRecord):
    """A point of a reward curve."""

    iteration: int
    """Update, from 1."""
    reward: float
    """Mean imagined reward of its rollouts."""


class PractisedResult(DreamResult):
    """What a job leaves behind that reinforced."""

    imagined_reward: tuple[RewardPoint, ...] = ()
    """The reward curve."""
