"""The queue of a robot: kinds of entries, their states and priorities, and what may be asked for; on both sides."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from gymnast_core.episodes.messages import MAX_INSTRUCTION_CHARACTERS, checked_id
from gymnast_core.errors import ConfigError, ContractError
from gymnast_core.evaluation.attempts import Retry
from gymnast_core.sampling import Temperature, require_sampled
from gymnast_core.settings import Settings

QueueKind = Literal["episode", "evaluation", "practice", "trial", "adaptation", "loop"]
ADDED: tuple[QueueKind, ...] = ("episode", "evaluation", "practice")
"""What people add; the others come from flows, which hold the robot step by step."""
QueueState = Literal["waiting", "running", "done", "failed", "cancelled"]
OPEN_STATES: tuple[QueueState, ...] = ("waiting", "running")
PRIORITIES = range(10)
"""Higher goes first; of one priority, what was asked for first."""
USUAL_PRIORITY = 5
MOST_ROBOTS, MOST_TASKS, MOST_STARTS = 64, 32, 10_000
MOST_SEED = 2**53


class StartsSpec(Settings):
    """Episodes from a range of start states, each task from all of them; robots that share an entry split the range."""

    where: ClassVar[str] = "entry"

    tasks: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1, max_length=MAX_INSTRUCTION_CHARACTERS)], ...],
        Field(strict=False, min_length=1, max_length=MOST_TASKS),
    ]
    """Names or instructions."""
    seed_start: Annotated[int, Field(ge=0, le=MOST_SEED)]
    """First start state."""
    seed_count: Annotated[int, Field(ge=1, le=MOST_STARTS)]
    """Start states; each task is run from all of them."""
    checkpoint: str = ""
    """Id; empty is the one that all robots of the entry run when it is added."""
    scene: Annotated[str, StringConstraints(max_length=MAX_INSTRUCTION_CHARACTERS)] = "standard"
    """The robots' name for where they stand."""
    temperature_seed: Annotated[int, Field(ge=-1, le=MOST_SEED)] = -1
    """Of the policy's sampling; -1 is greedy."""
    temperature: Temperature | None = None
    """At which it is sampled; None is the policy's own."""
    record: bool = True
    """Keep recordings of the episodes."""
    retry: Retry | None = None
    """After a failure by the trainer's judge go home and try again; the entry's result counts first attempts alone."""

    @model_validator(mode="after")
    def _possible(self) -> StartsSpec:
        try:
            require_sampled(self.temperature, self.temperature_seed)
        except ValueError as error:
            raise ConfigError(f"entry: {error}") from None
        blank = [task for task in self.tasks if not task.strip()]
        names = [task.strip().lower() for task in self.tasks]
        if blank or len(set(names)) < len(names):
            raise ConfigError(f"entry: tasks {list(self.tasks)!r:.200}: name each task once, none of them blank")
        if len(self.tasks) * self.seed_count > MOST_STARTS:
            raise ConfigError(
                f"entry: {len(self.tasks)} tasks from {self.seed_count} start states are "
                f"{len(self.tasks) * self.seed_count} episodes; at most {MOST_STARTS} go into one entry, add several"
            )
        if self.seed_start + self.seed_count > MOST_SEED:
            raise ConfigError(f"entry: seed_start {self.seed_start} and {self.seed_count} more go beyond {MOST_SEED}")
        if self.checkpoint:
            try:
                checked_id(self.checkpoint, "entry: checkpoint")
            except ContractError as error:
                raise ConfigError(f"{error}; name a checkpoint of the trainer") from error
        return self

    @property
    def episodes(self) -> int:
        """How many it comes to."""
        return len(self.tasks) * self.seed_count


def checked_priority(value: int) -> int:
    """Return a priority that is one.

    Raises:
        ConfigError: it is none.
    """
    if value not in PRIORITIES:
        raise ConfigError(f"priority must be {PRIORITIES[0]} to {PRIORITIES[-1]} (first), got {value}")
    return value
