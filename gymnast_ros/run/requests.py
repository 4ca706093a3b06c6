"""What the robot's nodes may be asked: one model per operation; gymnast_ros.run.codec has them on the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationInfo,
    model_validator,
)

from gymnast_core.episodes.messages import MAX_ANNOTATION_CHARACTERS
from gymnast_core.evaluation.attempts import Retry
from gymnast_core.evaluation.purpose import PURPOSES, TRIALS
from gymnast_core.practice import PracticeAsked
from gymnast_core.sampling import Temperature, require_sampled
from gymnast_ros.run.operator import LABELS

ROLLOUT, BRIDGE = "rollout", "bridge"
MOST_SEED = 2**53


def _one_of(values: Sequence[str]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in values:
            raise ValueError(f"must be one of {', '.join(values)}")
        return value

    return AfterValidator(check)


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return value


def _not_blinded(retry: Retry | None, info: ValidationInfo) -> Retry | None:
    if retry is not None and (purpose := info.data.get("purpose")) in TRIALS:
        raise ValueError(f"a run of a blinded comparison (purpose {purpose!r}) counts as it went: it has no retry")
    return retry


Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]
Purpose = Annotated[str, _one_of(PURPOSES)]
Words = Annotated[str, AfterValidator(_not_blank)]
By = Annotated[str, StringConstraints(max_length=200)]
OrderedBy = Annotated[str, StringConstraints(max_length=1000)]
Resume = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_-]{0,64}$"),
    Field(
        description="a name for what is asked: asked again by it, after a restart too, the robot goes on where it was"
    ),
]
Json = dict[str, JsonValue]
RetryOfPurpose = Annotated[
    Retry | None, AfterValidator(_not_blinded),
    Field(description="{judge, max}: after a failure by that judge the arm goes home and tries again"),
]  # fmt: skip


class Request(BaseModel):
    """One operation with its arguments; an unknown one is refused by name.

    Attributes:
        operation: its name, as the service of the same name.
        node: the node that does it.
        marked: whether it is done only for whoever holds the graph's key: it speaks to the trainer in the robot's name,
            or changes which policy drives.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)
    operation: ClassVar[str]
    node: ClassVar[str]
    marked: ClassVar[bool] = False


class Sampled(Request):
    """An operation in which a policy may be sampled."""

    temperature_seed: Annotated[
        int, Field(ge=-1, le=MOST_SEED, description="negative is greedy; else seeds the sampling")
    ] = -1
    temperature: Annotated[
        Temperature | None, Field(description="of the policy's sampling; none is the policy's own")
    ] = None

    @model_validator(mode="after")
    def _sampled(self) -> Sampled:
        require_sampled(self.temperature, self.temperature_seed)
        return self


class RunEpisode(Sampled):
    """One episode on the arm."""

    operation, node = "run_episode", ROLLOUT
    instruction: Annotated[Words, Field(description="what to do, or a task's name")]
    seed: Annotated[Seed, Field(description="start state")]
    scene: Annotated[str, Field(description="look of the simulated world")] = "standard"
    checkpoint: Annotated[
        str,
        Field(
            description="id in the store, folder, 'replay:FILE', or where one runs: 'remote:HOST:PORT', "
            "'openpi://HOST:PORT'; empty: the one in force"
        ),
    ] = ""
    record: Annotated[bool, Field(description="write episodes to the spool")] = True
    purpose: Annotated[
        Purpose, Field(description="rides in the recordings' metadata; says whether they may be learned from")
    ] = "collect"
    retry: RetryOfPurpose = None
    ordered_by: Annotated[
        OrderedBy, Field(description="in whose name, and what ends it; empty: somebody at the robot")
    ] = ""
    resume: Resume = ""


class Evaluate(Sampled):
    """Checkpoints compared from the same start states."""

    operation, node = "evaluate", ROLLOUT
    tasks: Annotated[tuple[Words, ...], Field(min_length=1, description="instructions or task names, at least one")]
    seed_start: Annotated[Seed, Field(description="first start state")]
    seed_count: Annotated[int, Field(ge=1, le=1_000_000, description="start states per task")]
    checkpoints: Annotated[
        tuple[str, ...], Field(description="ids or folders compared from the same starts; empty: the one in force")
    ] = ()
    scene: str = "standard"
    record: bool = False
    purpose: Purpose = "evaluate"
    episode_ids: Annotated[
        str, Field(description="first part of the recordings' ids, task and seed follow; empty gives fresh ones")
    ] = ""
    retry: RetryOfPurpose = None
    ordered_by: OrderedBy = ""
    resume: Resume = ""


class Practise(Request, PracticeAsked):
    """A task and the one that undoes it, in turns, each begun where the other ended, until the hours are over."""

    operation, node = "practise", ROLLOUT
    ordered_by: OrderedBy = ""


class GoOnPractising(Request):
    """A person at the robot has done what its practice run waits for; the arm moves again."""

    operation, node = "go_on_practising", ROLLOUT
    marked = True
    by: Annotated[Words, By, Field(description="who has looked after it")] = "operator"


