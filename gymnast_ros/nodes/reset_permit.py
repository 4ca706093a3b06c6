"""Lets an arm reset for this graph's own rollout alone: a reset moves it, and anybody may call the service.

Before each call the rollout sets the arm's parameter reset_permit to a mark that only this graph can make. The arm has
confirmed it when the call is made, so the two cannot overtake each other. A permit is good for one reset: a
second call under it, of the rollout whose answer was lost or of a stranger in between, gets the first call's answer,
and nothing moves.
"""

from __future__ import annotations

import json
import time

from std_srvs.srv import Trigger

from gymnast_core.arm.mark import ForeignError, MarkChecker, Marker
from gymnast_core.errors import ShapeError
from gymnast_ros.keyring import Keyring
from gymnast_ros.nodes import topics
from gymnast_ros.nodes.settings import NodeSettings

PARAMETER = "reset_permit"
PERMIT_NS = 60_000_000_000
"""How long a permit may wait for its reset, and its answer be repeated: the rollout asks again as long."""
MOST_CHARACTERS = 200
REMEDY = "start an episode (rollout/run_episode): the rollout brings a permit of its own"


class ResetPermits:
    """The rollout's side."""

    def __init__(self, keyring: Keyring) -> None:
        self._marker = Marker(keyring.key, topics.RESET)

    def new(self) -> dict[str, str]:
        """Return the arm's parameter that permits one reset."""
        return {PARAMETER: self._marker.mark(b"")}


class ResetGuard:
    """The arm's side: declares the parameter and looks at every call. Not thread safe.

    Args:
        settings: parameters of the arm.
        keyring: of the graph.
    """

    def __init__(self, settings: NodeSettings, keyring: Keyring) -> None:
        self._checker = MarkChecker(keyring.key, topics.RESET, max_age_ns=PERMIT_NS)
        self._latch = keyring.latch
        self._permit = self._begun = ""
        self._answer: Trigger.Response | None = None
        settings.declare(PARAMETER, "", "of this graph's rollout, for one arm/reset", check=self._take)

    def admits(self, response: Trigger.Response) -> bool:
        """Return whether the arm may begin; else the response is ready for the caller."""
        lacks = self._lacks()
        if lacks:
            response.success, response.message = False, f"reset refused: {lacks}; {REMEDY}"
        elif self._answer is not None and self._latch.stopped:
            response.success, response.message = False, "the emergency stop is latched; re-arm the gate"
        elif self._answer is not None:
            response.success, response.message = self._answer.success, _repeated(self._answer)
        else:
            self._begun = self._permit
            return True
        return False

    def _lacks(self) -> str:
        if not self._permit:
            return "there is no permit of this graph"
        age_ns = time.monotonic_ns() - self._checker.sent_ns
        if age_ns > PERMIT_NS:
            return f"the last permit is {age_ns / 1e9:.0f} s old"
        if self._permit == self._begun and self._answer is None:
            return "the last permit's is under way"
        return ""

    def spent(self, answer: Trigger.Response) -> Trigger.Response:
        """Keep the one answer of the permit under which it was admitted, and return it."""
        if self._begun == self._permit:  # else another one came meanwhile
            self._answer = answer
        return answer

    def _take(self, permit: str) -> str:
        """Return why a permit is none."""
        if permit in ("", self._permit):
            return ""  # at the start; or sent again, because our answer was late: that does not renew it
        try:
            if len(permit) > MOST_CHARACTERS:
                raise ShapeError(f"{len(permit)} characters are no permit")
            self._checker.check(b"", permit)
        except (ForeignError, ShapeError) as error:
            return str(error)
        self._permit, self._answer = permit, None
        return ""


def _repeated(answer: Trigger.Response) -> str:
    """The answer's words, which must not be taken for those of another reset."""
    return json.dumps({**json.loads(answer.message), "repeated": True}) if answer.success else str(answer.message)
