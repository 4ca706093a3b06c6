"""A planner as a policy: plan, let a judge look, keep the best of several, play it through the arm's gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, model_validator

from cloud_trainer.judge.choice import read_judge
from cloud_trainer.practice.imagine import RecordedActions, imagine_from, join_rollouts
from cloud_trainer.world_model.planner.choice import load_planner
from cloud_trainer.world_model.planner.plans import Planner, VideoPlans
from cloud_trainer.world_model.starts import StartState
from cloud_trainer.world_model.worlds import World, load_world
from gymnast_core.errors import ConfigError, ContractError
from gymnast_core.images import area_downsample
from gymnast_core.judge import Judge, Verdict
from gymnast_core.settings import Count, Seed, Settings, settings_in
from gymnast_core.spec import RobotSpec
from gymnast_core.types import ActionChunk, FloatArray, IntArray, Observation, RolloutBatch

FolderName = Annotated[Path, Field(strict=False)]


class PlanSettings(Settings):
    """How plans are made, judged and played; a .json or .toml file names a plan policy by them."""

    where: ClassVar[str] = "plan"

    planner: FolderName
    """Checkpoint of a planner (`gymnast wm train-planner`)."""
    judge: FolderName | None = None
    """Checkpoint of a judge, or a settings file; it chooses among several plans."""
    world_model: FolderName | None = None
    """Checkpoint of a world model: the judge looks at a plan's actions done in it; none looks at the plan."""
    best_of: Annotated[int, Field(ge=1, le=256)] = 1
    """Plans to choose from."""
    play: Count | None = None
    """Steps of a plan that are played before the next is made; none is all of it."""
    seed: Seed = 0
    """Of the plans."""

    @model_validator(mode="after")
    def _chooses(self) -> PlanSettings:
        if self.best_of > 1 and self.judge is None:
            raise ConfigError(f"plan: best_of={self.best_of} needs a judge to choose; name one, or ask for 1")
        if self.world_model is not None and self.judge is None:
            raise ConfigError("plan: world_model shows a judge what becomes of a plan; name a judge, too")
        return self


@dataclass(frozen=True)
class ChosenPlans:
    """The best plan of each row.

    Attributes:
        plans: one a row.
        scores_BN: (B, N) float32, the judge's of every plan that there was; NaN where it could not look.
        best_B: (B,) int64, which it was.
    """

    plans: VideoPlans
    scores_BN: FloatArray
    best_B: IntArray


