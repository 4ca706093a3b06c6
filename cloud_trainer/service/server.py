"""Puts the service together, starts and stops it; long because it names every part once."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path

import grpc
from blake3 import blake3
from grpc_health.v1 import health_pb2

from cloud_trainer.flows.judge_watch import ServingJudge
from cloud_trainer.flows.queues import RobotQueues
from cloud_trainer.paging.config import PagingConfig, read_paging
from cloud_trainer.paging.desk import PageDesk
from cloud_trainer.records.before import bring_in
from cloud_trainer.records.gates import GateBook
from cloud_trainer.records.ledger import CalibrationLedger
from cloud_trainer.records.precision import FLOOR, checked_floor
from cloud_trainer.records.recorder import Recorder
from cloud_trainer.records.trail import Trails
from cloud_trainer.service import metrics
from cloud_trainer.service.auth import INSECURE_PEER
from cloud_trainer.service.certificate import ServerCertificate
from cloud_trainer.service.codes import OpenCodes
from cloud_trainer.service.config import ServiceConfig
from cloud_trainer.service.enroll import create_authority, release_key
from cloud_trainer.service.gates import GateDesk
from cloud_trainer.service.guard import Guard
from cloud_trainer.service.handlers import (
    AdaptationHandlers,
    CheckpointHandlers,
    EpisodeHandlers,
    Flows,
    GateHandlers,
    Handlers,
    ImportHandlers,
    JobCheck,
    JobHandlers,
    JudgingHandlers,
    LogHandlers,
    LoopHandlers,
    PageHandlers,
    PlanHandlers,
    QueueHandlers,
    RobotHandlers,
    Shelve,
    TrialHandlers,
)
from cloud_trainer.service.ingest import Ingest
from cloud_trainer.service.lock import FolderLock
from cloud_trainer.service.methods import grpc_server
from cloud_trainer.service.orders import RobotOrders
from cloud_trainer.service.pace import RobotPace
from cloud_trainer.service.page_watch import PageWatch
from cloud_trainer.service.policy import PolicyServicer
from cloud_trainer.service.publish import Publisher
from cloud_trainer.service.reach import BlobReach
from cloud_trainer.service.robots import RobotBoard
from cloud_trainer.service.servicers import (
    ConsoleServicer,
    EnrollServicer,
    JobServicer,
    TrajectoryServicer,
    WeightsServicer,
    servicers_of,
)
from cloud_trainer.service.stopping import Stopping
from cloud_trainer.service.validation import Validator
from cloud_trainer.service.words import RobotWords
from cloud_trainer.service.worker import JobContext, Runner, Workers
from cloud_trainer.store import open_blobs
from cloud_trainer.store.database import Database
from cloud_trainer.store.episodes import EpisodeCatalogue
from cloud_trainer.store.judgements import SqlJudgements
from cloud_trainer.store.protocols import EpisodeRow, JobRow
from cloud_trainer.store.sql_jobs import SqlJobStore
from cloud_trainer.store.sql_meta import SqlMetaStore
from cloud_trainer.store.sql_queue import SqlQueueStore
from cloud_trainer.store.tenants import CHECKPOINTS, PerTenant, closed_folder, tenant_folder
from gymnast_core.episodes.durable import write_durably
from gymnast_core.paging import KINDS
from gymnast_core.wire.address import Address, listen, reached_here
from gymnast_core.wire.allocator import keep_freed_memory
from gymnast_core.wire.identity import Peer
from gymnast_core.wire.revocation import Revocations, RevokedFile

LOG = logging.getLogger(__name__)
_STOP_GRACE_S = 10.0
LISTENS = Path("server/listens.json")
"""In the service's folder: where it listens, for commands on this machine."""


def database_url(config: ServiceConfig) -> str:
    """The database of a trainer."""
    return config.database_url or f"sqlite:///{config.folder / 'store.db'}"


