"""The robot's jobs from Python: what the command line, the demo and tests drive a running graph with."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from std_msgs.msg import String
from std_srvs.srv import Trigger

from gymnast_core.errors import EstopLatchedError
from gymnast_ros.keyring import Keyring, folder_of, re_arm_word, recover_word
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.ears import listen
from gymnast_ros.nodes.graph_port import GraphPort, Progress, RobotRefusedError, RobotSilentError
from gymnast_ros.nodes.watch import STOPPED

__all__ = ["GraphClient", "RobotRefusedError", "RobotSilentError"]

URGENT_S = 0.5
"""An emergency stop that is not confirmed is sent again: the gate may just have been started anew."""


class GraphClient(GraphPort):
    """Episodes, evaluations, labels, checkpoints and jobs of one robot. Not thread safe."""

    @property
    def status(self) -> dict[str, Any]:
        """Latest rollout/status."""
        return self.latest("rollout/status")

    @property
    def policy_version(self) -> str:
        """What the robot runs."""
        return str(self.latest("rollout/policy_version").get("policy_version", ""))

    @property
    def gate(self) -> dict[str, Any]:
        """Latest command_gate/status."""
        return self.latest(topics.GATE_STATUS)

    @property
    def robot_name(self) -> str:
        """As its trainer knows it; empty without a bridge."""
        return str(self.latest("bridge/status").get("robot", ""))

    @property
    def stopped(self) -> bool:
        """Whether the arm is stopped until somebody re-arms it."""
        return self.gate.get("state") in STOPPED

    def wait_ready(self, timeout_s: float = 30.0, services: Sequence[str] = ("rollout/evaluate", topics.RESET)) -> None:
        """Wait until the graph answers.

        Raises:
            RobotSilentError: a service is missing after timeout_s.
        """
        deadline = time.monotonic() + timeout_s
        for name in services:
            client = self._client(Trigger, name)
            self._spin_until(client.service_is_ready, deadline, f"service {name}")
        self._spin_until(
            lambda: "rollout/status" in self._latched and topics.GATE_STATUS in self._latched,
            deadline,
            "latched status",
        )
        if self._latched["rollout/status"].get("bridge_expected"):
            self._spin_until(lambda: "bridge/status" in self._latched, deadline, "bridge/status")

    def run_episode(
        self,
        *,
        instruction: str,
        seed: int,
        scene: str = "standard",
        checkpoint: str | Path = "",
        temperature_seed: int = -1,
        record: bool = True,
        purpose: str = "collect",
        timeout_s: float = 120.0,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Run one episode and return its row."""
        values = {
            "instruction": instruction, "seed": seed, "scene": scene, "checkpoint": str(checkpoint),
            "temperature_seed": temperature_seed, "record": record, "purpose": purpose,
        }  # fmt: skip
        self.set("rollout", values)
        return dict(self._run("rollout/run_episode", timeout_s, progress)["episode"])

    def evaluate(
        self,
        *,
        tasks: Sequence[str],
        seed_start: int,
        seed_count: int,
        checkpoints: Sequence[str | Path] = (),
        scene: str = "standard",
        temperature_seed: int = -1,
        record: bool = False,
        purpose: str = "evaluate",
        episode_ids: str = "",
        timeout_s: float = 900.0,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Evaluate checkpoints from the same start states; returns the result file's content.

        Raises:
            RobotRefusedError: busy, a bad parameter, or the evaluation failed.
            EstopLatchedError: the arm was stopped before it began.
            RobotSilentError: not done in timeout_s, and no e-stop holds it up; it is cancelled.
        """
        values = {
            "tasks": list(tasks), "seed_start": seed_start, "seed_count": seed_count, "checkpoints": list(checkpoints),
            "scene": scene, "temperature_seed": temperature_seed, "record": record, "purpose": purpose,
            "episode_ids": episode_ids,
        }  # fmt: skip
        self.set("rollout", values)
        result = self._run("rollout/evaluate", timeout_s, progress)
        return dict(json.loads(Path(result["file"]).read_text()))

    def label(self, label: str, labelled_by: str = "operator") -> None:
        """Label, or discard, the episode that is waiting for it."""
        self.set("rollout", {"label": label, "labelled_by": labelled_by})
        self.call("rollout/label")

    def annotate(self, text: str, by: str = "operator") -> None:
        """Note something at this moment of the episode that is being recorded."""
        self.set("rollout", {"annotation": text, "labelled_by": by})
        self.call("rollout/annotate")

    def cancel(self) -> str:
        """End what is running after its present step."""
        return self.call("rollout/cancel")

    def estop(self) -> str:
        """Stop the arm now, until re_arm()."""
        return self.call(topics.ESTOP, resend_s=URGENT_S)

    def re_arm(self) -> None:
        """Let the arm move again; needs the robot's folder, whose re-arm word this user may read.

        Raises:
            RobotRefusedError: the gate says why not.
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
            RobotRefusedError: no motor has failed, the arm may not move, or recovering failed; the message says which.
            ConfigError: the word cannot be read.
        """
        self.set(topics.ARM_NODE, {"recover_word": recover_word(self._gate_folder())})
        return self.call(topics.RECOVER, timeout_s)

    def _gate_folder(self) -> Path:
        return folder_of(self._folder) if self._folder is not None else Keyring.of_environment().folder

    def wait_staged(self, checkpoint_ids: Sequence[str], timeout_s: float = 120.0) -> None:
        """Wait until the robot holds these checkpoints and each has passed its check.

        Raises:
            RobotRefusedError: one of them did not pass; the message says how.
            RobotSilentError: one of them did not arrive in time.
        """
        wanted = set(checkpoint_ids)

        def settled(status: Mapping[str, Any]) -> bool:
            turned_down = wanted - set(status["held"]) & set(status["failed"])
            return bool(turned_down) or wanted <= set(status["checked"])

        status = self.wait_for("bridge/status", settled, timeout_s)
        if missing := wanted - set(status["checked"]):
            reasons = [f"{name}: {status['failed'].get(name, 'not checked')}" for name in sorted(missing)]
            raise RobotRefusedError(f"turned down by this robot: {'; '.join(reasons)}")

    def swap(
        self, checkpoint_id: str = "", *, probation_episodes: int | None = None,
        scene: Mapping[str, Any] | None = None, timeout_s: float = 15.0,
    ) -> str:  # fmt: skip
        """Put a staged checkpoint (empty: the newest) in force from the next episode on; returns its id.

        Args:
            checkpoint_id: one that has passed its check.
            probation_episodes: good episodes it then needs before it is trusted; None leaves the robot's setting.
            scene: fingerprint (gymnast_core.evaluation.scene) of the one scene it drives in, recognised by the first
                image of every episode; what runs now drives everywhere else. None is everywhere.
            timeout_s: longest wait until it is in force.
        """
        asked = -1 if probation_episodes is None else probation_episodes
        scene_text = json.dumps(dict(scene or {}))
        self.set("bridge", {"swap_to": checkpoint_id, "swap_scene": scene_text, "swap_probation_episodes": asked})
        return self._in_force(self.call("bridge/swap"), timeout_s)

    def rollback(self, timeout_s: float = 15.0) -> str:
        """Return to the checkpoint before; returns its id."""
        return self._in_force(self.call("bridge/rollback"), timeout_s)

    def _in_force(self, checkpoint_id: str, timeout_s: float) -> str:
        self.wait_for("rollout/policy_version", lambda value: value["policy_version"] == checkpoint_id, timeout_s)
        return checkpoint_id

    def submit_job(
        self,
        kind: str,
        spec: Mapping[str, Any],
        key: str,
        *,
        timeout_s: float = 3600.0,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Submit a job through the bridge node and follow it to its end; returns its last event.

        Args:
            kind: of job.
            spec: JSON values.
            key: the same key never starts a second job.
            timeout_s: longest wait; the job itself runs on.
            progress: called with every event.
        """
        self.set("bridge", {"job": json.dumps({"kind": kind, "spec": dict(spec), "key": key})})
        subscription = listen(
            self._node, String, "bridge/job_events", partial(self._on_event, key, progress), topics.JOB_EVENTS
        )
        try:
            run_id = self.call("bridge/submit_job")
            return dict(self._result_of("bridge", run_id, timeout_s)["last"])
        finally:
            self._node.destroy_subscription(subscription)

    def flush(self, timeout_s: float = 120.0) -> None:
        """Wait until every episode has been acknowledged by the trainer."""
        self.set("bridge", {"flush_timeout_s": float(timeout_s)})
        self._result_of("bridge", self.call("bridge/flush"), timeout_s + 10.0)

    def _run(self, service: str, timeout_s: float, progress: Progress | None) -> dict[str, Any]:
        run_id = self.call(service)
        while True:
            try:
                return self._result_of("rollout", run_id, timeout_s, progress)
            except RobotSilentError:
                if not self.stopped:  # else it is paused, and goes on once somebody re-arms
                    self.cancel()
                    raise

    def _result_of(self, node: str, run_id: str, timeout_s: float, progress: Progress | None = None) -> dict[str, Any]:
        result = self.wait_for(f"{node}/result", lambda value: value["run_id"] == run_id, timeout_s, progress)
        if result.get("stopped"):
            raise EstopLatchedError(f"{run_id}: {result['error']}")
        if not result["ok"]:
            raise RobotRefusedError(f"{run_id}: {result['error']}")
        return result

    @staticmethod
    def _on_event(key: str, progress: Progress | None, message: String) -> None:
        event = messages.from_json(message)
        if progress is not None and event["key"] == key:
            progress(event)
