"""The robot's client of the trainer: episodes up, weights down, jobs. No ROS in here."""

from gymnast_core.wire.identity import Identity
from gymnast_ros.uplink.clients import EpisodesClient, EpisodeView, JobEventView, JobsClient, JobView, WeightsClient
from gymnast_ros.uplink.robot_store import RobotStore
from gymnast_ros.uplink.uplink import Uplink, UplinkEvent, UplinkStatus

__all__ = [
    "EpisodeView",
    "EpisodesClient",
    "Identity",
    "JobEventView",
    "JobView",
    "JobsClient",
    "RobotStore",
    "Uplink",
    "UplinkEvent",
    "UplinkStatus",
    "WeightsClient",
]