def what_is_kept(folder: Path) -> str:
    """What of a trainer's folder only its database gives a meaning to; empty in a fresh one."""
    if next((folder / "blobs").glob("??/*"), None) is not None:
        return f"{folder / 'blobs'} holds files"
    return f"{folder / 'provenance.db'} holds records" if (folder / "provenance.db").is_file() else ""


class Service:
    """The trainer's side of the bridge.

    Args:
        config: where and how.
        runner: does jobs in this process's worker threads; None leaves them to trainers that claim them over the wire.
        policy: a servicer for PolicyService, where this machine runs policies for robots.
        judge: labels real episodes where it is proven; None labels none.
        judge_floor: what proves it, see cloud_trainer.records.precision.

    Attributes:
        check_job: asked before a job is taken on, with its tenant, kind and spec; raises GymnastError where it cannot
            run. None takes every job on.
        handlers: everything that may be asked of this trainer.

    Raises:
        ConfigError: another trainer runs on this folder.
    """

    def __init__(
        self, config: ServiceConfig, runner: Runner | None = None, policy: PolicyServicer | None = None,
        judge: ServingJudge | None = None, judge_floor: float = FLOOR,
    ) -> None:  # fmt: skip
        self.config = config
        folder = config.folder
        closed_folder(folder)
        self._paging = read_paging(config.pages) if config.pages else PagingConfig()  # a wrong one starts nothing
        self._judge = judge, checked_floor(judge_floor)
        self._lock = FolderLock(folder)
        try:
            self._open(folder, runner, policy)
        except BaseException:
            self._lock.release()
            raise

    def _open(self, folder: Path, runner: Runner | None, policy: PolicyServicer | None) -> None:
        """Open the stores; one that is damaged or lost refuses here."""
        config = self.config
        self.authority = folder / "ca"
        create_authority(self.authority)
        self.revocations = Revocations(RevokedFile(self.authority))
        self._codes = OpenCodes(self.authority)
        self.certificate = ServerCertificate(self.authority, folder / "server", (*config.names, config.host))
        self._database = Database(database_url(config), kept=what_is_kept(folder))
        recorder = Recorder(self._database)
        self.meta, self.jobs = SqlMetaStore(self._database, recorder), SqlJobStore(self._database)
        self.blobs = open_blobs(config.blob_url, folder, config.blob_options)
        try:
            bring_in(folder, self._database, self.meta, recorder)
            self.trails = Trails(folder, self._database, self.meta, recorder)
        except BaseException:
            self._database.close()
            raise
        self.pages = PageDesk(self._database, self._paging)
        self.judgements = SqlJudgements(self._database)
        self.ledgers = PerTenant(lambda tenant: CalibrationLedger(self._database, tenant))
        self.robots, self.orders, self.words = RobotBoard(), RobotOrders(), RobotWords(self.trails)
        self.gates = GateDesk(GateBook(recorder.graph), self.robots)
        self.console = ConsoleServicer()
        self.check_job: JobCheck | None = None
        self.shelve: Shelve | None = None
        self.validator = Validator(self.blobs, self.meta, folder / "validating.txt")
        self.episodes = self.episodes_of(None)
        staging = folder / "staging"
        self.ingest = Ingest(staging, self.blobs, self.meta, config.limits, on_commit=self._committed)
        self.publisher = Publisher(
            self.blobs, self.meta, release_key(self.authority), staging, valid_s=config.release_valid_s,
            shelves=lambda tenant: tenant_folder(folder, tenant) / CHECKPOINTS, gate_of=self.gates.record_for,
        )  # fmt: skip
        self._stopping = Stopping()
        self._wake = threading.Event()
        name = f"local-{blake3(str(folder.resolve()).encode()).hexdigest()[:8]}"
        self._workers = None
        if runner:
            beside = config.interactive_workers
            self._workers = Workers(self.jobs, runner, self._context, config.workers, name, interactive=beside)
        self.queues = RobotQueues(
            SqlQueueStore(self._database), self.meta, lambda tenant: self.handlers.episodes.newest_sequence(tenant),
            lambda tenant, kind, flow: self.handlers.flows.over(tenant, kind, flow),
            lambda tenant, kind, flow: self.handlers.flows.over(tenant, kind, flow, stopping=False),
        )  # fmt: skip
        self.handlers = self._handlers(folder)
        self._watch = PageWatch(self.pages, self.robots, self.orders, self.words, self.handlers.flows,
                                self.queues.book)  # fmt: skip
        self._guard = Guard(self._caller, config)
        self._server = self._build(staging, policy)
        self.address = ""
        self.metrics_port = 0

    def start(self) -> str:
        """Listen; returns host:port as this machine reaches it, and writes it to config.port_file.

        Raises:
            ConfigError: the host is none of this machine's.
            GymnastError: the port is taken.
        """
        port = self._listen()
        self.address = str(Address(reached_here(self.config.host), port))
        write_durably(self.config.folder / LISTENS, json.dumps({"host": self.config.host, "port": port}).encode())
        keep_freed_memory()
        self._server.start()
        self.revocations.start()
        self._guard.patience.start()
        self.validator.start()
        self.pages.start()
        self._watch.start()
        if self._workers:
            self._workers.start()
        self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        if self.config.metrics_port is not None:
            self.metrics_port = metrics.serve(self.config.metrics_port)
        if self.config.port_file is not None:
            write_durably(self.config.port_file, self.address.encode())
        LOG.info("serving address=%s host=%s folder=%s", self.address, self.config.host, self.config.folder)
        return self.address

    def stop(self, grace_s: float = _STOP_GRACE_S) -> None:
        """Refuse new work, finish or persist what is under way, close the stores."""
        self.queues.close()
        self.orders.close()
        self._watch.stop()
        self.handlers.flows.close()
        self._health.enter_graceful_shutdown()
        self._stopping.set()
        self.publisher.wake()
        self._server.stop(grace_s).wait(grace_s + 1)
        if self._workers:
            self._workers.stop(grace_s)
        self.revocations.stop()
        self._guard.patience.stop()
        self.certificate.stop()
        self.ingest.close()
        self.validator.stop()
        self.pages.stop()
        self.meta.close()
        self._lock.release()
        LOG.info("stopped address=%s", self.address)

    def __enter__(self) -> Service:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def blinded(self, row: EpisodeRow) -> bool:
        """Whether an episode may be a run of a trial that is not decided: its policy is then shown to nobody."""
        return self.handlers.flows.blinds(row)

    def episodes_of(self, tenant: str | None) -> EpisodeCatalogue:
        """Return the valid episodes of a tenant; of all, when None."""
        return EpisodeCatalogue(self.meta, self.blobs, tenant, self.validator.settle)

    def _check_job(self, tenant: str, kind: str, spec: Mapping[str, object]) -> None:
        if self.check_job is not None:
            self.check_job(tenant, kind, spec)

    def _shelved(self, tenant: str, checkpoint_id: str) -> None:
        if self.shelve is not None:
            self.shelve(tenant, checkpoint_id)

    def _committed(self, rows: list[EpisodeRow]) -> None:
        metrics.EPISODES.inc(len(rows))
        metrics.BYTES.inc(sum(row.size for row in rows))
        self.validator.wake()

    def _context(self, job: JobRow, stop: threading.Event) -> JobContext:
        episodes = self.episodes_of(job.tenant)
        folder = self.config.folder / "jobs" / job.job_id
        folder.mkdir(parents=True, exist_ok=True)
        ledger = self.ledgers.of(job.tenant)
        return JobContext(
            job, episodes, self.blobs, self.meta, self.publisher, self.gates, ledger, folder, self.jobs, stop
        )

    def _listen(self) -> int:
        """Take the port; returns it. gRPC does not say why it cannot, so a listener of our own asks first."""
        host = self.config.host
        (self.config.folder / LISTENS.parent).mkdir(exist_ok=True, mode=0o700)
        listen(host, self.config.port, what="the trainer").close()
        target = str(Address(host, self.config.port))
        if self.config.insecure:
            LOG.warning("insecure_port host=%s: anybody who can reach it is admin", host)
            return int(self._server.add_insecure_port(target))
        self.certificate.start()
        return int(self._server.add_secure_port(target, self.certificate.credentials(self._codes.client_authorities)))

    def _handlers(self, folder: Path) -> Handlers:
        wake = self._workers._wake if self._workers else self._wake
        flows, pace = Flows(folder / "console"), RobotPace(self.config.limits.robot_jobs_per_hour)
        most = self.config.limits.robot_pages_per_hour
        raised = {kind: RobotPace(most, "raised {} pages", "--limit-robot-pages-per-hour") for kind in KINDS}
        robots = RobotHandlers(self.robots, self.orders, self.words, self.meta, self.queues.dispatch, self.trails)
        checkpoints = CheckpointHandlers(
            folder, self.meta, self.blobs, self.publisher, self.trails, robots, flows, self.gates
        )
        jobs = JobHandlers(self.jobs, self.trails, self._check_job, wake, self.config.limits.waiting_jobs, pace)
        episodes = EpisodeHandlers(self.meta, self.trails, flows, self.episodes_of, self.judgements)
        adaptations = AdaptationHandlers(flows, robots, self.trails, pace)
        trials, loops = TrialHandlers(flows, robots, checkpoints, self.trails), LoopHandlers(flows, robots, self.trails)
        stops = {"trial": trials.stop, "adaptation": adaptations.cancel, "loop": loops.stop}
        most_open = self.config.limits.queue_entries
        return Handlers(
            flows=flows,
            robots=robots,
            checkpoints=checkpoints,
            episodes=episodes,
            jobs=jobs,
            gates=GateHandlers(self.gates, checkpoints, robots, jobs, self._shelved),
            imports=ImportHandlers(self.publisher, self.trails, self._shelved),
            adaptations=adaptations,
            trials=trials,
            loops=loops,
            pages=PageHandlers(self.pages, self.trails, raised),
            queue=QueueHandlers(self.queues, flows, robots, self.trails, most_open, stops),
            log=LogHandlers(self.trails, self.ledgers),
            judging=JudgingHandlers(self.judgements, episodes, *self._judge),
            plans=PlanHandlers(jobs, robots, checkpoints),
        )

    def _servicers(self, staging: Path, policy: PolicyServicer | None) -> dict[str, object]:
        limits, stopping, asked = self.config.limits, self._stopping, self.handlers
        servicers: dict[str, object] = {
            "TrajectoryService": TrajectoryServicer(self.ingest, asked.episodes, limits, stopping),
            "WeightsService": WeightsServicer(
                asked.checkpoints, asked.imports, asked.log, self.blobs, BlobReach(self.meta), limits, stopping, staging
            ),
            "JobService": JobServicer(asked.jobs, limits, stopping),
            **servicers_of(asked, limits, stopping),
            "ConsoleService": self.console,
            "EnrollService": EnrollServicer(None if self.config.insecure else self._codes, self.revocations),
        }
        return {**servicers, "PolicyService": policy} if policy is not None else servicers

    def _build(self, staging: Path, policy: PolicyServicer | None) -> grpc.Server:
        server, self._health = grpc_server(self._guard, self.config.limits, self._servicers(staging, policy))
        return server

    def _caller(self, context: grpc.ServicerContext) -> Peer | None:
        """Whose call it is: somebody with an identity of ours, or a newcomer with a code."""
        if self.config.insecure:
            return INSECURE_PEER
        certificates = context.auth_context().get("x509_pem_cert")
        newcomer = self._codes.newcomer(bytes(certificates[0])) if certificates else None
        return newcomer or self.revocations.admit(context)