class Cancel(Request):
    """End what the rollout node runs after its present step."""

    operation, node = "cancel", ROLLOUT


class Label(Request):
    """Label, or discard, the episode that waits for it."""

    operation, node = "label", ROLLOUT
    label: Annotated[str, _one_of(LABELS), Field(description="of the episode that waits for it")]
    labelled_by: Annotated[By, Field(description="labels and annotates in this name")] = "operator"


class Annotate(Request):
    """Note something at this moment of the episode that is being recorded."""

    operation, node = "annotate", ROLLOUT
    text: Annotated[
        Words, StringConstraints(max_length=MAX_ANNOTATION_CHARACTERS),
        Field(description=f"words or tags noted at that moment, 1 to {MAX_ANNOTATION_CHARACTERS} characters"),
    ]  # fmt: skip
    by: By = "operator"


class Swap(Request):
    """Put a staged checkpoint in force from the next episode on."""

    operation, node = "swap", BRIDGE
    marked = True
    checkpoint_id: Annotated[str, Field(description="a staged one; empty is the newest")] = ""
    probation_episodes: Annotated[
        int | None, Field(ge=0, le=10_000, description="good episodes it then needs; none is the robot's setting")
    ] = None


class Attach(Request):
    """Have a staged checkpoint drive in one scene, which its first image shows; the base drives everywhere else."""

    operation, node = "attach", BRIDGE
    marked = True
    checkpoint_id: Annotated[Words, Field(description="a staged one")]
    scene: Annotated[By, Field(description="a name for people")]
    recogniser: Annotated[Json, Field(description="of the scene: gymnast_core.evaluation.recognition")]
    probation_episodes: Annotated[
        int | None, Field(ge=0, le=10_000, description="good episodes it needs there; none is the robot's setting")
    ] = None


class Detach(Request):
    """Have the base drive again where an adapter did."""

    operation, node = "detach", BRIDGE
    marked = True
    checkpoint_id: Annotated[Words, Field(description="an attached one")]


class Rollback(Request):
    """Return to the checkpoint before."""

    operation, node = "rollback", BRIDGE
    marked = True
    current: Annotated[
        str, Field(description="what is in force; refused where it is not any more, so that none is gone back twice")
    ] = ""


class SubmitJob(Request):
    """Submit a job to the trainer and follow it to its end."""

    operation, node = "submit_job", BRIDGE
    marked = True
    kind: Words
    spec: Json
    key: Annotated[Words, Field(description="the same key never starts a second job")]


class CancelJob(Request):
    """Ask the trainer to end a job."""

    operation, node = "cancel_job", BRIDGE
    marked = True
    job_id: Words


class Flush(Request):
    """Wait until the trainer has acknowledged every episode."""

    operation, node = "flush", BRIDGE
    timeout_s: Annotated[float, Field(ge=0.1, le=3600.0, description="longest wait for an empty spool")] = 120.0


class TrainHere(Request):
    """Adapt the policy to what stands before the robot now; a second one lets the candidate onto the arm."""

    operation, node = "test_time_train", BRIDGE
    marked = True
    instruction: Annotated[Words, Field(description="what the arm shall do here; a task's name will do")]
    scene: Annotated[str, Field(description="name of the scene it stands in; empty is the trainer's usual")] = ""
    collect: Annotated[
        int, Field(ge=0, le=1000, description="real episodes at most, where the trust check asks for them")
    ] = 40
    minutes: Annotated[float, Field(ge=0.01, le=1440.0, description="the practice is cut off after so long")] = 60.0
    rollouts: Annotated[int, Field(ge=1, le=10**9, description="budget in imagined rollouts")] = 5000
    money: Annotated[float, Field(ge=0.01, le=1e6, description="budget in the trainer's currency")] = 5.0
    mode: Annotated[
        Literal["", "full", "lora"],
        Field(description="the whole policy, or a small adapter; empty is the trainer's usual"),
    ] = ""
    approve: Annotated[bool, Field(description="let the candidate onto the arm unasked, for its canary")] = False
    seed: Annotated[Seed, Field(description="of everything random")] = 0
    config: Annotated[Json, Field(description="JSON settings of the training job")] = {}
    world_model: Annotated[str, Field(description="checkpoint id; empty is the trainer's newest")] = ""
    judge: Annotated[str, Field(description="checkpoint id; empty is the trainer's newest")] = ""


class CancelTrainHere(Request):
    """End the adaptation under way at its next whole step."""

    operation, node = "cancel_test_time_train", BRIDGE


KINDS: Mapping[str, type[Request]] = {
    kind.operation: kind
    for kind in (
        RunEpisode, Evaluate, Practise, GoOnPractising, Cancel, Label, Annotate, Swap, Attach, Detach, Rollback,
        SubmitJob, CancelJob, Flush, TrainHere, CancelTrainHere,
    )
}  # fmt: skip
