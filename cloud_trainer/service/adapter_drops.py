"""Adapters that a robot shall detach: in the replies to its reports, until it reports them no longer.

No order, of which a robot does one at a time: the base drives again from the next episode on, whatever goes on there.
"""

from __future__ import annotations

import threading

from gymnast_core.authority import Who
from gymnast_core.errors import NotPossibleError
from gymnast_core.robot_status import RobotStatus

ANSWER_S = 15.0
"""A robot reports once a second."""


class AdapterDrops:
    """See the module. Threads may share it; nothing is kept over a restart, as whoever asked waits for the answer.

    Args:
        answer_s: longest wait for a robot.
    """

    def __init__(self, answer_s: float = ANSWER_S) -> None:
        self._answer_s = answer_s
        self._changed = threading.Condition()
        self._wanted: dict[tuple[str, str], list[str]] = {}  # once for everybody who waits

    def of(self, who: Who) -> list[str]:
        """Return what a robot shall detach."""
        with self._changed:
            return sorted(set(self._wanted.get((who.tenant, who.name), ())))

    def heard(self, who: Who, status: RobotStatus) -> None:
        """Take in what a robot reports; a report without its checkpoints says nothing of adapters."""
        if not (weights := status.get("weights")):
            return
        attached = {one["checkpoint_id"] for one in weights.get("adapters", [])}
        with self._changed:
            if wanted := self._wanted.get((who.tenant, who.name)):
                wanted[:] = [name for name in wanted if name in attached]
                self._changed.notify_all()

    def drop(self, tenant: str, robot: str, checkpoint_id: str) -> None:
        """Have a robot detach an adapter; returns once it reports that.

        Raises:
            NotPossibleError: it did not in time.
        """
        with self._changed:
            wanted = self._wanted.setdefault((tenant, robot), [])
            wanted.append(checkpoint_id)
            gone = self._changed.wait_for(lambda: checkpoint_id not in wanted, self._answer_s)
            if not gone:
                wanted.remove(checkpoint_id)  # its own wish alone: another's wait is not answered by that
        if not gone:
            raise NotPossibleError(f"{robot} has not said that {checkpoint_id} is detached; drop it again")
