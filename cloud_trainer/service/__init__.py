"""The trainer's service: episodes in, weights out, jobs; and the authority that decides what a caller may do."""

from typing import TYPE_CHECKING

from cloud_trainer.service.enroll import enroll
from gymnast_core.lazy import parts

if TYPE_CHECKING:
    from cloud_trainer.service.codes import make_code, withdraw_codes
    from cloud_trainer.service.config import Limits, ServiceConfig
    from cloud_trainer.service.ordered_robot import OrderedRobot
    from cloud_trainer.service.revocation import revoke
    from cloud_trainer.service.server import Service
    from cloud_trainer.service.worker import JobContext, Runner

__all__ = [
    "JobContext",
    "Limits",
    "OrderedRobot",
    "Runner",
    "Service",
    "ServiceConfig",
    "enroll",
    "make_code",
    "revoke",
    "withdraw_codes",
]

__getattr__ = parts(
    __name__,
    {
        "codes": ("make_code", "withdraw_codes"),
        "config": ("Limits", "ServiceConfig"),
        "ordered_robot": ("OrderedRobot",),
        "revocation": ("revoke",),
        "server": ("Service",),
        "worker": ("JobContext", "Runner"),
    },
)
