"""The robot's jobs from Python: what the command line, the demo and tests drive a running graph with."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gymnast_core.evaluation.attempts import Retry
from gymnast_core.json_values import JsonObject
from gymnast_core.practice_status import PracticeStatus
from gymnast_ros.keyring import Keyring, folder_of, re_arm_word, recover_word
from gymnast_ros.nodes import topics
from gymnast_ros.nodes.graph_port import Progress, RobotRefusedError, RobotSilentError
from gymnast_ros.nodes.graph_status import GraphStatus, practice_of
from gymnast_ros.nodes.requests import Pending
from gymnast_ros.run.codec import checked
from gymnast_ros.run.requests import (
    ROLLOUT,
    Annotate,
    Attach,
    Cancel,
    Detach,
    Evaluate,
    Flush,
    GoOnPractising,
    Label,
    Practise,
    Request,
    Rollback,
    RunEpisode,
    Swap,
)

__all__ = ["GraphClient", "RobotRefusedError", "RobotSilentError"]

URGENT_S = 0.5
"""An emergency stop that is not confirmed is sent again: the gate may just have been started anew."""


PRACTICE_MARGIN_S = 900.0
"""The last episode of a practice run may begin when its hours are almost over."""


class GraphClient(GraphStatus):
    """Episodes, evaluations, labels, checkpoints and jobs of one robot. Not thread safe.

    Attributes:
        ordered_by: in whose name episodes and evaluations are asked for; shown to whoever finds the robot busy.
    """

    ordered_by = ""

    def run_episode(
        self,
        *,
        instruction: str,
        seed: int,
        scene: str = "standard",
        checkpoint: str | Path = "",
        temperature_seed: int = -1,
        temperature: float | None = None,
        record: bool = True,
        purpose: str = "collect",
        retry: Retry | JsonObject | None = None,
        resume: str = "",
        timeout_s: float = 120.0,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Run one episode and return its row; with a name to resume by, the one that was finished under it.

        With retry the row is the first attempt's, and has `ended` (gymnast_core.evaluation.attempts) and `retries`, the
        rows of the others, too.

        Raises:
            BadRequestError: an argument is wrong; the message names it.
            RobotBusyError: something else is under way; the message names it.
            RobotRefusedError: the episode failed.
            RobotSilentError: not done in timeout_s, and no e-stop holds it up; it is cancelled.
        """
        request = checked(RunEpisode, {
            "instruction": instruction, "seed": seed, "scene": scene, "checkpoint": str(checkpoint),
            "temperature_seed": temperature_seed, "temperature": temperature, "record": record, "purpose": purpose,
            "retry": _plain(retry),
            "ordered_by": self.ordered_by, "resume": resume,
        })  # fmt: skip
        return dict(self.ask_to_the_end(request, timeout_s, progress)["episode"])

    def evaluate(
        self,
        *,
        tasks: Sequence[str],
        seed_start: int,
        seed_count: int,
        checkpoints: Sequence[str | Path] = (),
        scene: str = "standard",
        temperature_seed: int = -1,
        temperature: float | None = None,
        record: bool = False,
        purpose: str = "evaluate",
        episode_ids: str = "",
        retry: Retry | JsonObject | None = None,
        resume: str = "",
        timeout_s: float = 900.0,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Evaluate checkpoints from the same start states; returns the result file's content.

        With retry its episodes are the first attempts; `groups` has the others, and `retried` what they came to.
        With a name to resume by, episodes that were finished under it are not run again.

        Raises:
            BadRequestError: an argument is wrong; the message names it.
            RobotBusyError: something else is under way; the message names it.
            RobotRefusedError: the evaluation failed.
            EstopLatchedError: the arm was stopped before it began.
            RobotSilentError: not done in timeout_s, and no e-stop holds it up; it is cancelled.
        """
        request = checked(Evaluate, {
            "tasks": list(tasks), "seed_start": seed_start, "seed_count": seed_count,
            "checkpoints": [str(name) for name in checkpoints], "scene": scene, "temperature_seed": temperature_seed,
            "temperature": temperature, "record": record, "purpose": purpose, "episode_ids": episode_ids,
            "retry": _plain(retry), "ordered_by": self.ordered_by, "resume": resume,
        })  # fmt: skip
        result = self.ask_to_the_end(request, timeout_s, progress)
        return dict(json.loads(Path(result["file"]).read_text()))

    def practise(
        self, *, timeout_s: float = 0.0, progress: Callable[[PracticeStatus], None] | None = None, **asked: Any
    ) -> dict[str, PracticeStatus]:
        """Practise until that is over, and return what came of it (gymnast_core.practice_status.PracticeStatus).

        A run of the same `resume` goes on; one that has ended already is answered as it ended. A rollout node that is
        started again meanwhile goes on by itself.

        Args:
            timeout_s: longest wait; 0 is the hours asked for, and a little.
            progress: called with every status of the run.
            **asked: see gymnast_core.practice.PracticeAsked.

        Raises:
            BadRequestError: an argument is wrong; the message names it.
            RobotBusyError: something else is under way; the message names it.
            RobotRefusedError: it was refused.
            RobotSilentError: it has not ended in time; it goes on.
        """
        run = self.begin_practice(**asked)
        wait_s = timeout_s or 3600.0 * float(asked["hours"]) + PRACTICE_MARGIN_S

        def ended(status: Mapping[str, object]) -> bool:
            practice = practice_of(status)
            if practice is None or practice["run"] != run:
                return False
            if progress is not None:
                progress(practice)
            return practice["state"] == "ended"

        self.wait_for(topics.ROLLOUT_STATUS, ended, wait_s)
        practice = self.practice
        return {} if practice is None else {"practice": practice}

    def begin_practice(self, **asked: Any) -> str:
        """Begin a practice run, or find the one of this `resume`; returns its id. It goes on without us."""
        return self._ask(checked(Practise, {**asked, "ordered_by": self.ordered_by}))

    def go_on_practising(self, by: str = "operator") -> str:
        """A person here has done what the practice run waits for; needs the robot's folder."""
        return self._ask(checked(GoOnPractising, {"by": by}))

    def label(self, label: str, labelled_by: str = "operator") -> None:
        """Label, or discard, the episode that is waiting for it."""
        self._ask(checked(Label, {"label": label, "labelled_by": labelled_by}))

    def annotate(self, text: str, by: str = "operator") -> None:
        """Note something at this moment of the episode that is being recorded."""
        self._ask(checked(Annotate, {"text": text, "by": by}))

    def cancel(self) -> str:
        """End what is running after its present step."""
        return self._ask(Cancel())

    def estop(self) -> str:
        """Stop the arm now, until re_arm()."""
        return self.call(topics.ESTOP, resend_s=URGENT_S)

    def re_arm(self) -> None:
        """Let the arm move again; needs the robot's folder, whose re-arm word this user may read.

        Raises:
            RobotRefusedError: the gate refuses; the message has its reason.
            ConfigError: the word cannot be read.
        """
        gate = self._gate_folder()
        for again in (True, True, False):
            word = re_arm_word(gate)
            try:
                self.set(topics.GATE_NODE, {"re_arm": word})
                return
            except RobotRefusedError:
                if not again or re_arm_word(gate) == word:
                    raise

    def recover(self, timeout_s: float = 60.0) -> str:
        """Have a real arm recover from a motor fault: reboot what failed and stand up; needs what re_arm() needs.

        Raises:
            RobotRefusedError: no motor has failed, the arm may not move, or recovering failed; the message names which.
            ConfigError: the word cannot be read.
        """
        self.set(topics.ARM_NODE, {"recover_word": recover_word(self._gate_folder())})
        return self.call(topics.RECOVER, timeout_s)

    def _gate_folder(self) -> Path:
        return folder_of(self._folder) if self._folder is not None else Keyring.of_environment().folder

    def swap(self, checkpoint_id: str = "", *, probation_episodes: int | None = None, timeout_s: float = 15.0) -> str:
        """Put a staged checkpoint (empty: the newest) in force from the next episode on; returns its id.

        Args:
            checkpoint_id: one that has passed its check.
            probation_episodes: good episodes it then needs before it is trusted; None leaves the robot's setting.
            timeout_s: longest wait until it is in force.
        """
        values = {"checkpoint_id": checkpoint_id, "probation_episodes": probation_episodes}
        return self._in_force(self._ask(checked(Swap, values)), timeout_s)

    def attach(
        self, checkpoint_id: str, *, scene: str, recogniser: JsonObject, probation_episodes: int | None = None,
    ) -> str:  # fmt: skip
        """Have a checkpoint drive in one scene from the next episode on, beside the base; returns the base's id.

        Args:
            checkpoint_id: one that has passed its check.
            scene: a name for people.
            recogniser: of the scene (gymnast_core.evaluation.recognition), which its first image shows.
            probation_episodes: good episodes it then needs there; None leaves the robot's setting.
        """
        values = {
            "checkpoint_id": checkpoint_id, "scene": scene, "recogniser": dict(recogniser),
            "probation_episodes": probation_episodes,
        }  # fmt: skip
        return self._ask(checked(Attach, values))

    def detach(self, checkpoint_id: str) -> str:
        """Have the base drive again where an adapter did; returns the adapter's id."""
        return self._ask(checked(Detach, {"checkpoint_id": checkpoint_id}))

    def rollback(self, timeout_s: float = 15.0) -> str:
        """Return to the checkpoint before; returns its id."""
        current = str(self.latest(topics.BRIDGE_STATUS).get("current", ""))
        return self._in_force(self._ask(Rollback(current=current)), timeout_s)

    def _in_force(self, checkpoint_id: str, timeout_s: float) -> str:
        self.wait_for(topics.POLICY_VERSION, lambda value: value["policy_version"] == checkpoint_id, timeout_s)
        return checkpoint_id

    def flush(self, timeout_s: float = 120.0) -> None:
        """Wait until every episode has been acknowledged by the trainer."""
        self.ask_to_the_end(checked(Flush, {"timeout_s": timeout_s}), timeout_s + 10.0)

    def _ask(self, request: Request) -> str:
        """Ask for something that is done at once; returns the robot's words."""
        pending = self.ask(request)
        self._requesters[request.node].forget(pending)
        return "" if pending.first is None else pending.first.message

    def _until_ended(self, request: Request, pending: Pending, timeout_s: float) -> None:
        """Wait on while an emergency stop holds the arm up: it goes on once somebody re-arms. Else cancel it."""
        while True:
            try:
                return super()._until_ended(request, pending, timeout_s)
            except RobotSilentError:
                if request.node == ROLLOUT and self.stopped:
                    continue
                if request.node == ROLLOUT:
                    with contextlib.suppress(RobotRefusedError):  # it may just have ended
                        self.cancel()
                raise


def _plain(retry: Retry | JsonObject | None) -> JsonObject | None:
    """A retry as its JSON; an order brings it so."""
    return retry.model_dump() if isinstance(retry, Retry) else retry
