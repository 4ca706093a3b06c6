"""What the bridge node does between robot and trainer: episodes up, checkpoints down, jobs; no episode waits for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from gymnast_client import Trainer
from gymnast_core.episodes import Spool
from gymnast_core.errors import ConfigError
from gymnast_core.records.gate_rule import DAY_S, GateRule
from gymnast_core.records.signing import TrustedKeys
from gymnast_core.robots import robot_named
from gymnast_ros.outbox import PageOutbox
from gymnast_ros.run.adaptation import AdaptationDesk
from gymnast_ros.run.codec import Failure, RobotBusyError
from gymnast_ros.run.dispatch import Began, Ended, Handler
from gymnast_ros.run.orders import OrderedGraph, OrderTaker
from gymnast_ros.run.ports import Log, Publish, Values
from gymnast_ros.run.probation import ProbationWatch
from gymnast_ros.run.requests import (
    Attach,
    CancelJob,
    CancelTrainHere,
    Detach,
    Flush,
    Request,
    Rollback,
    SubmitJob,
    Swap,
    TrainHere,
)
from gymnast_ros.run.weights_desk import WeightsDesk
from gymnast_ros.run.worker import Worker
from gymnast_ros.shadow import ShadowBook
from gymnast_ros.uplink import (
    Adoption,
    Identity,
    PageCourier,
    Reporter,
    RobotNews,
    RobotStore,
    Uplink,
)

MOST_STRAYS = 5
"""Named in the status: what lies among the episodes and is none."""


class Watch(Protocol):
    """What the robot's other nodes report (gymnast_ros.nodes.watch.RobotWatch)."""

    def status(self) -> dict[str, Any]:
        """Return {state, policy_version, instruction, estop, estop_reason}."""
        ...

    def take_frame(self) -> bytes:
        """Return the newest frame as JPEG, once."""
        ...


@dataclass(frozen=True)
class BridgePorts:
    """What the node gives to its jobs.

    Attributes:
        watch: what the robot's other nodes report.
        connect: makes a client of this robot's graph, for the trainer's orders.
        cancel_rollout: ends what the rollout node runs, without waiting.
        status: latches the bridge's state.
        result: latches what became of the newest run.
        event: publishes an event of a job.
        log: of the node.
    """

    watch: Watch
    connect: Callable[[], OrderedGraph]
    cancel_rollout: Callable[[], None]
    status: Publish
    result: Publish
    event: Publish
    log: Log


