"""Unattended loops as people ask for them: who may, on which robot, written into the log of actions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from cloud_trainer.console.checkpoints import RefusedError
from cloud_trainer.flows.loop_view import LoopView
from cloud_trainer.flows.loops import Loops
from cloud_trainer.records.trail import Trail
from gymnast_core.errors import ConfigError
from gymnast_core.loop_config import LoopConfig
from gymnast_core.web.auth import User


class LoopDesk:
    """See the module.

    Args:
        loops: of the trainer.
        reporting: names of the robots that report to a user's tenant now.
        busy: why a robot of the user's cannot be ordered about now; empty where it can. Raises where it is not there.
        trail: of the user's tenant.
    """

    def __init__(
        self, loops: Loops, reporting: Callable[[User], list[str]], busy: Callable[[User, str], str],
        trail: Callable[[User], Trail],
    ) -> None:  # fmt: skip
        self._loops, self._reporting, self._busy, self._trail = loops, reporting, busy, trail

    def all(self, user: User) -> list[LoopView]:
        """Return the loops of the user's tenant, the one that was taken up last first."""
        user.require("look")
        return self._loops.of(user.tenant)

    def find(self, user: User, name: str) -> LoopView:
        """Return one.

        Raises:
            FlowError: there is none of this name.
        """
        user.require("look")
        return self._loops.get(user.tenant, name)

    def begin(self, user: User, config: LoopConfig) -> LoopView:
        """Begin a loop, or go on with the one of this name; one that runs is left alone.

        Raises:
            ConfigError: it was begun with other settings, or no robot is named and not exactly one reports.
            RefusedError: the robot cannot be ordered about now.
            FlowError: it is in another loop.
        """
        user.require("loop")
        known = next((view for view in self._loops.of(user.tenant) if view.name == config.name), None)
        if known is not None and known.state == "running":
            return known
        robot = config.robot or (known.robot if known else self._only_robot(user))
        if why := self._busy(user, robot):
            raise RefusedError(why)
        config = replace(config, robot=robot)
        asked: Mapping[str, Any] = {"loop": config.name, "robot": robot}
        with self._trail(user).acting(user, "loop", asked):
            return self._loops.start(user.tenant, config, robot=robot, by=user.name)

    def stop(self, user: User, name: str) -> LoopView:
        """End a loop after what it does now; it may be begun again and goes on where it was.

        Raises:
            FlowError: it is not running.
        """
        user.require("loop")
        with self._trail(user).acting(user, "stop loop", {"loop": name}):
            return self._loops.stop(user.tenant, name, by=user.name)

    def _only_robot(self, user: User) -> str:
        live = self._reporting(user)
        if not live:
            raise ConfigError("no robot reports to this trainer; start one: gymnast up --trainer ... --orders")
        if len(live) > 1:
            raise ConfigError(f"which robot? name it in the loop's settings; these report: {', '.join(sorted(live))}")
        return live[0]
