"""Its numbers make sense, the driver drives it, and `gymnast up` stands it up and lays it down, simulated or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from examples.installing import Terminal
from examples.my_arm import my_arm
from gymnast_core.arm import kinematics
from gymnast_core.arm.closed_form import joints_for
from gymnast_core.errors import ContractError
from gymnast_core.rollout import run_episode
from gymnast_ros.drivers.contract import check_vendor
from gymnast_ros.drivers.widowx import WidowXDriver
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.expert import ScriptedExpert


def test_it_has_every_call_and_a_missing_one_is_named() -> None:
    robot = my_arm.connect("my_arm", "my_arm")
    check_vendor(robot)
    robot.gripper = object()
    with pytest.raises(ContractError, match=r"gripper.grasp\(\)"):
        check_vendor(robot)


def test_its_joints_lead_where_it_is_told() -> None:
    spec = my_arm.SPEC
    position_X, rotation_XX = kinematics.forward(spec.neutral_joints_rad, spec)
    assert rotation_XX[2, 0] < -0.95, "at neutral the gripper points down"
    found = joints_for(position_X.tolist(), rotation_XX.tolist(), spec.neutral_joints_rad, spec=spec)
    np.testing.assert_allclose(found, spec.neutral_joints_rad, atol=1e-6)


def test_the_simulator_and_its_expert_take_it_as_it_is() -> None:
    env = SimEnv(image_size=32, robot=my_arm.SPEC)
    run_episode(env, ScriptedExpert(env), "lift the red cube", seed=3)
    assert env.succeeded()
    env.close()


def test_the_driver_moves_it_by_deltas() -> None:
    driver = WidowXDriver(my_arm.connect("my_arm", "my_arm"), spec=my_arm.SPEC)
    driver.start_up()
    before_m = driver.target.position_m.copy()
    commanded_A = driver.step(np.array([0.02, 0, 0, 0, 0, 0, 1], np.float32))
    np.testing.assert_allclose(driver.target.position_m - before_m, commanded_A[:3], atol=1e-6)
    assert commanded_A[0] == pytest.approx(0.02)


def test_gymnast_up_stands_it_up_and_lays_it_down(terminal: Terminal) -> None:
    """Slow: slow moves take two seconds each, and a graph starts."""
    parameters = str(Path(__file__).parent / "robot.yaml")
    up = terminal.start("up", "--robot", "my_arm", "--parameters", parameters, "--folder", "robot")
    up.wait_for("active, torque is on and the arm stands at neutral", 90.0)
    assert up.stop() == 0, up.said()
