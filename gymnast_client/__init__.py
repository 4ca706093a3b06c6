"""The trainer's client: for robots, notebooks and scripts. Synchronous, typed, over mutual TLS.

    with Trainer("trainer.lab:50051", "identities/ana") as trainer:
        job = trainer.jobs.submit(ImproveSpec(policy="policy-..."))
        for event in trainer.jobs.watch(job):
            print(event.kind, event.data)

What the trainer refuses is raised as the class it was refused with (gymnast_core.errors, gymnast_core.wire.errors).
"""

from typing import TYPE_CHECKING

from gymnast_core.lazy import parts
from gymnast_core.paging import PageDelivery, Tried

if TYPE_CHECKING:
    from gymnast_client.adaptation import Adaptation, Terms
    from gymnast_client.adaptations import AdaptationsClient, AdaptationView, PracticeBudget
    from gymnast_client.checkpoints import CheckpointsClient, CheckpointView, RobotWord
    from gymnast_client.episodes import EpisodesClient, EpisodeView, MadeFrom
    from gymnast_client.jobs import JobsClient
    from gymnast_client.log import CalibrationView, LedgerView, LogClient, LogEntry
    from gymnast_client.loops import LoopProgress, LoopsClient
    from gymnast_client.pages import PagesClient, PageView
    from gymnast_client.queue import QueueClient, QueueEntryView, QueueStartView, RestingQueue
    from gymnast_client.robots import RobotsClient, RobotView
    from gymnast_client.trainer import PageLogin, Trainer
    from gymnast_client.trials import TrialsClient, TrialView

__all__ = [
    "Adaptation",
    "AdaptationView",
    "AdaptationsClient",
    "CalibrationView",
    "CheckpointView",
    "CheckpointsClient",
    "EpisodeView",
    "EpisodesClient",
    "JobsClient",
    "LedgerView",
    "LogClient",
    "LogEntry",
    "LoopProgress",
    "LoopsClient",
    "MadeFrom",
    "PageDelivery",
    "PageLogin",
    "PageView",
    "PagesClient",
    "PracticeBudget",
    "QueueClient",
    "QueueEntryView",
    "QueueStartView",
    "RestingQueue",
    "RobotView",
    "RobotWord",
    "RobotsClient",
    "Terms",
    "Trainer",
    "TrialView",
    "TrialsClient",
    "Tried",
]

__getattr__ = parts(
    __name__,
    {
        "adaptation": ("Adaptation", "Terms"),
        "adaptations": ("AdaptationsClient", "AdaptationView", "PracticeBudget"),
        "checkpoints": ("CheckpointsClient", "CheckpointView", "RobotWord"),
        "episodes": ("EpisodesClient", "EpisodeView", "MadeFrom"),
        "jobs": ("JobsClient",),
        "log": ("CalibrationView", "LedgerView", "LogClient", "LogEntry"),
        "loops": ("LoopProgress", "LoopsClient"),
        "pages": ("PagesClient", "PageView"),
        "queue": ("QueueClient", "QueueEntryView", "QueueStartView", "RestingQueue"),
        "robots": ("RobotsClient", "RobotView"),
        "trainer": ("PageLogin", "Trainer"),
        "trials": ("TrialsClient", "TrialView"),
    },
)
