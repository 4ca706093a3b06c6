"""Runs the rollout node's jobs, one at a time; whatever happens to one, its state and its result are published."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from gymnast_core.errors import EstopLatchedError, GymnastError
from gymnast_ros.run.codec import Failure, RobotBusyError
from gymnast_ros.run.dispatch import Began, Ended
from gymnast_ros.run.ports import Log, Publish
from gymnast_ros.run.worker import Worker

LOG = logging.getLogger(__name__)


class JobDesk:
    """See the module.

    Args:
        status: latches the state.
        result: latches what became of the newest run.
        log: of the node.

    Attributes:
        worker: runs them.
        status: the state, as it was published last.
        ended: called with run, result and failure when a run is over.
    """

    def __init__(self, status: Publish, result: Publish, log: Log) -> None:
        self._publish, self._result, self._log = status, result, log
        self.worker = Worker()
        self.ended: Ended = lambda run, result, failure: None
        self.status: dict[str, Any] = {
            "state": "idle",
            "kind": "",
            "run_id": "",
            "done": 0,
            "total": 0,
            "attempt": 0,
            "ordered_by": "",
        }

    def show(self, **changes: object) -> None:
        """Publish the state with these changes."""
        self.status = {**self.status, **changes}
        self._publish(self.status)

    def begin(self, kind: str, ordered_by: str, job: Callable[[str], dict[str, object]]) -> Began:
        """Have a job of this kind run, in somebody's name; it gets its run id.

        Raises:
            RobotBusyError: another one runs.
        """
        run_id = self.worker.start(kind, partial(self._guarded, kind, ordered_by, job), self._end)
        if run_id is None:
            what, by = f"{self.worker.kind} {self.status['run_id']}", self.status["ordered_by"]
            raise RobotBusyError(
                f"busy with {what} for {by}; wait, or end that first" if by else f"busy with {what}; cancel it or wait"
            )
        return Began(run_id)

    def _guarded(
        self, kind: str, ordered_by: str, job: Callable[[str], dict[str, object]], run_id: str
    ) -> tuple[dict[str, object], Failure | None]:
        """Run a job in the worker; whatever happens, there is a result with its run id."""
        fresh: dict[str, object] = {
            "done": 0, "total": 0, "successes": 0, "attempt": 0, "message": "", "ordered_by": ordered_by,
        }  # fmt: skip
        self.show(state="running", kind=kind, run_id=run_id, **fresh)
        self._log.info(f"{kind} begins run={run_id}")
        result: dict[str, Any] = {
            "run_id": run_id, "kind": kind, "ok": False, "error": "", "stopped": False, "file": "",
        }  # fmt: skip
        failure = None
        try:
            result |= job(run_id)
            result["ok"] = True
        except (GymnastError, OSError) as error:
            failure = Failure.of(error)
            result |= {"error": f"{failure.error}: {error}", "stopped": isinstance(error, EstopLatchedError)}
            self._log.error(f"{kind} failed run={run_id} error={error}")
        except Exception as error:  # a run that ended unheard would be waited for
            LOG.exception("run_failed kind=%s run=%s", kind, run_id)
            failure = Failure.of(error)
            result["error"] = f"{failure.error}: {error}; the robot's log has the rest"
        return result, failure

    def _end(self, run_id: str, outcome: tuple[dict[str, object], Failure | None]) -> None:
        result, failure = outcome
        self._result(result)
        self.show(state="idle", instruction="", message=result["error"])
        self.ended(run_id, result, failure)
