"""Test-time training over the graph: rollout asks, the bridge carries it to its trainer and brings the answer back.

Both ends speak latched JSON, so that either node may die and come back: the request keeps its run id, which is the
job's idempotency key, and a bridge that starts again finds the same job.

| topic | from | what |
|---|---|---|
| rollout/adaptation_request | rollout | {run_id, spec, cancel}; an empty run id when nothing is wanted |
| bridge/adaptation | bridge | {run_id, state, stage, done, total, metrics, job_id, candidate, reason, result} |
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rclpy.node import Node
from std_msgs.msg import String

from gymnast_core.errors import GymnastError, TransientBridgeError
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.runtime import LatchedJson
from gymnast_ros.uplink import JobsClient

REQUEST = "rollout/adaptation_request"
ANSWER = "bridge/adaptation"
ENDED = ("ready", "refused", "failed", "cancelled")
"""Final states: a candidate is staged; there is none and why; the trainer failed; somebody ended it."""

MODES = ("full", "lora")
ACCEPT_S = 30.0
SHIP_S = 300.0
STAGE_S = 300.0
POLL_S = 0.2
REFUSAL = "NotTrustedError: "

Answer = Mapping[str, Any]


class AdaptationDesk:
    """The rollout node's end: publishes a request and waits for what becomes of it.

    Args:
        node: the rollout node.
    """

    def __init__(self, node: Node) -> None:
        self._topic = LatchedJson(node, REQUEST)
        self._changed = threading.Condition()
        self._answer: dict[str, Any] = {}
        node.create_subscription(String, ANSWER, self._hear, topics.LATCHED)

    def _hear(self, message: String) -> None:
        with self._changed:
            self._answer = messages.from_json(message)
            self._changed.notify_all()

    def train(
        self, run_id: str, spec: Mapping[str, Any], *, cancelled: Callable[[], bool], progress: Callable[[Answer], None]
    ) -> Answer:
        """Have a policy adapted; returns the final answer.

        Args:
            run_id: idempotency key of the job.
            spec: of the adapt job.
            cancelled: asked several times a second; then the job is cancelled, and its end waited for.
            progress: told every answer.

        Raises:
            TransientBridgeError: the bridge node does not take the request.
        """
        self._topic.publish({"run_id": run_id, "spec": dict(spec), "cancel": False})
        try:
            return self._wait(run_id, spec, cancelled, progress)
        finally:
            self._topic.publish({"run_id": "", "spec": {}, "cancel": False})

    def _wait(
        self,
        run_id: str,
        spec: Mapping[str, Any],
        cancelled: Callable[[], bool],
        progress: Callable[[Answer], None],
    ) -> Answer:
        accept_until = time.monotonic() + ACCEPT_S
        told: dict[str, Any] = {}
        while True:
            with self._changed:
                self._changed.wait(POLL_S)
                answer = dict(self._answer)
            if answer.get("run_id") != run_id:
                if time.monotonic() > accept_until:
                    raise TransientBridgeError(f"the bridge node took no request within {ACCEPT_S:.0f} s; is it up?")
                continue
            if answer != told:
                told = answer
                progress(answer)
            if answer["state"] in ENDED:
                return answer
            if cancelled():
                self._topic.publish({"run_id": run_id, "spec": dict(spec), "cancel": True})


class Held(Protocol):
    """Of the robot's store: what is asked here."""

    def held(self) -> list[str]:
        """Return the ids of the checkpoints on this robot."""
        ...


