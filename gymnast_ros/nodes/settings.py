"""Parameters of a node: declared with type, range and description, checked on every change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterUninitializedException
from rclpy.node import Node
from rclpy.parameter import Parameter

from gymnast_core.robots import robot_named
from gymnast_core.spec import WIDOWX_250S, RobotSpec

CLOCK = "use_sim_time"
"""rclpy's own parameter: with it anybody could stop the clock by which a camera's picture is old."""
Check = Callable[[Any], str]
"""Returns what is wrong with a parameter value, or an empty string."""


class NodeSettings:
    """Parameters of a node: declared with type, range and description, checked on every change."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._react: Callable[[Mapping[str, Any]], str] = lambda changes: ""
        self._checks: dict[str, Check] = {}
        node.add_on_set_parameters_callback(self._validate)

    def declare(
        self,
        name: str,
        default: object,
        description: str,
        *,
        low: float | None = None,
        high: float | None = None,
        choices: Sequence[str] = (),
        check: Check | None = None,
        read_only: bool = False,
    ) -> None:
        """Declare one parameter; numbers may have a range, strings choices."""
        descriptor = ParameterDescriptor(description=description, read_only=read_only)
        if choices:
            descriptor.additional_constraints = "one of " + ", ".join(choices)
            self._checks[name] = lambda value: "" if value in choices else f"must be one of {', '.join(choices)}"
        if check is not None:
            self._checks[name] = check
        if low is not None and high is not None:
            if isinstance(default, int):
                descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=1)]
            else:
                descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
        value = default if default != [] else Parameter.Type.STRING_ARRAY
        self._node.declare_parameter(name, value, descriptor)

    def on_change(self, react: Callable[[Mapping[str, object]], str]) -> None:
        """From now on ask react about values that are about to change, each one right in itself.

        Args:
            react: acts on them, or returns why they cannot be.
        """
        self._react = react

    def __getitem__(self, name: str) -> Any:
        """The present value; an unset list is an empty one."""
        try:
            return self._node.get_parameter(name).value
        except ParameterUninitializedException:  # rclpy's empty list has no type, so an unset one stays uninitialised
            return []

    def _validate(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name == CLOCK:
                return SetParametersResult(successful=False, reason=f"{CLOCK} is chosen where the node is started")
            check = self._checks.get(parameter.name)
            wrong = check(parameter.value) if check else ""
            if wrong:
                return SetParametersResult(successful=False, reason=f"{parameter.name}={parameter.value!r}: {wrong}")
        wrong = self._react({parameter.name: parameter.value for parameter in parameters})
        return SetParametersResult(successful=not wrong, reason=wrong)


def declare_robot(settings: NodeSettings) -> RobotSpec:
    """Which arm it is; of every node that computes for it.

    Returns:
        Its spec.

    Raises:
        ConfigError: nobody here knows it.
    """
    settings.declare("robot_model", WIDOWX_250S.name, "the arm: wx250s, vx300s or an installed one", read_only=True)
    return robot_named(settings["robot_model"])
