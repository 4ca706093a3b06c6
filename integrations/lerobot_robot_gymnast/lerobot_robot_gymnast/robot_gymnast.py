"""LeRobot's side of an arm behind its command gate.

The arm asks: its rollout connects here as to any policy server, shows one observation and waits for one action. So
whatever LeRobot wants goes the way of every policy's action: through the gate with its limits, deadman and emergency
stop, into the arm's own recording, within an episode that the arm's operator began and can end.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from lerobot.processor import RobotAction, RobotObservation
from lerobot.robots import Robot

from lerobot_robot_gymnast.asked import HOST, ArmNotAskingError, AskedPort
from lerobot_robot_gymnast.config_gymnast import GymnastRobotConfig

LOG = logging.getLogger(__name__)
STATE_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
ACTION_NAMES = ("delta_x", "delta_y", "delta_z", "delta_roll", "delta_pitch", "delta_yaw", "gripper")


class GymnastRobot(Robot):
    """A Gymnast arm.

    Args:
        config: where it connects, and what it shows.
    """

    config_class = GymnastRobotConfig
    name = "gymnast"

    def __init__(self, config: GymnastRobotConfig) -> None:
        super().__init__(config)
        self.config = config
        self._port: AskedPort | None = None

    @property
    def cameras(self) -> dict[str, list[int]]:
        """The arm's; LeRobot counts them."""
        return self.config.frames

    @property
    def observation_features(self) -> dict[str, Any]:
        """Pose of the end effector [m, rad], gripper (1 open), and each camera's picture."""
        pictures = {name: (height, width, 3) for name, (height, width) in self.config.frames.items()}
        return {**dict.fromkeys(STATE_NAMES, float), **pictures}

    @property
    def action_features(self) -> dict[str, Any]:
        """Deltas of the end effector's target [m, rad], and the gripper (1 open)."""
        return dict.fromkeys(ACTION_NAMES, float)

    @property
    def is_connected(self) -> bool:
        """Whether an arm asked since connect()."""
        return self._port is not None

    @property
    def is_calibrated(self) -> bool:
        """Always: the arm's driver does that."""
        return True

    def connect(self, calibrate: bool = True) -> None:
        """Listen, and wait until the arm asks for its first action: LeRobot's loops count their time from here on.

        Raises:
            OSError: another program has the port.
            ArmNotAskingError: no arm asked within wait_s.
        """
        if self._port is not None:
            return
        sizes = {name: (height, width) for name, (height, width) in self.config.frames.items()}
        port = AskedPort(self.config.port, sizes)
        LOG.info("waiting for an arm at openpi://%s:%d; begin an episode there", HOST, port.port)
        try:
            port.question(self.config.wait_s)
        except BaseException:
            port.close()
            raise
        self._port = port

    def calibrate(self) -> None:
        """Nothing to do."""

    def configure(self) -> None:
        """Nothing to do."""

    def get_observation(self) -> RobotObservation:
        """Return what the arm sees now; waits until it asks.

        Raises:
            ArmNotAskingError: it did not within wait_s.
        """
        question = self._connected().question(self.config.wait_s)
        return {**dict(zip(STATE_NAMES, question.state_P.tolist(), strict=True)), **question.frames}

    def send_action(self, action: RobotAction) -> RobotAction:
        """Answer the arm; its gate forwards, limits or refuses the action, and its recording holds what was executed.

        Returns:
            What was sent to the gate.

        Raises:
            ValueError: not the seven finite numbers of action_features.
            ArmNotAskingError: the arm does not wait for it any more.
        """
        port = self._connected()
        if set(action) != set(ACTION_NAMES):
            raise ValueError(f"an action has {', '.join(ACTION_NAMES)}; got {', '.join(sorted(action))}")
        action_A = np.array([action[name] for name in ACTION_NAMES], np.float32)
        if not np.isfinite(action_A).all():
            raise ValueError(f"an action is finite, got {dict(action)}")
        port.send(action_A)
        return dict(zip(ACTION_NAMES, action_A.tolist(), strict=True))

    def disconnect(self) -> None:
        """Listen no longer; an arm that asks gets no answer and holds."""
        port, self._port = self._port, None
        if port is not None:
            port.close()

    def _connected(self) -> AskedPort:
        if self._port is None:
            raise ArmNotAskingError("connect() comes first")
        return self._port
