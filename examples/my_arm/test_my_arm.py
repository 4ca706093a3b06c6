"""The driver drives it: up, one step, down; and `gymnast up` brings it to its neutral pose and lays it down again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from examples.installing import Terminal
from examples.my_arm import my_arm
from gymnast_core.errors import ContractError
from gymnast_ros.drivers.contract import check_vendor
from gymnast_ros.drivers.widowx import WidowXDriver


def test_it_has_every_call_and_a_missing_one_is_named() -> None:
    robot = my_arm.connect("wx250s", "wx250s")
    check_vendor(robot)
    robot.gripper = object()
    with pytest.raises(ContractError, match=r"gripper.grasp\(\)"):
        check_vendor(robot)


def test_the_driver_moves_it_by_deltas() -> None:
    driver = WidowXDriver(my_arm.connect("wx250s", "wx250s"))
    driver.start_up()
    before_m = driver.target.position_m.copy()
    commanded_A = driver.step(np.array([0.02, 0, 0, 0, 0, 0, 1], np.float32))
    np.testing.assert_allclose(driver.target.position_m - before_m, commanded_A[:3], atol=1e-6)
    assert commanded_A[0] == pytest.approx(0.02)


def test_gymnast_up_stands_it_up_and_lays_it_down(terminal: Terminal) -> None:
    """Slow: slow moves take two seconds each, and a graph starts."""
    parameters = str(Path(__file__).parent / "robot.yaml")
    up = terminal.start("up", "--robot", "widowx", "--parameters", parameters, "--folder", "robot")
    up.wait_for("active, torque is on and the arm stands at neutral", 90.0)
    assert up.stop() == 0, up.said()
