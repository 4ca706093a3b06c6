"""Parameters of the widowx_arm node, and what its cameras are made of them."""

from __future__ import annotations

import numpy as np

from gymnast_core.arm.cameras import CameraLimits
from gymnast_core.errors import ConfigError
from gymnast_core.spec import RobotSpec
from gymnast_ros.drivers.reading import Array
from gymnast_ros.nodes.cameras import CameraSource
from gymnast_ros.nodes.settings import NodeSettings, declare_robot


def declare(settings: NodeSettings) -> None:
    """Every parameter of the node, with its meaning."""
    add = settings.declare
    robot = declare_robot(settings)
    add("robot_name", robot.name, "namespace of xs_sdk", read_only=True)
    add(
        "vendor",
        "gymnast_ros.drivers.interbotix",
        "an installed arm, or a module with connect() and disconnect()",
        read_only=True,
    )
    add("instruction", "", "of the next episode; recorded, the arm itself does not need it")
    add("seed", 0, "recorded; a real scene is laid out by hand", low=0, high=2**53)
    add("scene", "standard", "recorded")
    add("keep_scene", False, "of no effect: the arm goes home, and nobody but its operator moves anything else")
    add("cameras", [], "camera names; empty is over_shoulder", read_only=True)
    add("camera_topics", [], "their topics, in the same order; empty is RealSense's colour topic", read_only=True)
    add("camera_reliability", "best_effort", "what the drivers offer", choices=("best_effort", "reliable"),
        read_only=True)  # fmt: skip
    add("camera_max_age_s", 0.5, "oldest frame to act on [s]", low=0.05, high=5.0, read_only=True)
    add("camera_max_frozen_s", 2.0, "longest time with identical pixels [s]", low=0.1, high=60.0, read_only=True)
    add("camera_max_skew_s", 0.1, "largest difference between cameras [s]", low=0.001, high=1.0, read_only=True)
    add("image_size", 256, "side of published frames", low=32, high=1024, read_only=True)
    add("max_steps", 60, "steps of an episode", low=1, high=10_000)
    add("joint_max_age_s", 0.2, "oldest joint states to act on [s]", low=0.02, high=2.0)
    add("lock_file", "", "held while this process lives: the vendor's driver outlives it", read_only=True)
    add("dry_run", False, "xs_sdk is the vendor's simulation: no registers, velocity or effort", read_only=True)
    add("table_height_m", 0.0, "table top in base_link [m], as the gate has it", read_only=True)
    add("auto_recover", False, "recover by itself from a motor fault, three times at most, while the gate is armed",
        read_only=True)  # fmt: skip
    add("force_share", 0.85, "of the largest effort_limit: more for force_steps ends the episode; 0 bounds nothing",
        low=0.0, high=1.0, read_only=True)  # fmt: skip
    add("force_steps", 3, "control steps in a row", low=1, high=50, read_only=True)
    add("autostart", False, "configure and activate at start, without ros2 lifecycle", read_only=True)


def force_bounds(settings: NodeSettings, robot: RobotSpec) -> tuple[Array, int, Array]:
    """Of ForceWatch: what is too much for some steps, how many, and what is too much at once, where the gate stops."""
    share, most_J = settings["force_share"], np.array(robot.max_effort)
    unbounded_J = np.full(len(most_J), np.inf)
    return (most_J * share, settings["force_steps"], most_J) if share else (unbounded_J, 1, unbounded_J)


def camera_limits(settings: NodeSettings) -> CameraLimits:
    """What a frame must be to be acted on."""
    names = ("camera_max_age_s", "camera_max_frozen_s", "camera_max_skew_s")
    return CameraLimits(*(round(settings[name] * 1e9) for name in names))


def camera_sources(settings: NodeSettings) -> tuple[CameraSource, ...]:
    """Pair camera names with topics.

    Raises:
        ConfigError: as many topics as names are needed.
    """
    names = tuple(settings["cameras"]) or ("over_shoulder",)
    camera_topics = list(settings["camera_topics"]) or ["/camera/camera/color/image_raw"]
    if len(camera_topics) != len(names):
        raise ConfigError(f"{len(names)} cameras {names} need as many camera_topics, got {camera_topics}")
    reliability = settings["camera_reliability"]
    return tuple(CameraSource(name, topic, reliability) for name, topic in zip(names, camera_topics, strict=True))
