"""Adaptations to a scene: begun, followed and decided, by operators and by robots for themselves."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from cloud_trainer.flows.adaptation_engine import Budget, SceneRequest
from cloud_trainer.flows.scene_adaptation import SceneAdaptation, new_adaptation_id
from cloud_trainer.records.trail import Trails, overrides_in
from cloud_trainer.service.handlers.flows import Flows
from cloud_trainer.service.handlers.robots import RobotHandlers
from cloud_trainer.service.pace import RobotPace
from gymnast_core.authority import Who, authorise
from gymnast_core.errors import ConfigError
from gymnast_core.wire.errors import NotFoundError, NotPermittedError

ROBOT_STEPS = ("collect", "train", "approve", "cancel")
"""Of an adaptation that a robot began itself, by its certificate; everything else is for operators."""
PICTURES = ("start", "old", "new")
USUAL = Budget()
USUAL_EPISODES = 10
MOST_NUMBER = 2.0**53
_TEXT = 400
"""Characters of a value that are written down."""


class AdaptationHandlers:
    """See the module.

    Args:
        flows: of the trainer.
        robots: whether one may be ordered about.
        trails: where actions are written down.
        pace: how often a robot may begin one.
    """

    def __init__(self, flows: Flows, robots: RobotHandlers, trails: Trails, pace: RobotPace) -> None:
        self._flows, self._robots, self._trails, self._pace = flows, robots, trails, pace

    def all(self, who: Who) -> list[SceneAdaptation]:
        """Return the adaptations the caller may follow, newest first: a robot its own alone."""
        authorise(who, "follow")
        found = self._flows.adaptations.of(who.tenant)
        return [flow for flow in found if who.role != "robot" or flow.view.robot == who.name]

    def find(self, who: Who, adaptation_id: str) -> SceneAdaptation:
        """Return one of these.

        Raises:
            NotFoundError: there is none of this id, or it is another tenant's or another robot's.
        """
        flow = self._flows.adaptations.get(who.tenant, adaptation_id)
        if flow not in self.all(who):
            raise NotFoundError(f"there is no adaptation {adaptation_id!r} of {who.name}; choose one from the list")
        return flow

    def paused(self, who: Who, flow: SceneAdaptation) -> str:
        """Return what holds an adaptation up; empty when nothing does."""
        return "" if flow.view.stage.over else self._robots.paused(who, flow.view.robot)

    def behind(self, who: Who, robot: str) -> list[str]:
        """Return the loops and adaptations that another adaptation of a robot would wait for, and who asked."""
        authorise(who, "look")
        return self._flows.changing(who.tenant, robot)

    def modes(self, who: Who) -> tuple[str, ...]:
        """Return what this trainer can train for the caller's tenant; the first is the usual one."""
        return self._flows.adaptations.modes(who.tenant)

    def price_per_hour(self, who: Who) -> float:
        """Return what an hour of training costs here; 0 where nobody counts."""
        return self._flows.adaptations.price_per_hour(who.tenant)

    def begin(self, who: Who, request: SceneRequest) -> SceneAdaptation:
        """Begin test-time training, behind other flows that change what the robot runs. A robot may adapt itself.

        Raises:
            NotPossibleError: the robot cannot be ordered about, or is busy.
            ConfigError: what is asked for is not here.
        """
        authorise(who, "adapt its own")
        robot = request.robot
        if who.role == "robot" and who.name != robot:
            raise NotPermittedError(f"robot {who.name!r} may have itself adapted alone, not {robot!r}")
        self._robots.ready(who, robot)
        self._pace.take(who)
        adaptation_id = new_adaptation_id()
        asked = {"adaptation": adaptation_id, "robot": robot, "instruction": request.instruction}
        asked |= overrides_in(request.config)
        with self._trails.of(who.tenant).acting(who, "adapt", asked):
            return self._flows.adaptations.start(who.tenant, request, by=who.name, adaptation_id=adaptation_id)

    def collect(self, who: Who, adaptation_id: str, revision: int, *, episodes: int | None = None) -> SceneAdaptation:
        """Refused: run a few real episodes there, then check trust again; None is the usual number."""
        flow = self._allowed(who, adaptation_id, "collect")
        episodes = USUAL_EPISODES if episodes is None else episodes
        with self._acting(who, flow, "collect", {"episodes": episodes}):
            flow.collect(revision, episodes=episodes, by=who.name)
        return flow

    def train(
        self, who: Who, adaptation_id: str, revision: int, *, minutes: float | None = None,
        rollouts: int | None = None, money: float | None = None, mode: str = "",
    ) -> SceneAdaptation:  # fmt: skip
        """Ready: practise within a budget, of which None is as usual; an empty mode is the trainer's first."""
        flow = self._allowed(who, adaptation_id, "train")
        asked = {"minutes": minutes, "rollouts": rollouts, "money": money, "mode": mode[:_TEXT] or None}
        for name in ("minutes", "rollouts", "money"):
            value = asked[name]
            if isinstance(value, (int, float)) and not abs(value) < MOST_NUMBER:  # NaN is not below anything either
                raise ConfigError(f"{name} must be a number below {MOST_NUMBER:g}, got {value}")
        with self._acting(who, flow, "train", {name: value for name, value in asked.items() if value is not None}):
            budget = Budget(
                USUAL.seconds if minutes is None else 60.0 * minutes,
                USUAL.rollouts if rollouts is None else rollouts,
                USUAL.money if money is None else money,
                self.price_per_hour(who),
            )
            flow.train(revision, budget=budget, mode=mode or self.modes(who)[0], by=who.name)
        return flow

    def reuse(self, who: Who, adaptation_id: str, revision: int, *, adapter: str) -> SceneAdaptation:
        """Ready or refused: try the adapter that was kept for this scene before."""
        flow = self._allowed(who, adaptation_id, "reuse")
        with self._acting(who, flow, "reuse", {"adapter": adapter[:_TEXT]}):
            flow.reuse(revision, adapter=adapter, by=who.name)
        return flow

    def approve(self, who: Who, adaptation_id: str, revision: int) -> SceneAdaptation:
        """Preview: let the candidate onto the arm, as a canary."""
        flow = self._allowed(who, adaptation_id, "approve")
        with self._acting(who, flow, "approve", {}):
            flow.approve(revision, by=who.name)
        return flow

    def reject(self, who: Who, adaptation_id: str, revision: int) -> SceneAdaptation:
        """Preview: do not let it onto the arm."""
        flow = self._allowed(who, adaptation_id, "reject")
        with self._acting(who, flow, "reject", {}):
            flow.reject(revision, by=who.name)
        return flow

    def cancel(self, who: Who, adaptation_id: str) -> SceneAdaptation:
        """Stop at the next whole iteration, pair or collection, whatever was decided meanwhile."""
        flow = self._allowed(who, adaptation_id, "cancel")
        with self._acting(who, flow, "cancel", {}):
            flow.cancel(by=who.name)
        return flow

    def picture(self, who: Who, adaptation_id: str, name: str) -> Path:
        """Return the file of a picture the engine left: one of PICTURES.

        Raises:
            NotFoundError: there is none of this name yet.
        """
        authorise(who, "look")
        path = self.find(who, adaptation_id).folder / f"{name}.webp"
        if name not in PICTURES or not path.exists():
            raise NotFoundError(f"there is no picture {name!r} yet")
        return path

    def _allowed(self, who: Who, adaptation_id: str, step: str) -> SceneAdaptation:
        """Operators may do everything; a robot some steps of an adaptation that it began itself."""
        flow = self.find(who, adaptation_id)
        if who.role != "robot":
            authorise(who, "adapt")
        elif step not in ROBOT_STEPS or flow.view.started_by != who.name:
            raise NotPermittedError(
                f"robot {who.name!r} may do {', '.join(ROBOT_STEPS)} of adaptations that it began itself, not "
                f"{step!r} of one begun by {flow.view.started_by!r}; an operator may"
            )
        return flow

    def _acting(
        self, who: Who, flow: SceneAdaptation, step: str, form: Mapping[str, object]
    ) -> AbstractContextManager[None]:
        asked = {"adaptation": flow.view.adaptation_id, "form": dict(form)}
        return self._trails.of(who.tenant).acting(who, f"adapt: {step}", asked)
