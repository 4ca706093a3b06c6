"""An arm whose motors failed recovers by itself, three times at most; then a person is called. Once a person, too.

Source of the recipe (torque on, else sleep, reboot, verify; three tries, then a human): AutoEval, Zhou et al. 2025.
It runs beside the control loop and moves nothing unless the gate is armed and no stop is latched, and it waits before
each try: whoever stands beside the arm then still stops it. Tries are counted on the disk, over restarts, until a
person has recovered the arm.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from gymnast_core.bounds import parsed_object
from gymnast_core.episodes.durable import write_durably
from gymnast_core.errors import EstopLatchedError, GymnastError, SafetyError
from gymnast_core.json_values import whole
from gymnast_core.paging import Pager
from gymnast_ros.drivers.health import NeedsHumanError

LOG = logging.getLogger(__name__)
MOST_TRIES = 3
"""Since a person last recovered the arm."""
WAIT_S = 3.0
"""Between the failure, or a try that did not help, and the next try."""
PATIENCE_S = 30.0
"""How long a closed gate may hold up a recovery, before a person is called."""
LOOK_S = 0.1


class RecoveryCount:
    """How often the arm recovered by itself; on the disk, so that a restart is no way around the limit.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.tries, self.total = self._read()

    def add(self) -> None:
        """Count a try, before it moves anything."""
        self.tries, self.total = self.tries + 1, self.total + 1
        self._write()

    def person_came(self) -> None:
        """A person has recovered the arm: it may try again by itself."""
        if self.tries:
            self.tries = 0
            self._write()

    def _read(self) -> tuple[int, int]:
        """Counts; of a file that makes no sense all tries are spent."""
        try:
            values = parsed_object(self._path.read_text(encoding="utf-8"), str(self._path), 4096)
            return whole(values["tries"]), whole(values["total"])
        except FileNotFoundError:
            return 0, 0
        except (OSError, GymnastError, KeyError) as error:
            LOG.error("recovery_count_unreadable file=%s error=%s; a person has to recover the arm", self._path, error)
            return MOST_TRIES, MOST_TRIES

    def _write(self) -> None:
        write_durably(self._path, json.dumps({"tries": self.tries, "total": self.total}).encode())


class AutoRecovery:
    """Waits for a failure of the motors in a thread of its own.

    Args:
        count: of tries.
        pager: takes the calls.
        enabled: whether it may move the arm; else a person is called at once.
        closed: why nothing may move now; empty when it may.
        attempt: one try: sleep, reboot, verify, neutral; raises EstopLatchedError where somebody stopped it.
        ended: called when it is over, well or not.
        wait_s: see WAIT_S.
    """

    def __init__(
        self, count: RecoveryCount, pager: Pager, *, enabled: bool, closed: Callable[[], str],
        attempt: Callable[[], None], ended: Callable[[], None] = lambda: None, wait_s: float = WAIT_S,
    ) -> None:  # fmt: skip
        self.count, self._pager, self._enabled = count, pager, enabled
        self._closed, self._attempt, self._ended, self._wait_s = closed, attempt, ended, wait_s
        self._problem, self._busy = "", False
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="auto-recovery", daemon=True)
        self._thread.start()

    @property
    def under_way(self) -> bool:
        """Whether the arm recovers by itself now; a gate that is closed holds it up."""
        return self._busy and not self._closed()

    def failed(self, problem: str) -> None:
        """The motors have failed; returns at once."""
        self._problem, self._busy = problem, self._enabled and self.count.tries < MOST_TRIES
        self._wake.set()

    def over(self) -> None:
        """They have not any more: a person has recovered the arm, or put it down."""
        self._problem = ""

    def close(self) -> None:
        """End; a try that is under way is the arm's to interrupt."""
        self._closing.set()
        self._wake.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._wake.clear()
            try:
                if self._problem and not self._closing.is_set():
                    self._look_after(self._problem)
            except Exception as error:  # the next failure must find somebody
                LOG.exception("auto_recovery_failed")
                self._call("motor_fault", f"recovering by itself failed: {type(error).__name__}: {error}")
            self._busy = False
            self._ended()

    def _look_after(self, problem: str) -> None:
        if not self._enabled:
            self._call("motor_fault", f"{problem}; this arm does not recover by itself (auto_recover)")
            return
        called = False
        while self._problem and self.count.tries < MOST_TRIES:
            if reason := self._wait_open():
                if not called:
                    self._call("motor_fault", f"{problem}; the arm cannot recover by itself: {reason}")
                called = True
                continue
            if not self._problem or self._closing.is_set():
                return
            self.count.add()
            LOG.warning("auto_recovery try=%d of=%d problem=%s", self.count.tries, MOST_TRIES, problem)
            try:
                self._attempt()
            except NeedsHumanError as error:
                LOG.warning("auto_recovery_without_success try=%d error=%s", self.count.tries, error)
            except EstopLatchedError as error:
                LOG.warning("auto_recovery_stopped try=%d error=%s", self.count.tries, error)
            except SafetyError as error:  # the driver is gone, or something is in the way
                self._call("arm_fault", f"recovering from {problem} failed: {error}")
                return
            else:
                LOG.warning("auto_recovery_done try=%d total=%d", self.count.tries, self.count.total)
                self._problem = ""
                return
        if self._problem:
            self._call("motor_fault", f"{problem}; the arm has tried {self.count.tries} times to recover by itself")

    def _wait_open(self) -> str:
        """Wait until the arm may have moved for wait_s; returns why not when PATIENCE_S are over."""
        open_s = waited_s = 0.0
        while self._problem:
            reason = self._closed()
            if reason and waited_s > PATIENCE_S:
                return reason
            if not reason and open_s >= self._wait_s:
                return ""
            open_s = 0.0 if reason else open_s + LOOK_S
            waited_s = waited_s + LOOK_S if reason else 0.0
            if self._closing.wait(LOOK_S):
                return ""
        return ""

    def _call(self, kind: str, text: str) -> None:
        remedy = "free and support the arm, then `gymnast recover` at the robot, or Recover on its page"
        self._pager.page(kind, f"{text}; {remedy}", tries=self.count.tries, total=self.count.total)
