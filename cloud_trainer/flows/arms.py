"""Robots as flows see them: started, and taking orders; cloud_trainer.service.OrderedRobot is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from gymnast_core.errors import GymnastError
from gymnast_core.json_values import JsonObject
from gymnast_core.orders import EpisodeAnswer, PracticeFigures
from gymnast_core.practice import PracticeAsked
from gymnast_core.queue import QueueKind
from gymnast_core.robot_status import AdapterStatus


@dataclass(frozen=True)
class Errand:
    """In whose name a flow submits jobs, begins trials and orders robots about.

    Attributes:
        person: whoever began it.
        kind: of the flow: "trial", "adaptation" or "loop".
        flow_id: its id, or a loop's name.
        ends: the command that ends it.
    """

    person: str
    kind: QueueKind
    flow_id: str
    ends: str

    @property
    def flow(self) -> str:
        """What it is, by name, e.g. "loop night"; the ids of the others say it themselves."""
        return f"loop {self.flow_id}" if self.kind == "loop" else self.flow_id

    @property
    def by(self) -> str:
        """As jobs and trials have it."""
        return f"{self.person} via {self.flow}"

    @property
    def order(self) -> str:
        """As robots show it to whoever finds them busy."""
        return f"{self.by}, which `{self.ends}` ends"


class WithdrawnError(GymnastError):
    """A flow was stopped, or taken out of its robot's queue, while it waited for the robot; the message says why."""


class TrialRobot(Protocol):
    """What a trial asks of a robot."""

    @property
    def stopped(self) -> bool:
        """Whether its arm is stopped until somebody re-arms it."""
        ...

    def turn(self, what: str) -> AbstractContextManager[None]:
        """Hold the robot for one step, once it is the flow's turn in its queue; what is asked within it is one step."""
        ...

    def run_episode(
        self, *, instruction: str, seed: int, scene: str, checkpoint: str, record: bool, purpose: str
    ) -> EpisodeAnswer:
        """Run one episode of a checkpoint."""
        ...

    def flush(self, timeout_s: float) -> None:
        """Return when the trainer has every recorded episode."""
        ...


class FlowRobot(TrialRobot, Protocol):
    """What adaptations and loops ask of a robot."""

    @property
    def policy_version(self) -> str:
        """Checkpoint in force."""
        ...

    @property
    def unable(self) -> str:
        """Why it does nothing that it is ordered to now: silent, stopped, busy for others; empty when it does."""
        ...

    def evaluate(
        self,
        *,
        tasks: Sequence[str],
        seed_start: int,
        seed_count: int,
        scene: str,
        temperature_seed: int,
        record: bool,
        purpose: str,
        timeout_s: float,
        withdrawn: Callable[[], bool] = ...,
    ) -> Sequence[EpisodeAnswer]:
        """Run episodes of the policy in force; ends early once withdrawn() holds, which is an error then."""
        ...

    def practise(self, asked: PracticeAsked, timeout_s: float, withdrawn: Callable[[], bool] = ...) -> PracticeFigures:
        """Have a task and what undoes it practised in turns; the same `resume` is the same run."""
        ...

    def wait_staged(self, checkpoint_ids: Sequence[str], timeout_s: float) -> None:
        """Return when the robot holds these checkpoints."""
        ...

    def swap(self, checkpoint_id: str) -> str:
        """Put a staged checkpoint in force."""
        ...

    def attach(self, checkpoint_id: str, *, scene: str, recogniser: JsonObject) -> str:
        """Have a staged checkpoint drive in one scene alone, beside what is in force; returns the latter's id."""
        ...

    def detach(self, checkpoint_id: str) -> None:
        """Have what is in force drive there again."""
        ...

    @property
    def adapters(self) -> Sequence[AdapterStatus]:
        """That stand beside what is in force, as last reported."""
        ...

    def rollback(self) -> str:
        """Return to the checkpoint before."""
        ...


Connect = Callable[[str, Errand], FlowRobot]
"""Returns the started robot of a name, to be ordered about in somebody's name."""
