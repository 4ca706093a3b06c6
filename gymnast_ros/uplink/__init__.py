"""The robot's client of the trainer: episodes up, weights down, jobs. No ROS in here."""

from gymnast_core.wire.identity import Identity
from gymnast_ros.uplink.adoption import Adoption
from gymnast_ros.uplink.clients import EpisodesClient, EpisodeView, JobsClient, MadeFrom, WeightsClient
from gymnast_ros.uplink.console import ConsoleClient, PageLogin
from gymnast_ros.uplink.enroll import fetch_identity
from gymnast_ros.uplink.remote_policy import RemotePolicy
from gymnast_ros.uplink.reporter import Reporter, RobotNews, WeightsNews
from gymnast_ros.uplink.robot_store import RobotStore
from gymnast_ros.uplink.uplink import Uplink, UplinkEvent, UplinkStatus

__all__ = [
    "Adoption",
    "ConsoleClient",
    "EpisodeView",
    "EpisodesClient",
    "Identity",
    "JobsClient",
    "MadeFrom",
    "PageLogin",
    "RemotePolicy",
    "Reporter",
    "RobotNews",
    "RobotStore",
    "Uplink",
    "UplinkEvent",
    "UplinkStatus",
    "WeightsClient",
    "WeightsNews",
    "fetch_identity",
]
