"""Other people's launch files and nodes that a real arm needs, its driver and its camera; no ROS in here."""

from __future__ import annotations

from gymnast_core.robots import ROBOTS as ARMS_OF_INTERBOTIX
from gymnast_ros.graph import GraphConfig, finished, lock_file
from gymnast_ros.processes import ExternalSpec, NodeSpec, ParameterValue


def external(config: GraphConfig) -> tuple[ExternalSpec, ...]:
    """Other people's launch files that a real arm needs; the ROS-less starter expects them running."""
    if config.simulated:
        return ()
    specs = []
    if config.vendor and config.model in ARMS_OF_INTERBOTIX:
        arguments = {"robot_model": config.model, "robot_name": config.vendor_name, "use_rviz": "false"}
        arguments |= {"use_sim": "true"} if config.dry_run else {}
        specs.append(
            ExternalSpec("interbotix_xsarm_control", "launch/xsarm_control.launch.py", arguments, lock_file(config))
        )
    if config.camera == "realsense":
        arguments = {
            "camera_namespace": config.namespace.strip("/") or "camera", "camera_name": "camera",
            "rgb_camera.color_profile": "640x480x30",
        }  # fmt: skip
        specs.append(ExternalSpec("realsense2_camera", "launch/rs_launch.py", arguments))
    return tuple(specs)


def devices(config: GraphConfig) -> tuple[NodeSpec, ...]:
    """Other people's nodes for what is plugged in; the ROS-less starter expects them running."""
    specs = []
    if config.camera == "usb_cam":
        picture: dict[str, ParameterValue] = {
            "image_width": 640,
            "image_height": 480,
            "framerate": 30.0,
            "pixel_format": "yuyv2rgb",
        }
        remaps = {"image_raw": "usb_cam/image_raw"}
        specs.append(NodeSpec("usb_cam_node_exe", "usb_cam", picture, remaps=remaps, package="usb_cam"))
    if config.teleop:
        specs.append(NodeSpec("joy_node", "joy", package="joy"))
    return tuple(finished(spec, config) for spec in specs)
