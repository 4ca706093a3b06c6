"""A loop as it is written down and as it is seen."""

from __future__ import annotations

from dataclasses import dataclass, field

from gymnast_core.json_values import JsonObject, whole
from gymnast_core.loop_config import LoopConfig
from gymnast_core.loop_history import LoopHistory


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

    def to_json(self) -> dict[str, object]:
        """As JSON values."""
        return {**vars(self), "config": self.config.to_json()}

    @staticmethod
    def from_json(values: JsonObject) -> LoopOrder:
        """Return what to_json() wrote."""
        config = LoopConfig.model_validate(values["config"])
        tenant, robot, by = (str(values[name]) for name in ("tenant", "robot", "by"))
        return LoopOrder(tenant, robot, by, whole(values["at_ns"]), config)


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
    history: LoopHistory = field(default_factory=LoopHistory)
    revision: int = 0
