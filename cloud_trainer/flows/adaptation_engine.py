"""What an adaptation may cost, what it asks of whoever computes it, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from gymnast_core.adaptations import CapturedScene, ForgettingFigures
from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.cards import ResultCard
from gymnast_core.json_values import JsonObject


@dataclass(frozen=True)
class SceneRequest:
    """What is asked for when an adaptation begins; the policy is what the robot runs.

    Attributes:
        robot: its name.
        instruction: what it shall do there.
        scene: the robot's name for where it stands; empty is the trainer's usual.
        world_model, judge: checkpoint ids; empty takes the trainer's newest.
        seed: of everything random, the start states of real episodes included.
        config: settings of the training job, over the trainer's own.
        other_tasks: instructions on which the canary looks for harm; empty: what the robot was seen to succeed at.
        by: who asked; its jobs and the robot's orders are in that name.
    """

    robot: str
    instruction: str
    scene: str = ""
    world_model: str = ""
    judge: str = ""
    seed: int = 0
    config: JsonObject = field(default_factory=dict)
    other_tasks: Sequence[str] = ()
    by: str = ""

    def __post_init__(self) -> None:
        """Refuse requests that name no robot or say nothing, and seeds that are none."""
        if not self.robot.strip() or not self.instruction.strip():
            raise ConfigError("name a robot and say what it should do in this scene")
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, got {self.seed}")


@dataclass(frozen=True)
class Budget:
    """What an adaptation may cost; whichever is used up first ends training, and is named.

    The defaults let updates and rollouts decide, which do not depend on how fast or busy the machine is; seconds and
    money only cut off.

    Attributes:
        seconds: wall time of training.
        rollouts: imagined rollouts.
        money: in the currency of price_per_hour.
        price_per_hour: of the trainer.
    """

    seconds: float = 3600.0
    rollouts: int = 5000
    money: float = 5.0
    price_per_hour: float = 0.0

    def __post_init__(self) -> None:
        """Refuse budgets that allow nothing."""
        for name in ("seconds", "rollouts", "money"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"budget {name} must be positive, got {getattr(self, name)}")
        if self.price_per_hour < 0:
            raise ConfigError(f"price_per_hour must not be negative, got {self.price_per_hour}")


@dataclass(frozen=True)
class Practised:
    """What training came to.

    Attributes:
        candidate: checkpoint id so far; None if it was stopped before the first whole iteration.
        ended_by: the budget that ended it, e.g. "the time budget"; empty where it did all it was asked for.
    """

    candidate: str | None
    ended_by: str = ""


@dataclass(frozen=True)
class Trust:
    """Whether the world model may be believed in this scene.

    Attributes:
        ok: training may start.
        reason: why not, and what would help; empty when ok.
        figures: JSON values behind it.
    """

    ok: bool
    reason: str = ""
    figures: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class CanaryVerdict:
    """What the canary said.

    Attributes:
        keep: whether the declared rules let the candidate stay.
        card: JSON values of the trial's result card; its "guard" is the card of the other tasks' part.
        reason: in words; empty is the card's decision.
    """

    keep: bool
    card: ResultCard
    reason: str = ""


Emit = Callable[[str, JsonObject], None]
CLOSING = "closing"
Stop = Callable[[], bool]
Ended = Callable[[], str]
"""Why to end now, empty to go on. CLOSING: this process ends and another resumes; end nothing for good, but raise
ClosingError."""


class AdaptationEngine(Protocol):
    """What computes. Every method may take long and raise GymnastError; files it makes go into the given folder."""

    def check(self, request: SceneRequest) -> None:
        """Return if this can be begun.

        Raises:
            ConfigError: a checkpoint is not here, or a setting does not exist.
            NotTrustedError: it is known already that nothing it trains would be let through.
        """
        ...

    def begin(self, request: SceneRequest, folder: Path, emit: Emit, ended: Ended) -> None:
        """Return when nothing else changes what the robot runs (emits "waits" {reason}); at once if it began before.

        Raises:
            WithdrawnError: it was cancelled meanwhile.
            ClosingError: this process ends.
        """
        ...

    def capture(self, request: SceneRequest, folder: Path) -> CapturedScene:
        """Take start frames (start.webp in folder) of the scene; returns {scene, known_adapters}."""
        ...

    def trust(self, folder: Path, ended: Ended) -> Trust:
        """Check the world model against this scene."""
        ...

    def collect(self, robot: str, instruction: str, episodes: int, folder: Path) -> None:
        """Run a few real episodes here, after which trust() is asked again."""
        ...

    @property
    def modes(self) -> tuple[str, ...]:
        """What it can train: lora, full or both; the first is the usual one."""
        ...

    @property
    def price_per_hour(self) -> float:
        """What an hour of training costs here, in the currency that budgets are given in; 0 where nobody counts."""
        ...

    def train(self, mode: str, budget: Budget, folder: Path, emit: Emit, ended: Ended) -> Practised:
        """Train within the budget, which ended() watches too.

        Emits "iteration" {iteration, imagined_reward, rollouts} after every iteration and looks at ended() between
        iterations.
        """
        ...

    def check_forgetting(self, candidate: str, folder: Path) -> ForgettingFigures:
        """Compare old and new on other tasks; returns {before, after, tolerated, ok}."""
        ...

    def preview(self, candidate: str, folder: Path, ended: Ended) -> None:
        """Imagine old and new from this very frame: old.webp and new.webp (film strips) in folder."""
        ...

    def admit(self, candidate: str, robot: str, folder: Path, emit: Emit, ended: Ended) -> str:
        """Gate the candidate where its robot asks for that (emits "gate"), and offer it; returns why not, if so.

        Raises:
            ClosingError: this process ends.
            JobEndedError: the gate failed to run, or was cancelled.
        """
        ...

    def canary(self, candidate: str, robot: str, folder: Path, emit: Emit, stop: Stop) -> CanaryVerdict:
        """Try it on the arm against the running one by declared sequential rules: a gain here, no harm elsewhere."""
        ...

    def keep(self, candidate: str, robot: str, folder: Path) -> None:
        """Make it the adapter of this scene."""
        ...

    def revert(self, candidate: str, robot: str, folder: Path) -> None:
        """Make sure the robot runs what it ran before."""
        ...
