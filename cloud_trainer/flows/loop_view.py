"""A loop as it is written down and as it is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gymnast_core.json_values import JsonObject, texts, whole
from gymnast_core.loop_config import LoopConfig
from gymnast_core.loop_history import LoopHistory

RUNNING = "running"
"""State of a loop that has not ended."""


@dataclass(frozen=True)
class LoopOrder:
    """Who asked for a loop, and on which robots.

    Attributes:
        tenant: the tenant they belong to.
        robots: their names.
        by: the person.
        at_ns: wall clock, when it was begun or taken up last.
        config: see LoopConfig.
    """

    tenant: str
    robots: tuple[str, ...]
    by: str
    at_ns: int
    config: LoopConfig

    def to_json(self) -> dict[str, object]:
        """As JSON values."""
        return {**vars(self), "robots": list(self.robots), "config": self.config.to_json()}

    @staticmethod
    def from_json(values: JsonObject) -> LoopOrder:
        """Return what to_json() wrote; one of 0.1 names one robot."""
        config = LoopConfig.model_validate(values["config"])
        robots = texts(values["robots"]) if "robots" in values else [str(values["robot"])]
        tenant, by = str(values["tenant"]), str(values["by"])
        return LoopOrder(tenant, tuple(robots), by, whole(values["at_ns"]), config)


def named(robots: Sequence[str]) -> str:
    """Return the names of a loop's robots as a sentence has them."""
    return " and ".join([*([", ".join(robots[:-1])] if robots[1:] else []), *robots[-1:]])


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
        robots: their names.
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
    robots: tuple[str, ...]
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
