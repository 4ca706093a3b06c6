"""No checkpoint moves the arm before it was tried beside the running one. No ROS, no network in here."""

from typing import TYPE_CHECKING

from gymnast_core.lazy import parts

if TYPE_CHECKING:
    from gymnast_ros.shadow.book import RefusedCheckpointError, ShadowBook, StageLimits
    from gymnast_ros.shadow.check import ShadowReport, shadow_check
    from gymnast_ros.shadow.observations import keep_episode, recorded_observations

__all__ = [
    "RefusedCheckpointError",
    "ShadowBook",
    "ShadowReport",
    "StageLimits",
    "keep_episode",
    "recorded_observations",
    "shadow_check",
]

__getattr__ = parts(
    __name__,
    {
        "book": ("RefusedCheckpointError", "ShadowBook", "StageLimits"),
        "check": ("ShadowReport", "shadow_check"),
        "observations": ("keep_episode", "recorded_observations"),
    },
)
