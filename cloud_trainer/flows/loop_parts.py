"""What a loop asks of whoever computes and moves arms for it, and where its progress is seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict

from cloud_trainer.flows.adaptation_engine import CLOSING, Ended
from cloud_trainer.flows.arms import Errand, FlowRobot
from cloud_trainer.progress import ClosingError
from gymnast_core.errors import GymnastError
from gymnast_core.evaluation.cards import ResultCard
from gymnast_core.evaluation.sequential import SequentialRule
from gymnast_core.json_values import JsonObject, JsonValue

AGAIN_S = 20.0
"""Before another attempt of what failed."""
ATTEMPTS = 3
"""Of what fails, e.g. because the robot's network did."""
Advance = Callable[[int, int, str], None]
"""(done, total, note): what a step reports while it runs."""


class LoopStoppedError(GymnastError):
    """Somebody stopped the loop; the message says who. It may be started again and goes on where it was."""


def go_on(ended: Ended, step: str) -> None:
    """Return unless the loop ends here.

    Raises:
        ClosingError: this process ends.
        LoopStoppedError: somebody stopped the loop.
    """
    if (why := ended()) == CLOSING:
        raise ClosingError(f"step {step} waits for the next start")
    if why:
        raise LoopStoppedError(why)


class TrialStoppedError(GymnastError):
    """A trial ended without a decision; the message is its reason."""


class MadeCandidate(TypedDict, total=False):
    """A checkpoint that a round's training made; see gymnast_core.jobs.spec.Candidate."""

    id: str
    iteration: int


class TrainedRound(TypedDict, total=False):
    """What a loop reads of a training job's result; see gymnast_core.jobs.improve."""

    refused: str
    candidates: list[MadeCandidate]
    audit: JsonObject
    world_model: str
    judge: str
    judge_trust: JsonObject | None
    sight: JsonObject | None
    imagined_reward: JsonValue


class LoopEngine(Protocol):
    """What computes and moves a tenant's arms."""

    def connect(self, robot: str, errand: Errand) -> FlowRobot:
        """Return a started robot that takes orders, to give it some in somebody's name."""
        ...

    def begin(self, robots: Sequence[str], errand: Errand, ended: Ended, advance: Advance) -> None:
        """Return when nothing else changes what these robots run; at once if it began before.

        Raises:
            WithdrawnError: it was stopped meanwhile.
            ClosingError: this process ends.
        """
        ...

    def newest(self, kind: str) -> str:
        """Return the id of the trainer's newest world_model or judge.

        Raises:
            CheckpointError: it has none.
        """
        ...

    def require(self, policy: str) -> None:
        """Return if the trainer has this policy.

        Raises:
            ConfigError: it has not.
        """
        ...

    def check(self, job: JsonObject, world_model: str) -> None:
        """Return if a loop may train with these settings in a world model.

        Raises:
            NotPermittedError: they reach out of the trainer in a way that was not allowed.
            ConfigError: one does not exist, a value is not allowed, or the world model does not heed it.
        """
        ...

    def improve(self, spec: JsonObject, key: str, by: str, ended: Ended, advance: Advance) -> TrainedRound:
        """Run a training job (once per key) in somebody's name and return its result.

        Raises:
            NotTrustedError: it refused to train.
            JobEndedError: it failed or was cancelled.
            ClosingError: this process ends.
        """
        ...

    def asking(self, robots: Sequence[str]) -> list[str]:
        """Return those of these robots to which nothing is offered before it has passed its gate."""
        ...

    def admit(self, candidate: str, robots: Sequence[str], key: str, by: str, ended: Ended, advance: Advance) -> str:
        """Gate a candidate (once per key) and offer it to robots; returns why not, or an empty text.

        Raises:
            JobEndedError: the gate failed to run, or was cancelled.
            ClosingError: this process ends.
        """
        ...

    def try_out(self, asked: CanaryRequest, ended: Ended, advance: Advance) -> ResultCard:
        """Try a candidate (once per key) in a blinded trial and return its result card.

        Raises:
            TrialStoppedError: it was stopped, or the arm could not go on.
            ClosingError: this process ends.
        """
        ...


@dataclass(frozen=True)
class CanaryRequest:
    """A candidate to try on an arm.

    Attributes:
        robot: its name.
        candidate: checkpoint id, offered to the robot.
        incumbent: checkpoint id.
        tasks: that take turns, pair by pair.
        scene: where it stands.
        rule: declared before the first run.
        key: the same key is the same trial, e.g. after a restart.
        by: in whose name, see Errand.
    """

    robot: str
    candidate: str
    incumbent: str
    tasks: tuple[str, ...]
    scene: str
    rule: SequentialRule
    key: str
    by: str


class Shows(Protocol):
    """Where a loop's progress is seen."""

    def step(self, name: str) -> None:
        """A step begins."""
        ...

    def advance(self, done: int, total: int, note: str) -> None:
        """See Advance."""
        ...

    def wait(self, seconds: float) -> bool:
        """Wait before another attempt; returns early, True, where the loop ends."""
        ...
