"""The command gate's parameters: the envelope at its start, and what of it may be changed while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gymnast_core.arm.command_gate import GateLimits
from gymnast_core.errors import ConfigError
from gymnast_core.robots import robot_named
from gymnast_core.spec import RATES_HZ, RobotSpec
from gymnast_ros.nodes.settings import NodeSettings, declare_robot

ENVELOPE = (
    "workspace_low_m", "workspace_high_m", "max_change_m", "max_change_rad", "table_height_m", "table_clearance_m",
    "self_clearance_m", "effort_limit", "max_command_age_s", "deadman_s", "max_refusals",
)  # fmt: skip
"""Parameters that may be changed while the gate runs; they hold from the next command on."""


def declare(settings: NodeSettings) -> None:
    """Declare them."""
    add, defaults = settings.declare, GateLimits(declare_robot(settings))
    add("record_folder", "", "where flight records go; empty keeps none", read_only=True)
    add("record_images", [], "image topics in flight records; one more copy of every frame", read_only=True)
    declare_rate(settings, defaults.spec)
    add("armed_at_start", False, "open without re_arm; for the simulator only", read_only=True)
    add("workspace_low_m", list(defaults.workspace_low_m), "lower corner of the task's box, base_link [m]")
    add("workspace_high_m", list(defaults.workspace_high_m), "upper corner [m]")
    add("max_change_m", defaults.max_change_m, "largest change of a delta between 5 Hz steps [m]", low=0.001, high=0.1)
    add("max_change_rad", defaults.max_change_rad, "the same for rotation [rad]", low=0.005, high=0.5)
    add("table_height_m", defaults.table_height_m, "table top in base_link [m]")
    add("table_clearance_m", defaults.table_clearance_m, "what the arm keeps from it [m]", low=0.0, high=0.2)
    add("self_clearance_m", defaults.self_clearance_m, "what the arm keeps from itself [m]", low=0.0, high=0.1)
    add("effort_limit", [0.0], "per joint, unit of joint_states.effort; [0.0] is unchecked")
    add("max_command_age_s", 0.0, "how old the answered observation may be [s]", low=0.0, high=2.0)
    add("deadman_s", defaults.deadman_ns / 1e9, "longest silence [s]", low=0.05, high=defaults.spec.max_deadman_s)
    add("max_refusals", defaults.max_refusals, "refusals in a row before it stops", low=1, high=1000)
    add("re_arm", "", "write the word of the gate's file here to re-arm it; see `gymnast rearm`")


def declare_rate(settings: NodeSettings, robot: RobotSpec) -> None:
    """At which rate the arm is commanded; of the gate, and of the simulated arm."""
    settings.declare(
        "rate_hz", robot.control_hz, "control rate; the limits of a 5 Hz step shrink with the period",
        low=min(RATES_HZ), high=max(RATES_HZ), read_only=True,
        check=lambda value: "" if value in RATES_HZ else f"must be one of {list(RATES_HZ)}",
    )  # fmt: skip


def limits_from(settings: NodeSettings | Mapping[str, Any]) -> GateLimits:
    """Return the node's parameters as the core's limits.

    Raises:
        ConfigError: a corner has not three values, or the envelope is larger than the arm's.
    """
    low, high = list(settings["workspace_low_m"]), list(settings["workspace_high_m"])
    if len(low) != 3 or len(high) != 3:
        raise ConfigError(f"workspace corners need 3 values, got {low} and {high}")
    effort = tuple(settings["effort_limit"])
    return GateLimits(
        robot_named(settings["robot_model"]),
        workspace_low_m=(low[0], low[1], low[2]),
        workspace_high_m=(high[0], high[1], high[2]),
        max_change_m=settings["max_change_m"],
        max_change_rad=settings["max_change_rad"],
        table_height_m=settings["table_height_m"],
        table_clearance_m=settings["table_clearance_m"],
        self_clearance_m=settings["self_clearance_m"],
        effort_limit=() if effort == (0.0,) else effort,
        max_command_age_ns=_ns(settings["max_command_age_s"], "max_command_age_s"),
        deadman_ns=_ns(settings["deadman_s"], "deadman_s"),
        max_refusals=settings["max_refusals"],
    ).at(settings["rate_hz"])


def _ns(seconds: float, name: str) -> int:
    try:
        return round(seconds * 1e9)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{name} must be finite, got {seconds}") from error


def refusal(wanted: GateLimits, present: GateLimits, at_start: GateLimits, *, busy: bool) -> str:
    """Say why the envelope may not be changed, or return an empty string.

    Args:
        wanted: the new one.
        present: the one in force.
        at_start: what was allowed when the robot was started; nothing that comes over the network goes beyond it.
        busy: whether a policy or a human commands the arm now.
    """
    wider = wanted.wider_than(at_start)
    if wider:
        return f"{wider} would let more pass than at the gate's start; start the robot with other parameters"
    wider = wanted.wider_than(present)
    if wider and busy:
        return f"{wider} may only be narrowed while the arm is commanded; wait for the episode's end"
    return ""
