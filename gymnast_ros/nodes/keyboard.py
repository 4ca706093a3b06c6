"""The keyboard of this terminal as sensor_msgs/Joy, for `teleop` where there is no joystick."""

from __future__ import annotations

import select
import sys
import termios
import tty
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import Joy

from gymnast_core.arm.teleop import Keyboard
from gymnast_core.errors import ConfigError
from gymnast_ros.nodes import topics
from gymnast_ros.nodes.runtime import run


class KeyboardJoy(Node):  # type: ignore[misc]
    """Publishes at 10 Hz; restores the terminal when it ends.

    Raises:
        ConfigError: standard input is no terminal.
    """

    def __init__(self, **node: Any) -> None:
        if not sys.stdin.isatty():
            raise ConfigError("the keyboard node needs a terminal; use the joy node elsewhere")
        super().__init__("keyboard", **node)
        self._keyboard = Keyboard()
        self._before = termios.tcgetattr(sys.stdin)
        tty.setcbreak(sys.stdin)
        self._joy = self.create_publisher(Joy, topics.JOY, topics.STREAM)
        self.create_timer(0.1, self._publish)
        self.get_logger().info(
            "wasd rf qe move, t take over, g gripper, SPACE stop, n start, y u x label, m marks; "
            "after a stop `gymnast rearm` (p re-arms only with teleop's re_arm_by_joystick:=true)"
        )

    def stop(self) -> None:
        """Give the terminal back."""
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def _publish(self) -> None:
        keys = ""
        while select.select([sys.stdin], [], [], 0.0)[0]:
            keys += sys.stdin.read(1)
        axes, buttons = self._keyboard.read(keys)
        message = Joy(axes=axes, buttons=buttons)
        message.header.stamp = self.get_clock().now().to_msg()
        self._joy.publish(message)


def main() -> int:
    """Run the node."""
    return run(KeyboardJoy)


if __name__ == "__main__":
    raise SystemExit(main())
