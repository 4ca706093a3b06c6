"""The robot's own page, for the operator beside the arm: live camera, state, stop, re-arm, label. No ROS in here."""

from gymnast_ros.page.app import PageRobot, create_page

__all__ = ["PageRobot", "create_page"]
