"""One adaptation of the trainer, taken from its scene to the end by whoever began it elsewhere: a command, a robot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gymnast_core.errors import GymnastError, TransientBridgeError
from gymnast_ros.uplink.console import ConsoleClient

POLL_S = 0.5
AWAY_S = 300.0
"""How long the trainer may be away, e.g. being started again, before we stop following; the adaptation itself waits."""
MOST_ATTEMPTS = 5
"""Of a step, while the trainer goes away and comes back."""
MOST_AT_ONCE = 100
"""Real episodes between two trust checks, as the page has it."""
FEW = 10
"""Real episodes to collect where the trust check asks for more and does not say how many."""

View = Mapping[str, Any]
"""An adaptation as /api/adaptations/ID shows it."""


@dataclass(frozen=True)
class Terms:
    """What may be spent without asking again.

    Attributes:
        collect: real episodes at most, where the trust check asks for them.
        training: minutes, rollouts, money, mode as the page's form takes them; the trainer's own where absent.
    """

    collect: int = 40
    training: Mapping[str, str] = field(default_factory=dict)


def refuse(view: View) -> bool:
    """A choice that is never taken."""
    return False


def begin(page: ConsoleClient, form: Mapping[str, str]) -> str:
    """Begin an adaptation; returns its id. The form is the page's: robot, instruction, scene, seed, judge, ...

    Raises:
        GymnastError: the page refuses; the message says why.
    """
    return str(page.post("/adapt", form)["go"]).rpartition("/")[2]


class Adaptation:
    """Drives one.

    Args:
        page: of the trainer.
        adaptation_id: of the one.
        tell: called with every view in which something is new.
        stopped: asked between two looks; True ends following, and nothing else.
        poll_s: between two looks.
    """

    def __init__(
        self, page: ConsoleClient, adaptation_id: str, *, tell: Callable[[View], None] = lambda view: None,
        stopped: threading.Event | None = None, poll_s: float = POLL_S,
    ) -> None:  # fmt: skip
        self.adaptation_id = adaptation_id
        self._page, self.tell, self._poll_s = page, tell, poll_s
        self._stopped = stopped or threading.Event()
        self._told: View = {}

    def view(self) -> View:
        """Look at it, and tell if something is new; waits for a trainer that is being started again.

        Raises:
            TransientBridgeError: the trainer stays away; the message says what becomes of the adaptation.
        """
        until = time.monotonic() + AWAY_S
        while True:
            try:
                view = self._page.get(f"/api/adaptations/{self.adaptation_id}")
                break
            except GymnastError as error:
                if not _comes_back(error) or self._stopped.is_set() or time.monotonic() > until:
                    raise TransientBridgeError(
                        f"{error}; {self.adaptation_id} waits at the trainer: `gymnast operate adaptations`, then "
                        f"`gymnast operate step {self.adaptation_id} ...`"
                    ) from error
                self._stopped.wait(self._poll_s)
        if view != self._told:
            self._told = view
            self.tell(view)
        return view

    def step(self, name: str, view: View, **values: str) -> None:
        """Do a step that was decided on this view; nothing if somebody else decided meanwhile.

        Raises:
            GymnastError: the page refuses; the message says why.
        """
        form = {**values, "revision": str(view["revision"])}
        for attempt in range(MOST_ATTEMPTS):
            try:
                self._page.post(f"/adapt/{self.adaptation_id}/{name}", form)
                return
            except GymnastError as error:
                if self.view()["revision"] != view["revision"]:
                    return
                if not _comes_back(error) or attempt + 1 == MOST_ATTEMPTS:
                    raise

    def settled(self) -> View:
        """Wait until it is over or waits for a decision."""
        view = self.view()
        while view["busy"] and not self._stopped.wait(self._poll_s):
            view = self.view()
        return view

    def drive(
        self, terms: Terms, *, approve: Callable[[View], bool | None], reuse: Callable[[View], bool] = refuse
    ) -> View:
        """Take it to its end, or to where a decision is left to others; returns the last view.

        Args:
            terms: what may be spent.
            approve: asked at the preview: onto the arm, rejected, or None: others decide.
            reuse: asked where an adapter was kept for this scene before: try that one instead of training.
        """
        left = terms.collect
        while not self._stopped.is_set():
            view = self.settled()
            stage = view["stage"]
            if stage in ("refused", "ready") and view["known_adapters"] and reuse(view):
                self.step("reuse", view, adapter=view["known_adapters"][-1])
            elif stage == "refused" and left > 0:
                episodes = min(left, asked_for(view), MOST_AT_ONCE)
                left -= episodes
                self.step("collect", view, episodes=str(episodes))
            elif stage == "ready":
                self.step("train", view, **terms.training)
            elif stage == "preview" and (decided := approve(view)) is not None:
                self.step("approve" if decided else "reject", view)
            elif not self.view()["busy"]:
                break
        return self.view()

    def cancel(self, wait_s: float) -> View:
        """Stop it at its next whole iteration, pair or collection; returns where it is then, or after wait_s."""
        view = self.view()
        if not view["over"]:
            self.step("cancel", view)
        until = time.monotonic() + wait_s
        while not (view := self.view())["over"] and time.monotonic() < until:
            time.sleep(self._poll_s)
        return view


def asked_for(view: View) -> int:
    """How many more real episodes the trust check needs before it can tell; a few where it could, and refused."""
    figures = view["trust"].get("figures", {})
    return max(int(figures.get("needed", 0)) - int(figures.get("real_episodes_here", 0)), 0) or FEW


def _comes_back(error: GymnastError) -> bool:
    """Whether the trainer is away, or up with its page still to come."""
    return isinstance(error, TransientBridgeError) or "serves no page" in str(error)
