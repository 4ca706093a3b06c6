"""Joins the robot to its trainer: episodes up, checkpoints down, jobs; nothing here can delay an episode."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import Trigger

from gymnast_core.episodes import Spool
from gymnast_core.errors import ConfigError, GymnastError
from gymnast_core.records.signing import TrustedKeys
from gymnast_ros.nodes import adaptation, messages, topics
from gymnast_ros.nodes.client import GraphClient
from gymnast_ros.nodes.ears import listen
from gymnast_ros.nodes.rollout_parameters import declare_max_latency
from gymnast_ros.nodes.runtime import Diagnostics, LatchedJson, Settings, run
from gymnast_ros.nodes.watch import RobotWatch
from gymnast_ros.run.adaptation import AdaptationDesk
from gymnast_ros.run.orders import OrderTaker
from gymnast_ros.run.probation import ProbationWatch
from gymnast_ros.run.worker import Worker
from gymnast_ros.shadow import ShadowBook
from gymnast_ros.uplink import (
    Adoption,
    ConsoleClient,
    Identity,
    JobsClient,
    Reporter,
    RobotNews,
    RobotStore,
    Uplink,
    WeightsNews,
)

PROBATION_EPISODES = 3
MOST_REFUSED = 8
"""Named in a report, the newest ones."""


class BridgeNode(Node):  # type: ignore[misc]
    """Owns the uplink; services start work in threads and answer with a run id."""

    def __init__(self, **node: Any) -> None:
        super().__init__("bridge", **node)
        settings = self._settings = Settings(self)
        _declare(settings)
        folder, robot = Path(settings["folder"]), str(settings["robot_name"])
        identity = None if settings["insecure"] else Identity.load(Path(settings["identity"]))
        insecure = bool(settings["insecure"])
        self._spool = Spool(folder / "spool")
        self._store = RobotStore(folder / "store", robot=robot, trusted=_trusted(settings))
        if self._store.current() is None and settings["policy"]:
            self._store.install(Path(settings["policy"]))
        self._book = ShadowBook(folder, device=settings["device"], max_latency_s=settings["max_latency_s"])
        self._adoption = Adoption(
            self._store, self._book, probation_episodes=lambda: int(self._settings["probation_episodes"]),
            told=self.get_logger().info,
        )  # fmt: skip
        self._uplink = Uplink(
            settings["trainer"], identity, spool=self._spool, store=self._store, insecure=insecure,
            on_event=lambda event: self._adoption.wake(),
        )  # fmt: skip
        self._jobs = JobsClient(settings["trainer"], identity, insecure=insecure)
        self._watch = RobotWatch(self)
        self._end_rollout = self.create_client(Trigger, topics.CANCEL)
        self._orders = OrderTaker(
            allowed=bool(settings["take_orders"]),
            connect=partial(GraphClient, namespace=self.get_namespace().strip("/"), local_only=False),
            cancel=self._cancel_rollout, log=self.get_logger(),
        )  # fmt: skip
        self._reporter = Reporter(
            settings["trainer"], identity, self._news, self._watch.take_frame, insecure=insecure,
            period_s=settings["report_period_s"], take=self._orders.take,
        )  # fmt: skip
        self._probation = ProbationWatch(self._store, self.get_logger())
        listen(self, String, topics.EPISODE, self._on_episode, topics.JOB_EVENTS)
        self._workers = {"submit_job": Worker(), "flush": Worker()}
        self._status_topic = LatchedJson(self, "~/status")
        self._result_topic = LatchedJson(self, "~/result")
        self._events = self.create_publisher(String, "~/job_events", topics.JOB_EVENTS)
        for name, job in (("submit_job", self._submit), ("flush", self._flush)):
            self.create_service(Trigger, f"~/{name}", partial(self._start, name, job))
        for name, change in (("cancel_job", self._cancel), ("swap", self._swap), ("rollback", self._rollback)):
            self.create_service(Trigger, f"~/{name}", partial(self._answer, change))
        self._page = ConsoleClient(settings["trainer"], identity, insecure=insecure)
        self._adaptations = AdaptationDesk(
            settings, self._page, changed=self._publish_status, result=self._result_topic.publish,
            log=self.get_logger(),
        )  # fmt: skip
        adaptation.serve(self, self._adaptations)
        self._uplink.start()
        self._adoption.start()
        self._reporter.start()
        self.create_timer(0.5, self._publish_status, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._diagnostics = Diagnostics(self, robot, self._health)
        self._publish_status()

    def stop(self) -> None:
        """Stop shipping; what is not acknowledged stays in the spool."""
        for worker in self._workers.values():
            worker.cancel()
        self._adaptations.close()
        self._page.close()
        self._reporter.stop(3.0)
        self._orders.close()
        self._adoption.stop(5.0)
        self._uplink.stop(5.0)

    def _on_episode(self, message: String) -> None:
        self._probation.on_episode(messages.from_json(message))

    def _cancel_rollout(self) -> None:
        if self._end_rollout.service_is_ready():
            self._end_rollout.call_async(Trigger.Request())

    def _news(self) -> RobotNews:
        """What the trainer's page shows of this robot."""
        usage = self._spool.usage()
        return RobotNews(
            **self._watch.status(), spool_entries=usage.entries, spool_bytes=usage.bytes, spool_full=usage.full,
            alarm=self._uplink.status().alarm, takes_orders=self._orders.allowed, order=self._orders.news(),
            weights=self._weights_news(),
        )  # fmt: skip

    def _weights_news(self) -> WeightsNews:
        """What became of the checkpoints this robot was given."""
        state = self._store.state
        return WeightsNews(
            current=self._store.current_id() or "", since_ns=state.since_ns, obeyed=state.obeyed,
            checking=self._adoption.checking, probation_left=state.probation.left if state.probation else 0,
            refused=list(state.failed.items())[-MOST_REFUSED:], held=self._store.held(),
            ran=self._probation.ran, ran_ns=self._probation.ran_ns,
        )  # fmt: skip

    def _start(
        self, kind: str, job: Callable[[], Mapping[str, Any]], _: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        run_id = self._workers[kind].start(kind, partial(self._guarded, kind, job))
        response.success = run_id is not None
        response.message = run_id or f"busy with another {kind}; cancel it or wait"
        return response

    def _guarded(self, kind: str, job: Callable[[], Mapping[str, Any]], run_id: str) -> None:
        """Whatever happens, a result with this run id is latched."""
        result: dict[str, Any] = {"run_id": run_id, "kind": kind, "ok": False, "error": ""}
        try:
            result |= {**job(), "ok": True}
        except (GymnastError, OSError, ValueError) as error:
            result["error"] = f"{type(error).__name__}: {error}"
            self.get_logger().error(f"{kind} failed run={run_id} error={error}")
        self._result_topic.publish(result)

    def _submit(self) -> dict[str, Any]:
        """Submit the parameter `job` and pass its events on until it ends."""
        wanted = json.loads(self._settings["job"])
        view = self._jobs.submit(wanted["kind"], wanted["spec"], wanted["key"])
        last: dict[str, Any] = {"job_id": view.job_id, "key": wanted["key"], "sequence": 0, "kind": "submitted"}
        self._events.publish(messages.to_json(last))
        for event in self._jobs.watch(view.job_id):
            last = {
                "job_id": view.job_id, "key": wanted["key"], "sequence": event.sequence, "kind": event.kind,
                "time_ns": event.time_ns, "data": dict(event.data),
            }  # fmt: skip
            self._events.publish(messages.to_json(last))
            if self._workers["submit_job"].cancelled():
                break
        return {"job_id": view.job_id, "last": last}

    def _flush(self) -> dict[str, Any]:
        """Wait until the spool is empty."""
        if not self._uplink.flush(float(self._settings["flush_timeout_s"])):
            raise ConfigError(f"{self._spool.usage().entries} episodes still wait; is the trainer reachable?")
        return {"entries": 0}

    def _cancel(self) -> str:
        return self._jobs.cancel(self._settings["job_id"]).job_id

    def _swap(self) -> str:
        """The rollout node opens what is current when its next episode starts: an episode boundary by construction."""
        checkpoint_id = self._settings["swap_to"]
        if not checkpoint_id:
            staged = self._store.staged()
            if staged is None:
                raise ConfigError("no checkpoint is staged; publish one first")
            checkpoint_id = staged.name
        if checkpoint_id in self._store.state.staged and self._book.report(checkpoint_id) is None:
            raise ConfigError(f"{checkpoint_id} is not checked yet; wait until bridge/status lists it as checked")
        scene = json.loads(self._settings["swap_scene"])
        asked = int(self._settings["swap_probation_episodes"])
        episodes = int(self._settings["probation_episodes"]) if asked < 0 else asked
        return self._store.swap(checkpoint_id, probation_episodes=episodes, fingerprint=scene or None).name

    def _rollback(self) -> str:
        return self._store.rollback("operator").name

    def _answer(self, change: Callable[[], str], _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            response.message = change()
            response.success = True
        except GymnastError as error:
            response.success, response.message = False, str(error)
        self._publish_status()
        return response

    def _publish_status(self) -> None:
        usage, staged = self._spool.usage(), self._store.staged()
        status = {
            "robot": self._settings["robot_name"], "entries": usage.entries, "bytes": usage.bytes, "full": usage.full,
            "current": self._store.current_id() or "", "staged": staged.name if staged else "",
            "held": self._store.held(), "checked": self._adoption.checked(), "checking": self._adoption.checking,
            "uplink": _plain(self._uplink.status()), **self._probation.status(),
            "adaptation": self._adaptations.status(),
        }  # fmt: skip
        self._status_topic.publish(status)

    def _health(self) -> tuple[int, str, dict[str, object]]:
        usage = self._spool.usage()
        values: dict[str, object] = {"entries": usage.entries, "bytes": usage.bytes}
        return (2 if usage.full else 0), "spool full" if usage.full else "shipping", values


def _trusted(settings: Settings) -> TrustedKeys | None:
    """Keys that may sign releases: named ones, else those of the identity."""
    if settings["trusted_keys"]:
        return TrustedKeys.load(Path(settings["trusted_keys"]))
    beside = Path(settings["identity"]) / "trust.pub"
    return TrustedKeys.load(beside) if settings["identity"] and beside.is_file() else None


def _plain(status: object) -> dict[str, Any]:
    """JSON values of a status dataclass."""
    values: dict[str, Any] = json.loads(json.dumps(vars(status), default=str))
    return values


def _declare(settings: Settings) -> None:
    add = settings.declare
    add("folder", "runs/robot", "spool/ and store/ live here", read_only=True)
    add("robot_name", "sim-0", "this robot's name at the trainer", read_only=True)
    add("trainer", "127.0.0.1:50051", "host:port", read_only=True)
    add("identity", "", "folder with cert.pem, key.pem, ca.pem", read_only=True)
    add("insecure", False, "no TLS; tests on one machine", read_only=True)
    add("trusted_keys", "", "file or folder of keys that may sign releases", read_only=True)
    add("policy", "", "checkpoint folder installed when the store is empty", read_only=True)
    add("swap_to", "", "swap: checkpoint id; empty is the newest staged one")
    add("swap_scene", "{}", "swap: JSON fingerprint of the one scene it drives in; {} is everywhere",
        check=adaptation.json_error)  # fmt: skip
    add("probation_episodes", PROBATION_EPISODES, "good episodes a checkpoint needs here before it is trusted", low=0,
        high=10_000)  # fmt: skip
    add("swap_probation_episodes", -1, "swap: instead of probation_episodes, for this swap alone; -1 keeps that",
        low=-1, high=10_000)  # fmt: skip
    add("device", "auto", "where a large checkpoint is checked, as on the rollout node", read_only=True)
    declare_max_latency(settings)
    add("take_orders", False, "the trainer's operators may run episodes on this robot", read_only=True)
    add("job", "{}", "submit_job: JSON {kind, spec, key}", check=_job_error)
    add("job_id", "", "cancel_job: which one")
    add("report_period_s", 1.0, "how often the trainer hears how the robot is", low=0.3, high=3600.0, read_only=True)
    adaptation.declare(settings)
    add("flush_timeout_s", 120.0, "longest wait for an empty spool", low=0.1, high=3600.0)


def _job_error(value: str) -> str:
    try:
        job = json.loads(value)
    except ValueError as error:
        return f"is not JSON: {error}"
    missing = [name for name in ("kind", "spec", "key") if name not in job] if job else []
    return f"lacks {missing}" if missing else ""


def main() -> int:
    """Run the node."""
    return run(BridgeNode)


if __name__ == "__main__":
    raise SystemExit(main())