class AdaptationCourier:
    """The bridge node's end: ships what was recorded, submits, follows, and waits until the result is staged.

    Args:
        node: the bridge node.
        jobs: of the trainer, in this robot's own name.
        flush: waits until every episode is at the trainer; False when the time is over.
        store: of this robot.
    """

    def __init__(self, node: Node, jobs: JobsClient, flush: Callable[[float], bool], store: Held) -> None:
        self._jobs, self._flush, self._store = jobs, flush, store
        self._topic = LatchedJson(node, ANSWER)
        self._lock = threading.Lock()
        self._answer: dict[str, Any] = {"run_id": "", "state": ""}
        self._thread: threading.Thread | None = None
        self._cancel, self._closing = threading.Event(), threading.Event()
        self._say()
        node.create_subscription(String, REQUEST, self._hear, topics.LATCHED)

    def close(self) -> None:
        """Stop following; the job goes on, and the next bridge finds it."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(2.0)

    def _hear(self, message: String) -> None:
        request = messages.from_json(message)
        run_id = str(request["run_id"])
        if not run_id:
            return
        if request["cancel"]:
            self._cancel.set()
        with self._lock:
            if run_id == self._answer["run_id"]:
                return
            if self._thread is not None and self._thread.is_alive():  # of a rollout node that died: the newest counts
                self._closing.set()
                self._thread.join(2.0)
            self._closing = threading.Event()
            if not request["cancel"]:
                self._cancel.clear()
            self._answer = {
                "run_id": run_id, "state": "shipping", "stage": "ship episodes", "done": 0, "total": 1, "metrics": {},
                "job_id": "", "candidate": "", "reason": "", "result": {},
            }  # fmt: skip
            self._thread = threading.Thread(
                target=self._carry, args=(run_id, request["spec"]), name=run_id, daemon=True
            )
            self._thread.start()
        self._say()

    def _carry(self, run_id: str, spec: Mapping[str, Any]) -> None:
        closing = self._closing
        try:
            self._follow(run_id, spec, closing)
        except (GymnastError, OSError) as error:
            if not closing.is_set():
                self._say(state="failed", reason=f"{type(error).__name__}: {error}")

    def _follow(self, run_id: str, spec: Mapping[str, Any], closing: threading.Event) -> None:
        if not self._flush(SHIP_S):
            raise TransientBridgeError(f"the episodes did not reach the trainer within {SHIP_S:.0f} s; is it up?")
        if self._cancel.is_set():
            self._say(state="cancelled", reason="cancelled before it was submitted")
            return
        job_id = self._jobs.submit("adapt", spec, run_id).job_id
        self._say(state="training", stage="wait for the trainer", job_id=job_id)
        watcher = threading.Thread(target=self._cancel_when_asked, args=(job_id, closing), daemon=True)
        watcher.start()
        for event in self._jobs.watch(job_id):
            if closing.is_set():
                return
            if event.kind == "progress":
                data = event.data
                self._say(stage=data["stage"], done=data["step"], total=data["total"], metrics=data.get("metrics", {}))
        view = self._jobs.get(job_id)
        if view.state != "done":
            state = "cancelled" if view.state == "cancelled" else "failed"
            if view.error.startswith(REFUSAL):
                self._say(state="refused", reason=view.error.removeprefix(REFUSAL))
            else:
                self._say(state=state, reason=view.error or f"the job was {view.state}")
            return
        result = dict(view.result)
        candidates = result.get("candidates", [])
        if not candidates:
            reason = str(result.get("refused", "the job offered no candidate"))
            self._say(state="refused", reason=reason, result=result)
            return
        self._say(state="staging", stage="stage the candidate", candidate=str(candidates[-1]["id"]), result=result)
        self._wait_staged(str(candidates[-1]["id"]), closing)

    def _wait_staged(self, checkpoint_id: str, closing: threading.Event) -> None:
        deadline = time.monotonic() + STAGE_S
        while checkpoint_id not in self._store.held():
            if time.monotonic() > deadline:
                raise TransientBridgeError(f"{checkpoint_id} did not arrive within {STAGE_S:.0f} s; is it published?")
            if closing.wait(POLL_S):
                return
        self._say(state="ready")

    def _cancel_when_asked(self, job_id: str, closing: threading.Event) -> None:
        while not closing.is_set() and self._answer["state"] == "training":
            if self._cancel.wait(POLL_S):
                try:
                    self._jobs.cancel(job_id)
                except GymnastError as error:
                    self._say(reason=f"cannot cancel: {error}")
                return

    def _say(self, **changes: Any) -> None:
        self._answer = {**self._answer, **changes}
        self._topic.publish(self._answer)


def next_step(policy: str, candidate: str) -> str:
    """What to do with a staged candidate, for the status."""
    return (
        f"compare: set checkpoints of rollout to ['{policy}', '{candidate}'] and call rollout/evaluate; "
        f"keep: set swap_to of bridge to '{candidate}' and call bridge/swap"
    )
