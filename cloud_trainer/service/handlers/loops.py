"""Unattended loops: begun, seen and stopped by people, on a robot that may be ordered about."""

from __future__ import annotations

from cloud_trainer.flows.loop_view import LoopView
from cloud_trainer.records.trail import Trails
from cloud_trainer.service.handlers.flows import Flows
from cloud_trainer.service.handlers.robots import RobotHandlers
from gymnast_core.authority import Who, authorise
from gymnast_core.errors import ConfigError
from gymnast_core.loop_config import LoopConfig


class LoopHandlers:
    """See the module.

    Args:
        flows: of the trainer.
        robots: whether one may be ordered about.
        trails: where actions are written down.
    """

    def __init__(self, flows: Flows, robots: RobotHandlers, trails: Trails) -> None:
        self._flows, self._robots, self._trails = flows, robots, trails

    def all(self, who: Who) -> list[LoopView]:
        """Return the loops of the caller's tenant, the one that was taken up last first."""
        authorise(who, "look")
        return self._flows.loops.of(who.tenant)

    def find(self, who: Who, name: str) -> LoopView:
        """Return one.

        Raises:
            NotFoundError: there is none of this name.
        """
        authorise(who, "look")
        return self._flows.loops.get(who.tenant, name)

    def begin(self, who: Who, config: LoopConfig) -> LoopView:
        """Begin a loop, or go on with the one of this name; one that runs is left alone.

        Raises:
            ConfigError: it was begun with other settings, or no robot is named and not exactly one reports.
            NotPossibleError: the robot cannot be ordered about now, or is busy.
        """
        authorise(who, "loop")
        known = next((view for view in self._flows.loops.of(who.tenant) if view.name == config.name), None)
        if known is not None and known.state == "running":
            return known
        robot = config.robot or (known.robot if known else self._only_robot(who))
        self._robots.ready(who, robot)
        self._flows.require_free(who.tenant, robot, beside="loop")
        config = config.changed(robot=robot)
        with self._trails.of(who.tenant).acting(who, "loop", {"loop": config.name, "robot": robot}):
            return self._flows.loops.start(who.tenant, config, robot=robot, by=who.name)

    def stop(self, who: Who, name: str) -> LoopView:
        """End a loop after what it does now; it may be begun again and goes on where it was.

        Raises:
            NotPossibleError: it is not running.
        """
        authorise(who, "loop")
        with self._trails.of(who.tenant).acting(who, "stop loop", {"loop": name}):
            return self._flows.loops.stop(who.tenant, name, by=who.name)

    def _only_robot(self, who: Who) -> str:
        live = self._robots.reporting(who)
        if not live:
            raise ConfigError("no robot reports to this trainer; start one: gymnast up --trainer ... --orders")
        if len(live) > 1:
            raise ConfigError(f"which robot? name it in the loop's settings; these report: {', '.join(sorted(live))}")
        return live[0]
