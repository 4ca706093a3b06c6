"""A loop as it is written down and as it is seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gymnast_core.loop_config import LoopConfig


@dataclass(frozen=True)
class LoopOrder:
    """Who asked for a loop, and on which robot.

    Attributes:
        tenant: the tenant they belong to.
        robot: its name.
        by: the person.
        at_ns: wall clock, when it was begun or taken up last.
        config: see LoopConfig.
    """

    tenant: str
    robot: str
    by: str
    at_ns: int
    config: LoopConfig

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**vars(self), "config": self.config.to_json()}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> LoopOrder:
        """Return what to_json() wrote."""
        return LoopOrder(**{**values, "config": LoopConfig.model_validate(values["config"])})


@dataclass(frozen=True)
class LoopEnd:
    """How a loop ended.

    Attributes:
        state: done, stopped or failed; the last two go on when it is started again.
        reason: in words.
    """

    state: str
    reason: str


@dataclass(frozen=True)
class LoopView:
    """A loop as pages and callers see it.

    Attributes:
        name: of the loop.
        robot: its name.
        started_by: the person.
        at_ns: wall clock, when it was begun or taken up last.
        state: running, done, stopped or failed.
        reason: why it ended; empty while it runs.
        step: at hand, e.g. "2/collect/25"; empty between two.
        done, total, note: progress of that step.
        stopping: it ends after what it does now.
        history: as in history.json; empty before the first round.
        revision: changes with everything else here.
    """

    name: str
    robot: str
    started_by: str
    at_ns: int
    state: str
    reason: str
    step: str = ""
    done: int = 0
    total: int = 0
    note: str = ""
    stopping: bool = False
    history: Mapping[str, Any] = field(default_factory=dict)
    revision: int = 0