class BridgeJobs:
    """Owns the uplink and the robot's checkpoints; answers the requests of the bridge node.

    Args:
        settings: parameters of the node.
        ports: see there.

    Attributes:
        probation: counts every episode of the rollout node.
        ended: called with run, result and failure when a run is over.
    """

    def __init__(self, settings: Values, ports: BridgePorts) -> None:
        self._settings, self._ports = settings, ports
        self.ended: Ended = lambda run, result, failure: None
        folder, robot = Path(settings["folder"]), str(settings["robot_name"])
        insecure = bool(settings["insecure"])
        identity = None if insecure else Identity.load(Path(settings["identity"]))
        trainer, log = settings["trainer"], ports.log
        self._spool = Spool(folder / "spool")
        self._store = RobotStore(
            folder / "store", robot=robot, trusted=_trusted(settings), gate=_gate_rule(settings),
            tenant="" if identity is None else identity.peer.tenant,
        )  # fmt: skip
        if self._store.current() is None and settings["policy"]:
            self._store.install(Path(settings["policy"]))
        book = ShadowBook(
            folder, robot_named(settings["robot_model"]), device=settings["device"],
            max_latency_s=settings["max_latency_s"],
        )  # fmt: skip
        self._adoption = Adoption(
            self._store, book, probation_episodes=lambda: int(settings["probation_episodes"]), report=log.info
        )
        self.probation = ProbationWatch(self._store, log)
        self._weights = WeightsDesk(
            settings, self._store, book, adoption=self._adoption, probation=self.probation,
            changed=self.publish_status, log=log,
        )  # fmt: skip
        self._uplink = Uplink(
            trainer, identity, spool=self._spool, store=self._store, insecure=insecure,
            on_event=lambda event: self._adoption.wake(),
        )  # fmt: skip
        self._trainer = Trainer(trainer, identity, insecure=insecure)
        self._orders = OrderTaker(
            allowed=bool(settings["take_orders"]), connect=ports.connect, cancel=ports.cancel_rollout, log=log
        )
        self._pages = PageCourier(trainer, identity, PageOutbox(folder, robot), insecure=insecure)
        self._reporter = Reporter(
            trainer, identity, self._news, ports.watch.take_frame, insecure=insecure,
            period_s=settings["report_period_s"], take=self._orders.take, drop=self._weights.drop,
        )  # fmt: skip
        self._workers = {"submit_job": Worker(), "flush": Worker()}
        self._adaptations = AdaptationDesk(
            settings, self._trainer.adaptations, changed=self.publish_status, result=self._end_adaptation, log=log
        )

    def start(self) -> None:
        """Begin to ship, adopt and report."""
        self._uplink.start()
        self._adoption.start()
        self._reporter.start()
        self._pages.start()
        self.publish_status()

    def stop(self) -> None:
        """Stop shipping; what is not acknowledged stays in the spool."""
        for worker in self._workers.values():
            worker.cancel()
        self._adaptations.close()
        self._trainer.close()
        self._pages.stop(3.0)
        self._reporter.stop(3.0)
        self._orders.close()
        self._adoption.stop(5.0)
        self._uplink.stop(5.0)

    @property
    def handlers(self) -> Mapping[type[Request], Handler]:
        """One for each kind of request."""
        return {
            SubmitJob: lambda asked: self._begin("submit_job", partial(self._submit, asked)),
            Flush: lambda asked: self._begin("flush", partial(self._flush, asked)),
            CancelJob: lambda asked: self._trainer.jobs.cancel(asked.job_id).job_id,
            Swap: self._weights.swap,
            Attach: self._weights.attach,
            Detach: self._weights.detach,
            Rollback: self._weights.rollback,
            TrainHere: self._adaptations.begin,
            CancelTrainHere: self._adaptations.cancel,
        }

    def publish_status(self) -> None:
        """Latch the state of the bridge."""
        usage, staged = self._spool.usage(), self._store.staged()
        self._ports.status({
            "robot": self._settings["robot_name"], "entries": usage.entries, "bytes": usage.bytes, "full": usage.full,
            "strays": [path.name[:80] for path in self._spool.strays()[:MOST_STRAYS]],
            "current": self._store.current_id() or "", "staged": staged.name if staged else "",
            "held": self._store.held(), "checked": self._adoption.checked(), "checking": self._adoption.checking,
            "uplink": _plain(self._uplink.status()), **self.probation.status(),
            "adapters": [vars(one) for one in self._weights.adapters()],
            "adaptation": self._adaptations.status(), "gate": vars(self._weights.gate(self._store.state)),
        })  # fmt: skip

    def health(self) -> tuple[int, str, Mapping[str, object]]:
        """For diagnostics: level, words, values."""
        usage = self._spool.usage()
        strays = len(self._spool.strays())
        values: dict[str, object] = {"entries": usage.entries, "bytes": usage.bytes, "strays": strays}
        if usage.full:
            return 2, "spool full", values
        if strays:
            return (
                1,
                f"{strays} in the spool are no episodes: gymnast doctor --robot {self._settings['folder']}",
                values,
            )
        return 0, "shipping", values

    def _news(self) -> RobotNews:
        """What the trainer's page shows of this robot."""
        usage = self._spool.usage()
        return RobotNews(
            **self._ports.watch.status(), spool_entries=usage.entries, spool_bytes=usage.bytes, spool_full=usage.full,
            alarm=self._uplink.status().alarm, takes_orders=self._orders.allowed, order=self._orders.news(),
            weights=self._weights.news(),
        )  # fmt: skip

    def _begin(self, kind: str, job: Callable[[], Mapping[str, object]]) -> Began:
        run_id = self._workers[kind].start(kind, partial(self._guarded, kind, job), self._end)
        if run_id is None:
            raise RobotBusyError(f"busy with another {kind}; cancel it or wait")
        return Began(run_id)

    def _guarded(
        self, kind: str, job: Callable[[], Mapping[str, object]], run_id: str
    ) -> tuple[dict[str, object], Failure | None]:
        """Run a job in its worker; whatever happens, there is a result with its run id."""
        result: dict[str, Any] = {"run_id": run_id, "kind": kind, "ok": False, "error": ""}
        failure = None
        try:
            result |= {**job(), "ok": True}
        except Exception as error:  # noqa: BLE001 - a run that ended unheard would be waited for
            failure = Failure.of(error)
            result["error"] = f"{failure.error}: {error}"
            self._ports.log.error(f"{kind} failed run={run_id} error={error}")
        return result, failure

    def _end(self, run_id: str, outcome: tuple[dict[str, object], Failure | None]) -> None:
        result, failure = outcome
        self._ports.result(result)
        self.ended(run_id, result, failure)

    def _end_adaptation(self, result: Mapping[str, Any], failure: Failure | None) -> None:
        self._end(result["run_id"], (dict(result), failure))

    def _submit(self, asked: SubmitJob) -> dict[str, object]:
        """Submit a job and pass its events on until it ends."""
        view = self._trainer.jobs.submit(asked.kind, asked.spec, asked.key)
        last: dict[str, Any] = {"job_id": view.job_id, "key": asked.key, "sequence": 0, "kind": "submitted"}
        self._ports.event(last)
        for event in self._trainer.jobs.watch(view.job_id):
            last = {
                "job_id": view.job_id, "key": asked.key, "sequence": event.sequence, "kind": event.kind,
                "time_ns": event.time_ns, "data": dict(event.data),
            }  # fmt: skip
            self._ports.event(last)
            if self._workers["submit_job"].cancelled():
                break
        return {"job_id": view.job_id, "last": last}

    def _flush(self, asked: Flush) -> dict[str, object]:
        if not self._uplink.flush(asked.timeout_s):
            raise ConfigError(f"{self._spool.usage().entries} episodes still wait; is the trainer reachable?")
        return {"entries": 0}


def _trusted(settings: Values) -> TrustedKeys | None:
    """Keys that may sign releases: named ones, else those of the identity."""
    if settings["trusted_keys"]:
        return TrustedKeys.load(Path(settings["trusted_keys"]))
    beside = Path(settings["identity"]) / "trust.pub"
    return TrustedKeys.load(beside) if settings["identity"] and beside.is_file() else None


def _gate_rule(settings: Values) -> GateRule:
    """What a release must show before this robot takes it in."""
    return GateRule(settings["gate"], bool(settings["gate_overrides"]), float(settings["gate_days"]) * DAY_S)


def _plain(status: object) -> dict[str, object]:
    """JSON values of a status dataclass."""
    values: dict[str, Any] = json.loads(json.dumps(vars(status), default=str))
    return values
