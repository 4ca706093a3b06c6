"""gRPC in and out, one module a service: messages to handler calls and typed values to messages, nothing else.

Who calls is checked before (guard), errors become status codes behind (guard).
"""

from cloud_trainer.service.config import Limits
from cloud_trainer.service.handlers import Handlers
from cloud_trainer.service.servicers.adaptations import AdaptationServicer
from cloud_trainer.service.servicers.checkpoints import CheckpointServicer
from cloud_trainer.service.servicers.enroll import EnrollServicer
from cloud_trainer.service.servicers.jobs import JobServicer
from cloud_trainer.service.servicers.judging import JudgeServicer
from cloud_trainer.service.servicers.log import LogServicer
from cloud_trainer.service.servicers.login import ConsoleServicer
from cloud_trainer.service.servicers.loops import LoopServicer
from cloud_trainer.service.servicers.pages import PageServicer
from cloud_trainer.service.servicers.queue import QueueServicer
from cloud_trainer.service.servicers.robots import RobotServicer
from cloud_trainer.service.servicers.trajectories import TrajectoryServicer
from cloud_trainer.service.servicers.trials import TrialServicer
from cloud_trainer.service.servicers.weights import WeightsServicer
from cloud_trainer.service.stopping import Stopping

__all__ = [
    "AdaptationServicer",
    "CheckpointServicer",
    "ConsoleServicer",
    "EnrollServicer",
    "JobServicer",
    "JudgeServicer",
    "LogServicer",
    "LoopServicer",
    "PageServicer",
    "QueueServicer",
    "RobotServicer",
    "TrajectoryServicer",
    "TrialServicer",
    "WeightsServicer",
    "servicers_of",
]


def servicers_of(asked: Handlers, limits: Limits, stopping: Stopping) -> dict[str, object]:
    """Return, by service, the servicers that need nothing of the service but its handlers."""
    return {
        "CheckpointService": CheckpointServicer(asked.checkpoints, asked.gates),
        "AdaptationService": AdaptationServicer(asked.adaptations, limits),
        "TrialService": TrialServicer(asked.trials, limits),
        "RobotService": RobotServicer(asked.robots, limits),
        "LoopService": LoopServicer(asked.loops, limits, stopping),
        "PageService": PageServicer(asked.pages, limits),
        "QueueService": QueueServicer(asked.queue, limits),
        "LogService": LogServicer(asked.log),
        "JudgeService": JudgeServicer(asked.judging),
    }
