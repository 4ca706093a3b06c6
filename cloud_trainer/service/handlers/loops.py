"""Unattended loops: begun, seen and stopped by people, on robots that may be ordered about."""

from __future__ import annotations

from collections.abc import Sequence

from cloud_trainer.flows.loop_view import RUNNING, LoopView
from cloud_trainer.records.trail import Trails
from cloud_trainer.service.handlers.flows import Flows
from cloud_trainer.service.handlers.robots import RobotHandlers
from gymnast_core.authority import Who, authorise
from gymnast_core.errors import ConfigError, NotPossibleError
from gymnast_core.loop_config import LoopConfig


class LoopHandlers:
    """See the module.

    Args:
        flows: of the trainer.
        robots: whether they may be ordered about.
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

        It waits in the queues of robots that are being adapted until that is over.

        Raises:
            ConfigError: it was begun with other settings, or no robot is named and not exactly one reports.
            NotPossibleError: a robot is unknown or busy, or none of them can be ordered about now.
        """
        authorise(who, "loop")
        known = next((view for view in self._flows.loops.of(who.tenant) if view.name == config.name), None)
        if known is not None and known.state == RUNNING:
            return known
        robots = config.robots or (known.robots if known else (self._only_robot(who),))
        self._require_ready(who, robots)
        with self._trails.of(who.tenant).acting(who, "loop", {"loop": config.name, "robots": list(robots)}):
            return self._flows.loops.start(who.tenant, config, robots=robots, by=who.name)

    def stop(self, who: Who, name: str) -> LoopView:
        """End a loop after what it does now; it may be begun again and goes on where it was.

        Raises:
            NotPossibleError: it is not running.
        """
        authorise(who, "loop")
        with self._trails.of(who.tenant).acting(who, "stop loop", {"loop": name}):
            return self._flows.loops.stop(who.tenant, name, by=who.name)

    def _require_ready(self, who: Who, robots: Sequence[str]) -> None:
        """One that is away now is passed over until it is back, as long as another may be ordered about."""
        unready: list[NotPossibleError] = []
        for robot in robots:
            if robot not in self._robots.known(who.tenant):
                self._robots.find(who, robot)
            try:
                self._robots.ready(who, robot)
            except NotPossibleError as error:
                unready.append(error)
        if len(unready) == len(robots):
            raise NotPossibleError("; ".join(map(str, unready)))

    def _only_robot(self, who: Who) -> str:
        live = self._robots.reporting(who)
        if not live:
            raise ConfigError("no robot reports to this trainer; start one: gymnast up --trainer ... --orders")
        if len(live) > 1:
            raise ConfigError(
                f"which robots? name them with --robot or robots; these report: {', '.join(sorted(live))}"
            )
        return live[0]
