"""From staged to running, beside the running policy, which never waits for any of this.

Every checkpoint that arrives is checked and, if it may not run, turned down by name. What a promotion or rollback names
is put in force once it has passed; the rollout node opens it when its next episode starts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from gymnast_core.errors import GymnastError
from gymnast_ros.shadow import ShadowBook
from gymnast_ros.uplink.robot_store import RobotStore

LOG = logging.getLogger(__name__)
POLL_S = 1.0


class Adoption:
    """A thread of the bridge; see the module.

    Args:
        store: the robot's checkpoints.
        book: of this robot's checks.
        probation_episodes: good episodes that what is put in force then needs.
        report: gets what became of a checkpoint, in words, from this thread.
    """

    def __init__(
        self, store: RobotStore, book: ShadowBook, *, probation_episodes: Callable[[], int],
        report: Callable[[str], None] = LOG.info,
    ) -> None:  # fmt: skip
        self._store, self._book, self._log = store, book, report
        self._probation_episodes = probation_episodes
        self._stopping, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="adoption", daemon=True)
        self.checking = ""
        """Id of the checkpoint that is being checked; empty when none is."""

    def start(self) -> None:
        """Begin with what an earlier run left."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End; a check under way is begun anew at the next start. Safe to call twice."""
        self._stopping.set()
        self._wake.set()
        self._book.close()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def wake(self) -> None:
        """Something was staged."""
        self._wake.set()

    def checked(self) -> list[str]:
        """Ids on this robot that have passed a check.

        One that passed before this robot had recorded anything is checked again, at the latest when it is opened.
        """
        return [name for name in self._store.held() if self._book.report(name) is not None]

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                self._look()
            except (GymnastError, OSError) as error:  # tried again: a full disk, a checkpoint that was just pruned
                LOG.error("adoption_failed error=%s: %s", type(error).__name__, error)
            self._wake.wait(POLL_S)
            self._wake.clear()

    def _look(self) -> None:
        """Check what was not; what is mandated goes first."""
        state = self._store.state
        mandated = [state.mandate.checkpoint_id] if state.mandate is not None else []
        for name in dict.fromkeys((*mandated, *reversed(state.staged))):
            if self._stopping.is_set() or not self._may_run(name):
                continue
            if state.mandate is not None and name == state.mandate.checkpoint_id:
                self._store.obey(probation_episodes=self._probation_episodes())
                self._log(f"in force from the next episode on: {name}, {state.mandate.kind} {state.mandate.sequence}")

    def _may_run(self, name: str) -> bool:
        if self._book.passed(name):
            return True
        self.checking = name
        try:
            report = self._book.check(self._store.path(name))
            if report.reason and not self._stopping.is_set():
                self._store.reject(name, report.reason)
                self._log(f"turned down {name}: {report.reason}")
            return not report.reason
        finally:
            self.checking = ""
