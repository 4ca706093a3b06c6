"""gRPC in and out, one module a service: messages to handler calls and typed values to messages, nothing else.

Who calls is checked before (guard), errors become status codes behind (guard).
"""

from cloud_trainer.service.servicers.adaptations import AdaptationServicer
from cloud_trainer.service.servicers.checkpoints import CheckpointServicer
from cloud_trainer.service.servicers.enroll import EnrollServicer
from cloud_trainer.service.servicers.jobs import JobServicer
from cloud_trainer.service.servicers.judging import JudgeServicer
from cloud_trainer.service.servicers.log import LogServicer
from cloud_trainer.service.servicers.login import ConsoleServicer
from cloud_trainer.service.servicers.loops import LoopServicer
from cloud_trainer.service.servicers.pages import PageServicer
from cloud_trainer.service.servicers.robots import RobotServicer
from cloud_trainer.service.servicers.trajectories import TrajectoryServicer
from cloud_trainer.service.servicers.trials import TrialServicer
from cloud_trainer.service.servicers.weights import WeightsServicer

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
    "RobotServicer",
    "TrajectoryServicer",
    "TrialServicer",
    "WeightsServicer",
]
