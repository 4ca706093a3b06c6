"""Orders: what a trainer's operators may have a robot do, and what it reports of that; the same on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KINDS = ("run_episode", "evaluate", "flush", "wait_staged", "swap", "rollback")
"""Calls of gymnast_ros.nodes.client.GraphClient; anything else is refused by the robot."""


@dataclass(frozen=True)
class Order:
    """Something to do.

    Attributes:
        order_id: never reused; a robot does each one once.
        kind: one of KINDS.
        spec: JSON values, the call's arguments.
    """

    order_id: str
    kind: str
    spec: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OrderNews:
    """What became of an order.

    Attributes:
        order_id: whose.
        done: it has ended.
        error: why it ended badly; empty when it went well.
        result: JSON values.
    """

    order_id: str
    done: bool = False
    error: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
