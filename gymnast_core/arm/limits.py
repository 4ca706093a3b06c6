"""The limits that an envelope keeps: what a gate may be set to, and what an arm keeps whatever its gate is set to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from gymnast_core.errors import ConfigError
from gymnast_core.spec import WIDOWX_250S, RobotSpec

_NARROWER_IF_SMALLER = (
    "workspace_high_m", "max_change_m", "max_change_rad", "max_command_age_ns", "deadman_ns", "max_refusals",
)  # fmt: skip
_NARROWER_IF_LARGER = ("workspace_low_m", "table_height_m", "table_clearance_m", "self_clearance_m")


Corner = tuple[float, float, float]
_OF_THE_ARM: Corner = (np.nan, np.nan, np.nan)
"""A corner that nobody gave: the arm's own."""


@dataclass(frozen=True)
class GateLimits:
    """The envelope. Defaults are a simulated arm in lockstep; config/robot_widowx.yaml is tighter.

    Attributes:
        spec: step limits, workspace, joint limits and velocity.
        workspace_low_m: lower corner of the task's box, inside the arm's; the arm's where none is given.
        workspace_high_m: upper corner, likewise.
        max_change_m: largest change of dx, dy or dz from one step to the next (jerk at chunk seams).
        max_change_rad: the same for rotation.
        table_height_m: of the table top in base_link.
        table_clearance_m: what elbow, wrist and palm keep from it.
        self_clearance_m: what gripper and forearm keep from base and upper arm.
        effort_limit: per joint, same unit as joint_states.effort; beyond it the arm stops. Empty: not checked.
        max_command_age_ns: how much older than the newest observation the answered one may be.
        deadman_ns: longest silence of commands or observations, on the caller's monotonic clock.
        max_refusals: refused commands in a row after which the arm stops until re-armed.
    """

    spec: RobotSpec = WIDOWX_250S
    workspace_low_m: Corner = _OF_THE_ARM
    workspace_high_m: Corner = _OF_THE_ARM
    max_change_m: float = 0.10
    max_change_rad: float = 0.50
    table_height_m: float = 0.0
    table_clearance_m: float = 0.005
    self_clearance_m: float = 0.005
    effort_limit: tuple[float, ...] = ()
    max_command_age_ns: int = 0
    deadman_ns: int = 5_000_000_000
    max_refusals: int = 25

    def __post_init__(self) -> None:
        """Refuse an envelope that is empty, not finite, or larger than the arm's."""
        for name in ("workspace_low_m", "workspace_high_m"):
            if getattr(self, name) is _OF_THE_ARM:
                object.__setattr__(self, name, getattr(self.spec, name))
        for name in (*_NARROWER_IF_SMALLER, *_NARROWER_IF_LARGER, "effort_limit"):
            if not np.isfinite(getattr(self, name)).all():
                raise ConfigError(f"{name} must be finite, got {getattr(self, name)}")
        for low, high, arm_low, arm_high in zip(
            self.workspace_low_m, self.workspace_high_m, self.spec.workspace_low_m, self.spec.workspace_high_m,
            strict=True,
        ):  # fmt: skip
            if not arm_low <= low < high <= arm_high:
                raise ConfigError(f"workspace [{low}, {high}] m must lie inside the arm's [{arm_low}, {arm_high}] m")
        for name in ("max_change_m", "max_change_rad", "deadman_ns", "max_refusals"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        if len(self.effort_limit) not in (0, 6):
            raise ConfigError(f"effort_limit needs 6 values or none, got {len(self.effort_limit)}")
        self._check_hard_limits()

    def _check_hard_limits(self) -> None:
        """What no setting may exceed, by the arm's spec."""
        spec, (table_low, table_high) = self.spec, self.spec.table_heights_m
        if not table_low <= self.table_height_m <= table_high:
            raise ConfigError(f"table_height_m must be {table_low}..{table_high}, got {self.table_height_m}")
        for name in ("table_clearance_m", "self_clearance_m"):
            if getattr(self, name) < spec.min_clearance_m:
                raise ConfigError(f"{name} must be at least {spec.min_clearance_m}, got {getattr(self, name)}")
        if self.deadman_ns > spec.max_deadman_s * 1e9:
            raise ConfigError(f"deadman_s must be at most {spec.max_deadman_s}, got {self.deadman_ns / 1e9}")
        beyond = [
            limit for limit, most in zip(self.effort_limit, spec.max_effort, strict=False) if not 0 < limit <= most
        ]
        if beyond:
            raise ConfigError(f"effort_limit must be above 0 and at most {list(spec.max_effort)}, got {beyond}")

    def wider_than(self, other: GateLimits) -> str:
        """Return the name of a limit that lets more pass than the other envelope's, or an empty string."""
        for name in _NARROWER_IF_SMALLER:
            if np.any(np.greater(getattr(self, name), getattr(other, name))):
                return name
        for name in _NARROWER_IF_LARGER:
            if np.any(np.less(getattr(self, name), getattr(other, name))):
                return name
        mine, theirs = (limits.effort_limit or (np.inf,) * 6 for limits in (self, other))
        return "effort_limit" if np.any(np.greater(mine, theirs)) else ""

    def at(self, control_hz: float) -> GateLimits:
        """Return this envelope for an arm commanded at another rate, no speed or acceleration looser.

        A step's largest delta goes with the period (a speed), the largest change between steps with its square (an
        acceleration). What is in seconds or metres stays.

        Raises:
            ConfigError: no rate of the arm's.
        """
        share = self.spec.control_hz / control_hz
        return replace(
            self, spec=self.spec.at(control_hz), max_change_m=self.max_change_m * share**2,
            max_change_rad=self.max_change_rad * share**2,
        )  # fmt: skip

    @cached_property
    def box(self) -> RobotSpec:
        """The arm's spec with the task's workspace."""
        return replace(self.spec, workspace_low_m=self.workspace_low_m, workspace_high_m=self.workspace_high_m)

    @property
    def joint_step_rad(self) -> float:
        """Furthest one joint may go in one step: velocity limit x step (0.628 rad for the WidowX at 5 Hz)."""
        return self.spec.joint_velocity_rad_s * self.spec.step_s


def hard_limits(table_height_m: float, spec: RobotSpec = WIDOWX_250S) -> GateLimits:
    """Return the envelope that an arm itself keeps, whatever its gate is set to.

    Raises:
        ConfigError: no such table.
    """
    clearance_m = spec.min_clearance_m
    return GateLimits(
        spec, table_height_m=table_height_m, table_clearance_m=clearance_m, self_clearance_m=clearance_m,
        max_change_m=2 * spec.max_translation_m, max_change_rad=2 * spec.max_rotation_rad,
    )  # fmt: skip
