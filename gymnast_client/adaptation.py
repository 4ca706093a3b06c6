"""One adaptation of the trainer, taken from its scene to the end by whoever began it elsewhere: a command, a robot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from gymnast_client.adaptations import AdaptationsClient, AdaptationView, PracticeBudget
from gymnast_core.errors import OutdatedError, TransientBridgeError
from gymnast_core.json_values import whole

POLL_S = 0.5
AWAY_S = 300.0
"""How long the trainer may be away, e.g. being started again, before we stop following; the adaptation itself waits."""
MOST_ATTEMPTS = 5
"""Of a step, while the trainer goes away and comes back."""
MOST_AT_ONCE = 100
"""Real episodes between two trust checks, as the page has it."""
FEW = 10
"""Real episodes to collect where the trust check asks for more and does not say how many."""


@dataclass(frozen=True)
class Terms:
    """What may be spent without asking again.

    Attributes:
        collect: real episodes at most, where the trust check asks for them.
        training: of the practice.
    """

    collect: int = 40
    training: PracticeBudget = field(default_factory=PracticeBudget)


def refuse(view: AdaptationView) -> bool:
    """A choice that is never taken."""
    return False


class Adaptation:
    """Drives one.

    Args:
        adaptations: of the trainer.
        adaptation_id: of the one.
        on_view: called with every view in which something is new.
        stopped: asked between two looks; True ends following, and nothing else.
        poll_s: between two looks.
    """

    def __init__(
        self, adaptations: AdaptationsClient, adaptation_id: str, *,
        on_view: Callable[[AdaptationView], None] = lambda view: None,
        stopped: threading.Event | None = None, poll_s: float = POLL_S,
    ) -> None:  # fmt: skip
        self.adaptation_id = adaptation_id
        self._adaptations, self.on_view, self._poll_s = adaptations, on_view, poll_s
        self._stopped = stopped or threading.Event()
        self._newest: AdaptationView | None = None

    def view(self) -> AdaptationView:
        """Look at it, and report what is new; waits for a trainer that is being started again.

        Raises:
            TransientBridgeError: the trainer stays away; the message says what becomes of the adaptation.
        """
        until = time.monotonic() + AWAY_S
        while True:
            try:
                view = self._adaptations.get(self.adaptation_id)
                break
            except TransientBridgeError as error:
                if self._stopped.is_set() or time.monotonic() > until:
                    raise TransientBridgeError(
                        f"{error}; {self.adaptation_id} waits at the trainer: `gymnast operate adaptations`, then "
                        f"`gymnast operate step {self.adaptation_id} ...`"
                    ) from error
                self._stopped.wait(self._poll_s)
        if view != self._newest:
            self._newest = view
            self.on_view(view)
        return view

    def step(self, view: AdaptationView, do: Callable[[AdaptationView], AdaptationView]) -> None:
        """Do a step that was decided on this view; nothing if somebody else decided meanwhile.

        Args:
            view: on which it was decided.
            do: a method of AdaptationsClient, given the view.

        Raises:
            GymnastError: the trainer refuses; the message says why.
        """
        for attempt in range(MOST_ATTEMPTS):
            try:
                do(view)
                return
            except OutdatedError:
                return
            except TransientBridgeError:  # it may have been done all the same
                if self.view().revision != view.revision:
                    return
                if attempt + 1 == MOST_ATTEMPTS:
                    raise

    def settled(self) -> AdaptationView:
        """Wait until it is over or waits for a decision."""
        view = self.view()
        while view.busy and not self._stopped.wait(self._poll_s):
            view = self.view()
        return view

    def drive(
        self,
        terms: Terms,
        *,
        approve: Callable[[AdaptationView], bool | None],
        reuse: Callable[[AdaptationView], bool] = refuse,
    ) -> AdaptationView:
        """Take it to its end, or to where a decision is left to others; returns the last view.

        Args:
            terms: what may be spent.
            approve: asked at the preview: onto the arm, rejected, or None: others decide.
            reuse: asked where an adapter was kept for this scene before: try that one instead of training.
        """
        left, flows = terms.collect, self._adaptations
        while not self._stopped.is_set():
            view = self.settled()
            stage = view.stage
            if stage in ("refused", "ready") and view.known_adapters and reuse(view):
                self.step(view, lambda view: flows.reuse(view, view.known_adapters[-1]))
            elif stage == "refused" and left > 0:
                episodes = min(left, asked_for(view), MOST_AT_ONCE)
                left -= episodes
                self.step(view, partial(flows.collect, episodes=episodes))
            elif stage == "ready":
                self.step(view, partial(flows.train, budget=terms.training))
            elif stage == "preview" and (decided := approve(view)) is not None:
                self.step(view, flows.approve if decided else flows.reject)
            elif not self.view().busy:
                break
        return self.view()

    def cancel(self, wait_s: float) -> AdaptationView:
        """Stop it at its next whole iteration, pair or collection; returns where it is then, or after wait_s."""
        view = self.view()
        if not view.over:
            self.step(view, self._adaptations.cancel)
        until = time.monotonic() + wait_s
        while not (view := self.view()).over and time.monotonic() < until:
            time.sleep(self._poll_s)
        return view


def asked_for(view: AdaptationView) -> int:
    """How many more real episodes the trust check needs before it can decide; a few where it could, and refused."""
    return whole(view.trust.get("figures", {}).get("more_needed", 0)) or FEW
