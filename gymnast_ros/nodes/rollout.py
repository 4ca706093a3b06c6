"""Runs policies on the arm: episodes, paired evaluations, hot swaps; the policy lives in this process."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_srvs.srv import Trigger

from gymnast_core.episodes import Spool
from gymnast_core.errors import CheckpointError, EstopLatchedError, GymnastError
from gymnast_core.evaluation.purpose import TRIALS
from gymnast_core.policy import Policy
from gymnast_ros.nodes.arming import Arming
from gymnast_ros.nodes.episode_events import EpisodeEvents
from gymnast_ros.nodes.rollout_parameters import chunking, declare
from gymnast_ros.nodes.runtime import Diagnostics, LatchedJson, Settings, run
from gymnast_ros.nodes.topic_env import TopicEnv
from gymnast_ros.run.conduct import ANSWER_S
from gymnast_ros.run.episodes import EpisodePlan, EpisodeRow, EpisodeRunner
from gymnast_ros.run.evaluation import EvaluationPlan, evaluate, summarise, write_result
from gymnast_ros.run.operator import OperatorDesk
from gymnast_ros.run.policy_source import PolicySource
from gymnast_ros.run.worker import Worker
from gymnast_ros.shadow import ShadowBook

LOG = logging.getLogger(__name__)


class RolloutNode(Node):  # type: ignore[misc]
    """Services start jobs in a worker; the worker owns the arm's topics."""

    def __init__(self, **node: Any) -> None:
        super().__init__("rollout", **node)
        self._settings = settings = Settings(self)
        declare(settings)
        folder = Path(settings["folder"])
        self._results = folder / "results"
        self._spool = Spool(folder / "spool")
        recovered = self._spool.recover()
        if recovered:
            self.get_logger().warning(f"recovered episodes={len(recovered)} after a crash")
        self._book = ShadowBook(folder, device=settings["device"], max_latency_s=settings["max_latency_s"])
        self._policies = PolicySource(
            folder / "store", settings["policy"], device=settings["device"], dial=self._dial, book=self._book,
            told=self.get_logger().info,
        )  # fmt: skip
        self._warm_up = threading.Thread(target=self._policies.warm_up, name="warm-up", daemon=True)
        self._warm_up.start()  # beside discovery, which waits for others
        self._worker = Worker()
        self._arming = Arming(self)
        self._desk = OperatorDesk(self._waiting_for_label)
        self._episodes = EpisodeEvents(self)
        self._runner = EpisodeRunner(
            self._connect, self._spool, settings["robot_name"], self._desk.label, finished=self._tell_episode,
            recent=self._book.recent,
        )  # fmt: skip
        self._status: dict[str, Any] = {"state": "idle", "kind": "", "run_id": "", "done": 0, "total": 0}
        self._status_topic = LatchedJson(self, "~/status")
        self._version_topic = LatchedJson(self, "~/policy_version")
        self._result_topic = LatchedJson(self, "~/result")
        for name, handler in (
            ("run_episode", partial(self._start, "run_episode", self._run_episode)),
            ("evaluate", partial(self._start, "evaluate", self._evaluate)),
            ("cancel", self._cancel),
            ("label", self._label),
            ("annotate", self._annotate),
            ("label_success", partial(self._give, "success")),
            ("label_failure", partial(self._give, "failure")),
            ("discard", partial(self._give, "discard")),
        ):
            self.create_service(Trigger, f"~/{name}", handler)
        self._diagnostics = Diagnostics(self, settings["robot_name"], self._health)
        self._set_status(state="idle", bridge_expected=settings["bridge_expected"])
        self._tell_version()
        start = self.resolve_service_name("~/run_episode")
        self.get_logger().info(f"ready; one episode: ros2 service call {start} std_srvs/srv/Trigger")
        self.create_timer(0.5, self._tell_version, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def stop(self) -> None:
        """End the running episode; its recording is kept."""
        self._desk.cancel()
        self._book.close()
        self._worker.close(10.0)
        self._warm_up.join(1.0)  # importing torch may take a quarter of a minute, and holds nothing worth waiting for
        self._runner.close()

    def _start(
        self, kind: str, job: Callable[[str], dict[str, Any]], _: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        run_id = self._worker.start(kind, partial(self._guarded, kind, job))
        response.success = run_id is not None
        response.message = run_id or f"busy with {self._worker.kind} {self._status['run_id']}; cancel it or wait"
        return response

    def _guarded(self, kind: str, job: Callable[[str], dict[str, Any]], run_id: str) -> None:
        """Run a job in the worker; whatever happens, a result with its run id is latched."""
        self._set_status(state="running", kind=kind, run_id=run_id, done=0, total=0, successes=0, message="")
        self.get_logger().info(f"{kind} begins run={run_id}")
        result: dict[str, Any] = {
            "run_id": run_id,
            "kind": kind,
            "ok": False,
            "error": "",
            "stopped": False,
            "file": "",
        }
        try:
            result |= job(run_id)
            result["ok"] = True
        except (GymnastError, OSError) as error:
            result |= {"error": f"{type(error).__name__}: {error}", "stopped": isinstance(error, EstopLatchedError)}
            self.get_logger().error(f"{kind} failed run={run_id} error={error}")
        except Exception as error:  # a run that ended unheard would be waited for
            LOG.exception("run_failed kind=%s run=%s", kind, run_id)
            result["error"] = f"{type(error).__name__}: {error}; the robot's log has the rest"
        self._result_topic.publish(result)
        self._set_status(state="idle", instruction="", message=result["error"])

    def _run_episode(self, run_id: str) -> dict[str, Any]:
        settings = self._settings
        task, instruction = task_and_instruction(settings["instruction"])
        plan = EpisodePlan(
            instruction, task, settings["seed"], settings["scene"], settings["temperature_seed"], settings["record"],
            settings["purpose"],
        )  # fmt: skip
        policy = self._open(settings["checkpoint"])
        self._set_status(total=1, instruction=instruction)
        row = self._arm().run(plan, policy, self._worker.cancelled).to_json()
        return {"episode": {**row, "policy": ""} if plan.purpose in TRIALS else row}

    def _evaluate(self, run_id: str) -> dict[str, Any]:
        settings, started = self._settings, time.monotonic()
        plan = EvaluationPlan(
            tuple(task_and_instruction(name) for name in settings["tasks"]),
            settings["seed_start"], settings["seed_count"], settings["scene"], settings["temperature_seed"],
            settings["record"], settings["purpose"], settings["episode_ids"],
        )  # fmt: skip
        self._set_status(instruction=", ".join(instruction for _, instruction in plan.tasks))
        names = list(settings["checkpoints"]) or [""]
        if self._arming.closed:
            raise EstopLatchedError(
                f"the gate is closed ({self._arming.reason or 'disarmed'}); re-arm it, then evaluate"
            )
        policies = [self._open(name) for name in names]
        rows = evaluate(
            self._arm(), policies, plan, cancelled=self._worker.cancelled, progress=partial(self._progress, run_id),
            renew=(lambda _: self._open("")) if names == [""] else (lambda policy: policy), stopped=self._pause,
        )  # fmt: skip
        path = self._results / f"{run_id}.json"
        result = {
            "run_id": run_id, "scene": plan.scene, "temperature_seed": plan.temperature_seed,
            "seed_start": plan.seed_start, "seed_count": plan.seed_count,
            "checkpoints": [policy.version for policy in policies], "policies": summarise(rows),
            "complete": len(rows) == len(plan.episodes()) * len(policies), "seconds": time.monotonic() - started,
        }  # fmt: skip
        write_result(path, {**result, "episodes": [row.to_json() for row in rows]})
        return {**result, "file": str(path.resolve())}

    def _pause(self, reason: str) -> bool:
        """An e-stop ended an episode of an evaluation: wait for the re-arming, then it goes on."""
        self.get_logger().warning(f"paused: {reason}; the evaluation goes on when the arm is re-armed")
        self._set_status(state="paused", message=f"{reason}; re-arm it to go on, or cancel")
        armed = self._arming.wait_open(self._worker.cancelled)
        self._set_status(state="running", message="")
        return armed

    def _progress(self, run_id: str, done: int, total: int, rows: Sequence[EpisodeRow]) -> None:
        successes = int(self._status.get("successes", 0)) + int(rows[-1].success is True)
        self._set_status(done=done, total=total, successes=successes, last_policy=rows[-1].policy)

    def _arm(self) -> EpisodeRunner:
        """The runner, with the present labelling rules."""
        self._desk.automatic = self._settings["auto_label"]
        self._desk.wait_s = self._settings["label_timeout_s"]
        self._runner.chunking = chunking(self._settings)
        self._runner.answer_s = max(ANSWER_S, 3.0 * self._settings["max_latency_s"])
        return self._runner

    def _connect(self) -> TopicEnv:
        return TopicEnv(
            step_timeout_s=self._settings["step_timeout_s"],
            reset_timeout_s=self._settings["reset_timeout_s"],
            namespace=self.get_namespace(),
            context=self.context,
        )

    def _open(self, name: str) -> Policy:
        self._tell_version()
        try:
            return self._policies.open(name)
        except CheckpointError as error:
            self._episodes.publish(
                name.rpartition("/")[2] or self._policies.version, blame=f"cannot be opened: {error}"
            )
            raise

    def _dial(self, address: str) -> Policy:
        """Reach the policy that a trainer runs for us."""
        from gymnast_ros.uplink import RemotePolicy

        settings = self._settings
        identity = Path(settings["identity"]) if settings["identity"] else None
        deadline_s = settings["remote_deadline_s"]
        return RemotePolicy(address, identity, deadline_s=deadline_s, insecure=settings["insecure"])

    def _tell_episode(self, row: EpisodeRow) -> None:
        outcome = {True: "success", False: "failure", None: "unlabelled"}[row.success]
        cut = f"; cut: {row.truncated_reason}, {row.detail}" if row.truncated_reason else ""
        self.get_logger().info(f"episode {row.episode_id or 'not recorded'}: {row.steps} steps, {outcome}{cut}")
        self._episodes.publish(
            row.policy, steps=row.steps, episode_id=row.episode_id, blame=row.blame, cut=row.truncated_reason
        )

    def _tell_version(self) -> None:
        """Latch the version in force; a swap by the bridge takes effect when the next episode opens it."""
        self._version_topic.publish({"policy_version": self._policies.version})

    def _cancel(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._worker.cancel()
        self._desk.cancel()
        response.message = "ending after this step" if response.success else "nothing is running"
        return response

    def _label(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._give(self._settings["label"], request, response)

    def _give(self, label: str, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.message = self._desk.give(label, self._settings["labelled_by"])
        response.success = not response.message
        return response

    def _annotate(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Note the parameter `annotation` at this moment of the running episode."""
        settings = self._settings
        response.message = self._runner.annotate(settings["annotation"], settings["labelled_by"])
        response.success = not response.message
        return response

    def _waiting_for_label(self, waiting: bool) -> None:
        if waiting:
            name = self.get_fully_qualified_name()
            self.get_logger().info(
                f"label it within {self._desk.wait_s:.0f} s: ros2 service call {name}/label_success "
                "std_srvs/srv/Trigger (or label_failure, discard)"
            )
        self._set_status(state="awaiting_label" if waiting else "running")

    def _set_status(self, **changes: Any) -> None:
        self._status = {**self._status, **changes}
        self._status_topic.publish(self._status)

    def _health(self) -> tuple[int, str, dict[str, object]]:
        usage = self._spool.usage()
        values = {**self._status, "spool_entries": usage.entries, "spool_bytes": usage.bytes}
        return (2 if usage.full else 0), "spool full" if usage.full else str(self._status["state"]), values


def task_and_instruction(name: str) -> tuple[str, str]:
    """A task's name and instruction; anything the simulator does not know is its own name."""
    from gymnast_ros.sim.tasks import TASKS

    for task in TASKS.values():
        if name.strip().lower() in (task.name, task.instruction):
            return task.name, task.instruction
    return name, name


def main() -> int:
    """Run the node."""
    return run(RolloutNode)


if __name__ == "__main__":
    raise SystemExit(main())
