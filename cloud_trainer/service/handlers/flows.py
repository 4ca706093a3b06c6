"""What goes on for hours on this trainer and waits for people: adaptations, trials and loops, of every tenant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cloud_trainer.flows.adaptation_engine import AdaptationEngine
from cloud_trainer.flows.adaptations import Adaptations
from cloud_trainer.flows.loop_parts import LoopEngine
from cloud_trainer.flows.loops import Loops
from cloud_trainer.flows.trials import TrialEngine, Trials
from cloud_trainer.store.protocols import EpisodeRow
from gymnast_core.errors import OccupiedError
from gymnast_core.evaluation.cards import ResultCard
from gymnast_core.evaluation.trial import has_won
from gymnast_core.queue import QueueKind


class ArmEngine(AdaptationEngine, TrialEngine, Protocol):
    """Whatever computes and moves arms."""


class Flows:
    """Holds them; until take_up() this trainer moves no arm, and what was done before can be looked at.

    Args:
        folder: where they keep their files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.adaptations = Adaptations(folder / "adaptations", None)
        self.trials = Trials(folder / "trials", None)
        self.loops = Loops(folder / "loops", None)

    def take_up(
        self, engine_of: Callable[[str], ArmEngine] | None,
        loop_engine_of: Callable[[str, Trials], LoopEngine] | None = None,
    ) -> None:  # fmt: skip
        """Go on with what was under way when the trainer was last stopped, and begin new ones from now on.

        Args:
            engine_of: tenant -> what computes and moves its arms; None changes nothing.
            loop_engine_of: tenant and the trainer's trials -> what does so in its loops; None changes nothing there.
        """
        if engine_of is not None:
            self.adaptations = Adaptations(self._folder / "adaptations", engine_of)
            self.trials = trials = Trials(self._folder / "trials", engine_of)
            if loop_engine_of is not None:
                of_loops = loop_engine_of
                self.loops = Loops(self._folder / "loops", lambda tenant: of_loops(tenant, trials))

    def require_free(self, tenant: str, robot: str, *, beside: str = "") -> None:
        """Return if no adaptation or loop changes what a robot runs; trials wait their turn in its queue.

        Args:
            tenant: the tenant they belong to.
            robot: its name.
            beside: what is not looked at, because it refuses a second one itself: "adaptation" or "loop".

        Raises:
            OccupiedError: it is in one; the message names it and the person that began it.
        """
        if held := self.held(tenant, robot, beside=beside):
            raise OccupiedError(held)

    def held(self, tenant: str, robot: str, *, beside: str = "") -> str:
        """Return what require_free() would refuse with; empty where the robot is free."""
        flow = None if beside == "adaptation" else self.adaptations.on(tenant, robot)
        if flow is not None:
            return f"{robot} is being adapted by {flow.started_by} ({flow.adaptation_id}); finish that first"
        loop = None if beside == "loop" else self.loops.on(tenant, robot)
        if loop is not None:
            return f"{robot} is in loop {loop.name} of {loop.started_by}; wait for it or stop it first"
        return ""

    def over(self, tenant: str, kind: QueueKind, flow: str) -> str:
        """Return why a flow asks nothing more of its robot: it has ended, or was stopped; empty where it goes on.

        Args:
            tenant: the tenant it belongs to.
            kind: "trial", "adaptation" or "loop".
            flow: its id, or the loop's name.
        """
        if kind == "trial":
            trials = {row["trial_id"]: row for row in self.trials.views(tenant)}
            state = trials[flow]["state"] if flow in trials else "running"
            return "" if state == "running" else trials[flow]["reason"] or state
        if kind == "loop":
            loops = {view.name: view for view in self.loops.of(tenant)}
            view = loops.get(flow)
            return "" if view is None or (view.state == "running" and not view.stopping) else view.reason or "stopped"
        found = {one.view.adaptation_id: one.view for one in self.adaptations.of(tenant)}.get(flow)
        return "" if found is None or not (found.stage.over or found.cancel_requested) else found.stage.value

    def blinds(self, row: EpisodeRow) -> bool:
        """Whether an episode is, or may be, a run of a trial that is not decided: its policy is shown to nobody."""
        return self.trials.blinds(row) or self.adaptations.blinds(row)

    def cards(self, tenant: str, checkpoint_id: str = "") -> list[ResultCard]:
        """Return the result cards of a tenant's decided trials, canaries of adaptations first, newest first."""
        flows = [flow.view.card for flow in self.adaptations.of(tenant)]
        cards = [card for card in (*flows, *(row["card"] for row in self.trials.views(tenant))) if card]
        if checkpoint_id:
            cards = [card for card in cards if checkpoint_id in (card.get("candidate"), card.get("incumbent"))]
        return cards

    def has_won(self, tenant: str, checkpoint_id: str) -> bool:
        """Whether a decided trial of a tenant says that a checkpoint may be promoted."""
        cards = self.cards(tenant, checkpoint_id)
        return any(has_won(card) and card.get("candidate") == checkpoint_id for card in cards)

    def close(self) -> None:
        """Let all rest between two steps; another process may go on. Safe to call twice."""
        self.loops.close()
        self.adaptations.close()
        self.trials.close()
