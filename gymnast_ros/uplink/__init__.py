"""The robot's client of the trainer: episodes up, weights down, jobs. No ROS in here."""

from gymnast_core.wire.identity import Identity
from gymnast_ros.uplink.clients import EpisodesClient, EpisodeView, JobsClient, MadeFrom, WeightsClient
from gymnast_ros.uplink.console import ConsoleClient, PageLogin
from gymnast_ros.uplink.enroll import fetch_identity
from gymnast_ros.uplink.hot_swap import ShadowReport, shadow_check, try_staged
from gymnast_ros.uplink.remote_policy import RemotePolicy
from gymnast_ros.uplink.reporter import Reporter, RobotNews
from gymnast_ros.uplink.robot_store import RobotStore
from gymnast_ros.uplink.uplink import Uplink, UplinkEvent, UplinkStatus

__all__ = [
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
    "ShadowReport",
    "Uplink",
    "UplinkEvent",
    "UplinkStatus",
    "WeightsClient",
    "fetch_identity",
    "shadow_check",
    "try_staged",
]
