"""Where labels come from: the simulator's state where there is one, else the caller of rollout/label."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from gymnast_core.types import Outcome

LABELS = ("success", "failure", "discard")
SIMULATED_OPERATOR = "operator:sim"


class OperatorDesk:
    """Hands out one label per finished episode. Policies, models and judges never see the simulator's truth.

    Args:
        waiting: called with True while a human is waited for.

    Attributes:
        automatic: take the simulator's truth when there is one.
        wait_s: how long to wait for a human; then the episode stays unlabelled.
    """

    def __init__(self, waiting: Callable[[bool], None]) -> None:
        self.automatic = True
        self.wait_s = 0.0
        self._waiting = waiting
        self._answered = threading.Event()
        self._answer: tuple[Outcome | None, str] = (Outcome.UNLABELLED, "")
        self.open = False

    def give(self, label: str, labelled_by: str) -> str:
        """Label the finished episode; returns why not, or an empty string."""
        if not self.open:
            return "no episode is waiting for a label"
        if label not in LABELS:
            return f"label {label!r} is not one of {', '.join(LABELS)}"
        outcome = {"success": Outcome.SUCCESS, "failure": Outcome.FAILURE}.get(label)
        self._answer = (outcome, labelled_by)
        self._answered.set()
        return ""

    def label(self, truth: Mapping[str, object]) -> tuple[Outcome | None, str]:
        """Label of the episode that just ended; blocks the worker, never the node."""
        if self.automatic and "succeeded" in truth:
            return (Outcome.SUCCESS if truth["succeeded"] else Outcome.FAILURE), SIMULATED_OPERATOR
        if self.wait_s <= 0:
            return Outcome.UNLABELLED, ""
        self._answer = (Outcome.UNLABELLED, "")
        self._answered.clear()
        self.open = True
        self._waiting(True)
        try:
            self._answered.wait(self.wait_s)
        finally:
            self.open = False
            self._waiting(False)
        return self._answer

    def cancel(self) -> None:
        """Stop waiting."""
        self._answered.set()
