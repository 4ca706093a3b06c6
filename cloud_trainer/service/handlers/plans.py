"""Plans to look at before anything moves: from what a robot sees now, or from where an episode began."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from cloud_trainer.service.handlers.checkpoints import CheckpointHandlers
from cloud_trainer.service.handlers.jobs import JobHandlers
from cloud_trainer.service.handlers.robots import RobotHandlers
from cloud_trainer.store.protocols import JobRow
from cloud_trainer.world_model.capabilities import knows_camera, makes_plans
from gymnast_core.authority import Who, authorise
from gymnast_core.errors import NotPossibleError
from gymnast_core.jobs import PlanSpec


@dataclass(frozen=True)
class PlanRequest:
    """What is asked for.

    Attributes:
        planner: checkpoint; empty is the newest that there is.
        instruction: what the arm should do.
        robot: plan from what it sees now; empty plans from an episode.
        episode: id; its first frame is where the plan begins.
        best_of: plans to choose from; None is as usual.
        seed: of the plans.
        world_model: checkpoint that knows the camera, see PlanSpec.
    """

    planner: str
    instruction: str
    robot: str = ""
    episode: str = ""
    best_of: int | None = None
    seed: int = 0
    world_model: str = ""


class PlanHandlers:
    """See the module.

    Args:
        jobs: where plans are made, in a worker.
        robots: what they see.
        checkpoints: planners are among them.
    """

    def __init__(self, jobs: JobHandlers, robots: RobotHandlers, checkpoints: CheckpointHandlers) -> None:
        self._jobs, self._robots, self._checkpoints = jobs, robots, checkpoints

    def planners(self, who: Who) -> list[str]:
        """Return the ids of what makes plans here, the newest first."""
        known = self._checkpoints.all(who)
        return [name for name, one in known.items() if one.manifest.kind == "world_model" and makes_plans(one.manifest)]

    def cameras(self, who: Who) -> list[str]:
        """Return the ids of world models that know their camera, the newest first."""
        known = self._checkpoints.all(who)
        return [name for name, one in known.items() if knows_camera(one.manifest)]

    def begin(self, who: Who, asked: PlanRequest, *, key: str) -> JobRow:
        """Have a plan made; a robot's picture is the one that it reported last.

        Args:
            who: asks.
            asked: for what.
            key: the same never makes a second plan.

        Raises:
            NotPossibleError: the robot shows no picture or an old one, or there is no planner here.
            ConfigError: neither robot nor episode, or a value is not allowed.
            NotFoundError: no such planner or episode.
        """
        authorise(who, "submit")
        planner = asked.planner or next(iter(self.planners(who)), "")
        if not planner:
            raise NotPossibleError(
                "this trainer has no planner: gymnast wm train-planner EPISODES --out FOLDER, then gymnast serve "
                "--import FOLDER"
            )
        values = {"planner": planner, "instruction": asked.instruction, "seed": asked.seed, "episode": asked.episode,
                  "world_model": asked.world_model}  # fmt: skip
        if asked.robot:
            picture = base64.b64encode(self._robots.sees(who, asked.robot)).decode()
            values |= {"robot": asked.robot, "picture": picture}
        if asked.best_of is not None:
            values["best_of"] = asked.best_of
        return self._jobs.submit(who, PlanSpec.kind, PlanSpec.model_validate(values).to_json(), key)
