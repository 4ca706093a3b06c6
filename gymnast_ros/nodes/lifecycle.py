"""Lifecycle transitions that report why they fail."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn

from gymnast_core.errors import GymnastError

Node = TypeVar("Node", bound=Any)
Transition = Callable[[Node, LifecycleState], TransitionCallbackReturn]


def named(transition: Transition[Node]) -> Transition[Node]:
    """A transition whose failure is one line with its reason, and leaves the node where it was.

    rclpy takes an exception in a transition for an error and drops it: `ros2 lifecycle` then prints "Transitioning
    failed", and nobody ever learns why (rclpy/lifecycle/node.py, __execute_callback).
    """

    @functools.wraps(transition)
    def run(node: Node, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception as error:  # noqa: BLE001  (whatever it is, it would be dropped)
            reason = str(error) if isinstance(error, GymnastError) else repr(error)
            node.get_logger().error(f"{transition.__name__.removeprefix('on_')} failed: {reason}")
            return TransitionCallbackReturn.FAILURE

    return run
