"""What every job says of itself when it is asked for, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from gymnast_core.settings import Says, Seed, Settings, Texts

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

    policy: Annotated[str, Field(min_length=1), Says("a checkpoint's id")]
    """Checkpoint to start from (`gymnast weights list`)."""
    world_model: str = ""
    """Checkpoint; empty is the trainer's newest."""
    judge: str = ""
    """Checkpoint of a learned judge; empty is the trainer's newest."""
    seed: Seed = 0
    """Of everything random in this job."""

    @property
    def named_episodes(self) -> tuple[str, ...]:
        """Ids of episodes that the job names and that must be at the trainer."""
        return ()


class TrainingSpec(JobSpec):
    """A job that trains a policy and leaves candidates."""

    mode: Literal["full", "lora"] = "full"
    """What of the policy is trained: what its checkpoint is, or a fresh adapter that travels without its parent."""
    offer_to: Texts = ()
    """Robots that the candidates are offered to at once; without any, somebody offers them on their page."""


class JobRecord(BaseModel):
    """Part of what a job leaves behind. Unknown fields are ignored: a newer trainer may add some."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    def to_json(self) -> dict[str, Any]:
        """Return what was measured as JSON values."""
        return self.model_dump(exclude_unset=True)


class JobResult(JobRecord):
    """What every job leaves behind."""

    register_folders: tuple[str, ...] = Field(default=(), alias="register")
    """Folders of checkpoints that the trainer keeps beside the candidates."""
    episodes: int = 0
    """Recorded episodes that were learned from."""
    folder: str = ""
    """Of the job, at the trainer."""


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
    other_tasks: Mapping[str, Any] | None = None
    """Imagined success on every task beside the parent's, see Forgetting; reported, decides nothing."""


class RewardPoint(JobRecord):
    """A point of a reward curve."""

    iteration: int
    """Update, from 1."""
    reward: float
    """Mean imagined reward of its rollouts."""


class TrainingResult(JobResult):
    """What a training job leaves behind."""

    candidates: tuple[Candidate, ...] = ()
    """In order of iteration."""


class DreamResult(TrainingResult):
    """What a job leaves behind that practised in a dream."""

    world_model: str = ""
    """Id of the world model that was practised in."""
    judge: str = ""
    """Id of the learned judge."""
    audit: Mapping[str, Any] = Field(default_factory=dict)
    """Figures of the world model's audit by name, broken bounds, and whether it passed."""
    judge_trust: Mapping[str, Any] = Field(default_factory=dict)
    """The judge's precision and recall on held-out dreams, by task."""
    judge_drift: Mapping[str, Any] | None = None
    """Of the judge the job came with, against its own calibration; none where its checkpoint has none."""
    horizon: int | None = None
    """Steps a dream could last; none is no cap."""
    overridden: Mapping[str, str] = Field(default_factory=dict)
    """What was not good enough and was ignored by an operator's decision, and why."""
