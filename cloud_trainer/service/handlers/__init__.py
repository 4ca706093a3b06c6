"""What may be asked of a trainer, once: the page, the wire and every program behind it reach these.

A handler takes whoever asks and typed arguments, checks the one table of authority, does one thing, writes it into the
log of actions, and returns typed values. Messages are the servicers' business, HTML is the page's.
"""

from dataclasses import dataclass

from cloud_trainer.service.handlers.adaptations import AdaptationHandlers
from cloud_trainer.service.handlers.checkpoints import CheckpointHandlers, KnownCheckpoint
from cloud_trainer.service.handlers.episodes import EpisodeHandlers
from cloud_trainer.service.handlers.flows import Flows
from cloud_trainer.service.handlers.gates import GateHandlers, Shelve
from cloud_trainer.service.handlers.imports import ImportHandlers
from cloud_trainer.service.handlers.jobs import JobCheck, JobHandlers
from cloud_trainer.service.handlers.judging import JudgingHandlers
from cloud_trainer.service.handlers.log import LogHandlers
from cloud_trainer.service.handlers.loops import LoopHandlers
from cloud_trainer.service.handlers.pages import PageHandlers
from cloud_trainer.service.handlers.plans import PlanHandlers, PlanRequest
from cloud_trainer.service.handlers.queue import QueueHandlers, QueueRequest
from cloud_trainer.service.handlers.robots import REPORT_STALE_S, RobotHandlers
from cloud_trainer.service.handlers.trials import TrialHandlers, TrialRequest

__all__ = [
    "REPORT_STALE_S",
    "AdaptationHandlers",
    "CheckpointHandlers",
    "EpisodeHandlers",
    "Flows",
    "GateHandlers",
    "Handlers",
    "ImportHandlers",
    "JobCheck",
    "JobHandlers",
    "JudgingHandlers",
    "KnownCheckpoint",
    "LogHandlers",
    "LoopHandlers",
    "PageHandlers",
    "PlanHandlers",
    "PlanRequest",
    "QueueHandlers",
    "QueueRequest",
    "RobotHandlers",
    "Shelve",
    "TrialHandlers",
    "TrialRequest",
]


@dataclass(frozen=True)
class Handlers:
    """All of one trainer's."""

    flows: Flows
    robots: RobotHandlers
    checkpoints: CheckpointHandlers
    gates: GateHandlers
    imports: ImportHandlers
    episodes: EpisodeHandlers
    jobs: JobHandlers
    adaptations: AdaptationHandlers
    trials: TrialHandlers
    loops: LoopHandlers
    pages: PageHandlers
    queue: QueueHandlers
    log: LogHandlers
    judging: JudgingHandlers
    plans: PlanHandlers