class PlanPolicy:
    """Keeps gymnast_core.policy.Policy.

    Args:
        planner: makes plans.
        judge: chooses; None takes the first.
        world: where the judge sees a plan's actions done; None shows it the plan itself.
        best_of: plans to choose from.
        play: steps of a plan that are played before the next is made; None is all.
        seed: of the plans; a policy that is asked with an rng draws its own.

    Raises:
        ConfigError: a plan has not so many steps, or there is nobody to choose.
    """

    def __init__(
        self, planner: Planner, *, judge: Judge | None = None, world: World | None = None, best_of: int = 1,
        play: int | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        if play is not None and not 1 <= play <= planner.steps:
            raise ConfigError(f"plan: play={play} steps of a plan of {planner.steps}; at most {planner.steps}")
        if best_of > 1 and judge is None:
            raise ConfigError(f"plan: best_of={best_of} needs a judge to choose")
        self._planner, self._judge, self._world = planner, judge, world
        self._best_of, self._play, self._seed = best_of, play or planner.steps, seed

    @property
    def version(self) -> str:
        """Of the planner; how many plans it chooses from follows."""
        return f"{self._planner.version}-best{self._best_of}" if self._best_of > 1 else self._planner.version

    @property
    def robot(self) -> RobotSpec:
        """The arm that its plans are for."""
        return self._planner.robot

    @property
    def chunk_length(self) -> int:
        """Steps that are played of a plan."""
        return self._play

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Plan for each row and return the beginning of the best; without an rng the same for the same picture."""
        if len(instruction) != observation.batch_size:
            raise ContractError(f"{len(instruction)} instructions for {observation.batch_size} rows; pass one per row")
        seed = self._seed if rng is None else int(rng.integers(2**31))
        chosen = self.choose(observation, instruction, seed=seed)
        return ActionChunk(np.ascontiguousarray(chosen.plans.actions_BTA[:, : self._play]), self.version)

    def choose(self, observation: Observation, instruction: Sequence[str], *, seed: int) -> ChosenPlans:
        """Return the best plan of each row, and what was thought of all."""
        rows, count = observation.batch_size, self._best_of
        seeds = [(seed, n) for n in range(count)]
        frames = area_downsample(observation.frames_of(""), self._planner.image_size)
        plans = VideoPlans.joined(  # row by row: a matrix product rounds differently in another batch
            [
                self._planner.plan(np.repeat(frames[row : row + 1], count, axis=0), [text] * count, seeds)
                for row, text in enumerate(instruction)
            ]
        )
        if self._judge is None:
            return ChosenPlans(plans, np.full((rows, 1), np.nan, np.float32), np.zeros(rows, np.int64))
        looked = plans.as_rollouts()
        if self._world is not None:
            looked = self._done(plans, np.repeat(observation.proprio_BP, count, axis=0), self._world, seed)
        scores = _scores(self._judge.judge(looked)).reshape(rows, count)
        best = np.argmax(np.nan_to_num(scores, nan=-1.0), axis=1)
        taken = np.arange(rows) * count + best
        kept = replace(
            plans, instructions=tuple(instruction), frames_BFHWC=plans.frames_BFHWC[taken],
            actions_BTA=plans.actions_BTA[taken],
        )  # fmt: skip
        return ChosenPlans(kept, scores, best)

    @staticmethod
    def _done(plans: VideoPlans, poses_BP: FloatArray, world: World, seed: int) -> RolloutBatch:
        """What becomes of plans in a world model; poses are measured, and a plan begins an episode there."""
        steps = plans.actions_BTA.shape[1]
        frames = area_downsample(plans.frames_BFHWC[:, 0], world.image_size)
        starts = [
            StartState(frame, frame, pose, text, 0, f"plan-{row}", steps)
            for row, (frame, pose, text) in enumerate(zip(frames, poses_BP, plans.instructions, strict=True))
        ]
        most, parts = world.batch_size or len(starts), []
        for rows in (slice(low, low + most) for low in range(0, len(starts), most)):
            recorded = RecordedActions(plans.actions_BTA[rows], plans.planner)
            parts.append(imagine_from(world, starts[rows], recorded, seed=seed + rows.start))
        return join_rollouts(parts)


def open_plan_policy(settings: PlanSettings) -> PlanPolicy:
    """Return a plan policy by its settings.

    Raises:
        ConfigError: the planner takes no words, or the world model no actions of its arm; a setting does not fit.
        CheckpointError: a folder is no such checkpoint, or altered.
    """
    planner = load_planner(settings.planner)
    world = None if settings.world_model is None else load_world(settings.world_model, robot=planner.robot)
    return PlanPolicy(
        planner, judge=None if settings.judge is None else read_judge(settings.judge), world=world,
        best_of=settings.best_of, play=settings.play, seed=settings.seed,
    )  # fmt: skip


def plan_policy_in(path: Path) -> PlanPolicy:
    """Return the plan policy that a settings file names; folders in it are relative to the file.

    Raises:
        ConfigError: unreadable, or see open_plan_policy().
    """
    values = dict(settings_in(path, "plan policy"))
    for name in ("planner", "judge", "world_model"):
        if isinstance(values.get(name), str):
            values[name] = path.parent / values[name]
    return open_plan_policy(PlanSettings.model_validate(values))


def _scores(verdicts: Sequence[Verdict]) -> FloatArray:
    return np.array([verdict.score for verdict in verdicts], np.float32)
