"""LeRobot robot that is a Gymnast arm behind its command gate: `--robot.type=gymnast`."""

from lerobot_robot_gymnast.config_gymnast import GymnastRobotConfig
from lerobot_robot_gymnast.robot_gymnast import GymnastRobot

__all__ = ["GymnastRobot", "GymnastRobotConfig"]
