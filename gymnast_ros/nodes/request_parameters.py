"""Parameters that hold the arguments of a service: their words and ranges are those of the request it makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gymnast_ros.nodes.settings import Check, NodeSettings
from gymnast_ros.run.codec import bounds
from gymnast_ros.run.requests import Request


def declare_argument(
    settings: NodeSettings, kind: type[Request], field: str, default: Any, *, name: str = "",
    choices: Sequence[str] = (), check: Check | None = None,
) -> None:  # fmt: skip
    """Declare one.

    Args:
        settings: of the node.
        kind: the request.
        field: its argument.
        default: value of the parameter.
        name: of the parameter; empty is the argument's.
        choices: what a string may be.
        check: returns what is wrong with a value.
    """
    words, low, high = bounds(kind, field)
    described = f"{kind.operation}: {words}"
    settings.declare(name or field, default, described, low=low, high=high, choices=choices, check=check)
