"""What goes on for hours on this trainer and waits for people: adaptations, trials and loops, of every tenant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cloud_trainer.flows.adaptation_engine import AdaptationEngine
from cloud_trainer.flows.adaptation_view import Stage, View
from cloud_trainer.flows.adaptations import Adaptations
from cloud_trainer.flows.loop_parts import LoopEngine
from cloud_trainer.flows.loop_view import RUNNING
from cloud_trainer.flows.loops import Loops
from cloud_trainer.flows.trials import TrialEngine, Trials
from cloud_trainer.store.protocols import EpisodeRow
from gymnast_core.evaluation.cards import ResultCard
from gymnast_core.evaluation.trial import has_won
from gymnast_core.queue import QueueKind
from gymnast_core.text import one_line
from gymnast_core.wire.errors import NotFoundError

_REASON = 200
"""Characters of a refusal in the note of a queue."""


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

    def changing(self, tenant: str, robot: str) -> list[str]:
        """Return what changes what a robot runs, or waits to, and who asked: what is begun now waits for its end."""
        loops = [f"loop {view.name} of {view.started_by}" for view in self.loops.on(tenant, robot)]
        views = self.adaptations.on(tenant, robot)
        return [*loops, *(f"adaptation {view.adaptation_id} of {view.started_by}" for view in views)]

    def over(self, tenant: str, kind: QueueKind, flow: str, *, stopping: bool = True) -> str:
        """Return why a flow asks nothing more of its robot; empty where it goes on.

        Args:
            tenant: the tenant it belongs to.
            kind: "trial", "adaptation" or "loop".
            flow: its id, or the loop's name.
            stopping: one that was stopped, and does its last step, counts; else it is over once it has ended.
        """
        if kind == "trial":
            row = next((row for row in self.trials.views(tenant) if row["trial_id"] == flow), None)
            return "" if row is None or row["state"] == "running" else row["reason"] or row["state"]
        if kind == "loop":
            try:
                loop = self.loops.get(tenant, flow)
            except NotFoundError:
                return ""
            if loop.state != RUNNING:
                return loop.reason or loop.state
            return "stopped" if stopping and loop.stopping else ""
        view = self._adaptation(tenant, flow)
        ended = view is not None and (view.stage.over or (stopping and view.cancel_requested))
        return view.stage.value if view is not None and ended else ""

    def _adaptation(self, tenant: str, adaptation_id: str) -> View | None:
        try:
            return self.adaptations.get(tenant, adaptation_id).view
        except NotFoundError:
            return None

    def waits_for(self, tenant: str, kind: QueueKind, flow: str) -> str:
        """Return what a flow that keeps its robot from others waits for a person for; empty where it waits for nobody.

        Args:
            tenant: as of over().
            kind: as of over().
            flow: as of over().
        """
        view = self._adaptation(tenant, flow) if kind == "adaptation" else None
        if view is None or view.stage.over or view.stage.busy:
            return ""
        why = f" ({one_line(view.trust.get('reason', ''))[:_REASON]})" if view.stage is Stage.REFUSED else ""
        return (
            f"{view.stage.value}{why}, a person decides: gymnast operate step {flow} STEP; others that change what "
            f"{view.robot} runs wait for its end: gymnast operate step {flow} cancel"
        )

    def left_s(self, tenant: str, kind: QueueKind, flow: str, turn_s: float) -> float:
        """Return how long a flow still takes at most, by what it did so far (s); 0 where nobody can say.

        Args:
            tenant: as of over().
            kind: as of over().
            flow: as of over().
            turn_s: of one of its turns on a robot; a pair, of a trial and of a canary. 0 where that is not known.
        """
        if kind == "loop":
            return self.loops.left_s(tenant, flow)
        if kind == "trial":
            row = next((row for row in self.trials.views(tenant) if row["trial_id"] == flow), None)
            return 0.0 if row is None else turn_s * (row["max_pairs"] - row["pairs_done"])
        view = next((one.view for one in self.adaptations.of(tenant) if one.view.adaptation_id == flow), None)
        return 0.0 if view is None or view.stage is not Stage.CANARY else turn_s * view.pairs_left

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
