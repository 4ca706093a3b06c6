"""LeRobot policy that asks the one a Gymnast trainer serves: `--policy.type=gymnast`."""

from lerobot_policy_gymnast.configuration_gymnast import GymnastConfig

__all__ = ["GymnastConfig"]
