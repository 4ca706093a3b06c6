"""All parts of a trainer, wired once: service, checkpoints, jobs, flows, the operator's page."""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
from pathlib import Path
from types import TracebackType

from cloud_trainer.app.curves import CurveWatch
from cloud_trainer.app.engines import engine_for, loop_engine_for
from cloud_trainer.app.jobs import JobProcesses
from cloud_trainer.app.judge_process import JudgeProcess
from cloud_trainer.app.policy_process import PolicyProcess
from cloud_trainer.app.settings import AppConfig
from cloud_trainer.console import Console
from cloud_trainer.flows.judge_watch import EpisodeWatch
from cloud_trainer.flows.loop_parts import LoopEngine
from cloud_trainer.flows.replay_watch import ReplayWatch
from cloud_trainer.flows.trials import Trials
from cloud_trainer.jobs.shelf import Shelves
from cloud_trainer.jobs.submission import check_submission
from cloud_trainer.service import Service
from cloud_trainer.service.openpi import OpenpiServer
from cloud_trainer.service.policy import PolicyServicer
from cloud_trainer.store.tenants import PerTenant, closed_folder
from gymnast_core.asked import Asked
from gymnast_core.errors import GymnastError
from gymnast_core.jobs import AdaptSettings
from gymnast_core.wire.address import is_loopback
from gymnast_core.wire.gymnast.v1 import policy_pb2

LOG = logging.getLogger(__name__)


class App:
    """A trainer.

    Args:
        config: see AppConfig.

    Attributes:
        service: its gRPC service.
        shelves: its checkpoints, per tenant.
        page: the operator's page; None where there is none.
        judge_version: what judges real episodes here; empty where nothing does.
        policy_version: what runs here for robots without a GPU; empty where nothing does.
        openpi: serves it to openpi's clients; None where nothing does.

    Raises:
        ConfigError: another trainer runs on the folder, or a setting makes no sense.
        CheckpointError: an imported checkpoint is incomplete or altered.
    """

    def __init__(self, config: AppConfig) -> None:
        self.config, folder = config, config.service.folder
        closed_folder(folder)  # before there is anything in it
        self.shelves = Shelves(folder, config.imports)
        runner = JobProcesses(
            folder, self.shelves, threads=config.threads, memory_gib=config.job_memory_gib, allowed=config.jobs_may,
            given=AdaptSettings(**config.arms.config).model_dump(mode="json"),
        )  # fmt: skip
        openpi = config.openpi  # before anything runs: it refuses to serve the network openly
        self.openpi = None if openpi is None else OpenpiServer(self._ask, openpi, self._certificate(openpi.host))
        self._policy = policy = None if config.policy is None else PolicyProcess(config.policy, config.policy_device)
        self.policy_version = "" if policy is None else policy.version
        servicer = None if policy is None else PolicyServicer(lambda: policy.answer)
        self._judge = judge = None if config.judge is None else JudgeProcess(config.judge)
        self.judge_version = "" if judge is None else judge.version
        self.service = service = Service(config.service, runner, servicer, judge, config.judge_floor)
        self.shelves.report_to(lambda tenant, manifest: service.trails.of(tenant).shelved(manifest))
        service.check_job = functools.partial(
            check_submission, self.shelves, service.episodes_of, allowed=config.jobs_may
        )
        service.shelve = self._shelve
        self._engines = PerTenant(
            lambda tenant: engine_for(service, config.arms, self.shelves.of(tenant), tenant, allowed=config.jobs_may)
        )
        self._watch = ReplayWatch(
            service.episodes, service.jobs, service.ledgers.of, self._can_replay, lambda row: service.blinded(row)
        )
        self._judging = None if judge is None else EpisodeWatch(
            service.episodes, service.judgements, service.trails, judge, config.judge_floor
        )  # fmt: skip
        self._curves = None if config.tensorboard is None else CurveWatch(service.jobs, config.tensorboard)
        self.page: Console | None = None
        self._running = contextlib.ExitStack()

    def __enter__(self) -> App:
        """Start every part.

        Raises:
            GymnastError: a port is taken.
        """
        with contextlib.ExitStack() as starting:
            if self._policy is not None:
                starting.callback(self._policy.close)
            if self._judge is not None:
                starting.callback(self._judge.close)
            flows = self.service.handlers.flows
            starting.callback(flows.close)  # also where the service then does not start
            flows.take_up(self._engines.of, self._loop_engine)  # before anybody can ask for one that is under way
            starting.enter_context(self.service)
            starting.enter_context(self._watch)
            if self._judging is not None:
                starting.enter_context(self._judging)
            if self._curves is not None:
                starting.enter_context(self._curves)
            if self.openpi is not None:
                starting.callback(self.openpi.stop)
                self.openpi.start()
            if self.config.console:
                self.page = starting.enter_context(self._console())
            self._running = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop every part, in the opposite order."""
        self._running.__exit__(kind, error, trace)

    def look(self) -> None:
        """Return once the database has answered, if only with an error; where it hangs, so does this."""
        try:
            self.service.meta.checkpoint("default", "")
        except GymnastError as error:
            LOG.error("database_away error=%s", error)

    def _ask(self, request: policy_pb2.InferRequest) -> policy_pb2.InferReply:
        assert self._policy is not None  # AppConfig: no port without one
        return self._policy.answer(request)

    def _certificate(self, host: str) -> Path | None:
        """Folder of what a port shows; None where only this machine reaches it, or there are no certificates."""
        return None if is_loopback(host) or self.config.service.insecure else self.config.service.folder / "server"

    def _loop_engine(self, tenant: str, trials: Trials) -> LoopEngine:
        shelf = self.shelves.of(tenant)
        return loop_engine_for(self.service, shelf, tenant, trials, allowed=self.config.jobs_may)

    def _console(self) -> Console:
        config, host = self.config, self.config.console_host
        return Console(self.service, host=host, port=config.console_port, tls=not is_loopback(host))

    def _shelve(self, tenant: str, checkpoint_id: str) -> None:
        """Take a checkpoint of the catalogue onto the shelf, where jobs find it."""
        service, shelf = self.service, self.shelves.of(tenant)
        row = service.meta.checkpoint(tenant, checkpoint_id)
        if row is not None and not shelf.holds(checkpoint_id, row.kind):
            shelf.take(row.manifest, service.blobs.local_path(row.weights_digest))

    def _can_replay(self, tenant: str, policy: str) -> bool:
        """Whether an evaluation of a policy can be dreamt again."""
        self._shelve(tenant, policy)
        return self.shelves.of(tenant).can_replay(policy)


def stop_signals() -> Asked:
    """Return what SIGTERM and Ctrl-C set from now on; for the main thread of a process."""
    stop = Asked()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
