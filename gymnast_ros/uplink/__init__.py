"""The robot's side of the link to the trainer: episodes up, weights down, reports, a remote policy. No ROS in here."""

from typing import TYPE_CHECKING

from gymnast_core.lazy import parts
from gymnast_core.wire.identity import Identity

if TYPE_CHECKING:
    from gymnast_ros.uplink.adoption import Adoption
    from gymnast_ros.uplink.courier import PageCourier
    from gymnast_ros.uplink.enroll import fetch_identity
    from gymnast_ros.uplink.remote_judge import RemoteJudge
    from gymnast_ros.uplink.remote_policy import RemotePolicy
    from gymnast_ros.uplink.reporter import Reporter, RobotNews, WeightsNews
    from gymnast_ros.uplink.robot_store import RobotStore
    from gymnast_ros.uplink.status import UplinkEvent, UplinkStatus
    from gymnast_ros.uplink.uplink import Uplink

__all__ = [
    "Adoption",
    "Identity",
    "PageCourier",
    "RemoteJudge",
    "RemotePolicy",
    "Reporter",
    "RobotNews",
    "RobotStore",
    "Uplink",
    "UplinkEvent",
    "UplinkStatus",
    "WeightsNews",
    "fetch_identity",
]

__getattr__ = parts(
    __name__,
    {
        "adoption": ("Adoption",),
        "courier": ("PageCourier",),
        "enroll": ("fetch_identity",),
        "remote_judge": ("RemoteJudge",),
        "remote_policy": ("RemotePolicy",),
        "reporter": ("Reporter", "RobotNews", "WeightsNews"),
        "robot_store": ("RobotStore",),
        "status": ("UplinkEvent", "UplinkStatus"),
        "uplink": ("Uplink",),
    },
)
