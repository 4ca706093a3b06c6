"""What the numbers and pictures of a Gymnasium environment mean, said in a file: the settings of GymnasiumEnv."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from gymnast_core.settings import Count, Positive, Settings, settings_in
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.types import PROPRIO_DIM

AXES = ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper")
"""Our seven numbers of an action, by name."""
PLACE = re.compile(r"([\w/-]+(?:\.[\w/-]+)*)?(?:\[(\d+)\])?")
RENDERED = "render"

Number = Annotated[float, Field(strict=False)]
"""TOML writes 1 where 1.0 is meant."""


class Axis(Settings):
    """One number that the environment takes: scale * ours + offset."""

    where: ClassVar[str] = "mapping: action"
    of: Literal["dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper", "none"]
    """Which of our numbers [m, rad; gripper 0 closed, 1 open]; none is the offset alone."""
    scale: Number = 1.0
    """Its units in one of ours."""
    offset: Number = 0.0
    """What it is when ours is 0."""


class Scaled(Settings):
    """One number of the proprioception: scale * what stands at a place + offset."""

    where: ClassVar[str] = "mapping: proprioception"
    at: str
    """A place in the observation: "[3]", "agent.pos[0]"."""
    scale: Number = 1.0
    """Ours in one of its units."""
    offset: Number = 0.0
    """Ours when it is 0."""


Proprioception = Annotated[str | Number | Scaled, Field(union_mode="left_to_right")]


class GymnasiumMapping(Settings):
    """How a Gymnasium environment is one of ours."""

    where: ClassVar[str] = "mapping"
    instruction: Annotated[str, Field(min_length=1)]
    """What the arm should do; the one instruction that the environment takes."""
    action: Annotated[tuple[Axis, ...], Field(strict=False, min_length=1)]
    """What the environment takes, number by number."""
    proprioception: Annotated[tuple[Proprioception, ...], Field(strict=False)] = (0.0,) * PROPRIO_DIM
    """x y z [m] roll pitch yaw [rad] gripper (1 open): a place in the observation, a number, or {at, scale, offset}."""
    image: str = RENDERED
    """A picture's place in the observation, or render: what render() draws."""
    camera: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,64}$")] = "camera"
    """Its name here."""
    size: Annotated[int, Field(ge=8, le=1024)] | None = None
    """Pixels a side to shrink pictures to; none leaves them as they are."""
    draw_every: Count = 1
    """Steps between pictures: those between repeat the last one. For simulators that draw slowly."""
    max_steps: Count = 100
    """Our steps until an episode is over."""
    repeat: Count = 1
    """Steps of the environment in one of ours; displacements are divided among them."""
    success: str = "info.success"
    """Where success stands: info.NAME (true at any step), terminated, or reward>=NUMBER; empty: nobody says."""
    ends_with_success: bool = False
    """Whether an episode is over once it succeeded."""
    robot: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "gymnasium"
    """Whose episodes these are, in recordings."""
    control_hz: Positive = 5.0
    """Our steps in a second of its time."""
    max_translation_m: Positive = 0.05
    """Longest displacement along an axis in one of our steps."""
    max_rotation_rad: Positive = 0.25
    """Largest rotation about an axis in one of our steps."""
    make: Mapping[str, Any] = {}
    """Arguments of gymnasium.make, e.g. render_mode."""

    @property
    def robot_spec(self) -> RobotSpec:
        """Name, rate and limits of actions; what a WidowX has of joints and poses is of no meaning here."""
        return replace(
            WIDOWX_250S, name=self.robot, control_hz=self.control_hz, max_translation_m=self.max_translation_m,
            max_rotation_rad=self.max_rotation_rad,
        )  # fmt: skip


def read_mapping(path: Path) -> GymnasiumMapping:
    """Read a mapping (.toml, or .json).

    Raises:
        ConfigError: unreadable, or a setting that does not exist or fit; the message names it.
    """
    return GymnasiumMapping(**settings_in(path, "the mapping"))
