"""The closed form against the product of exponentials and the iterative solver, which share no formula with it."""

from __future__ import annotations

import numpy as np
import pytest

from gymnast_core.arm import closed_form, kinematics, targets
from gymnast_core.arm.clearance import clearance_of
from gymnast_core.arm.targets import DEFAULT_ROTATION
from gymnast_core.errors import UnreachableError
from gymnast_core.spec import WIDOWX_250S
from tests.core.arm_reference import clearance

LOW, HIGH = np.array(WIDOWX_250S.joint_low_rad), np.array(WIDOWX_250S.joint_high_rad)


@pytest.mark.parametrize("seed", range(40))
def test_every_solution_reaches_the_pose_it_was_asked_for(seed: int) -> None:
    joints_J = np.random.default_rng(seed).uniform(LOW, HIGH)
    position_X, rotation_XX = kinematics.forward(joints_J)
    found = list(closed_form.solutions(position_X.tolist(), rotation_XX.tolist(), joints_J[3], WIDOWX_250S.chain))
    assert len(found) >= 4
    for solution in found:
        reached_X, turned_XX = kinematics.forward(solution)
        np.testing.assert_allclose(reached_X, position_X, atol=2e-4)
        np.testing.assert_allclose(turned_XX, rotation_XX, atol=1e-3)
    nearest = closed_form.joints_for(position_X.tolist(), rotation_XX.tolist(), joints_J.tolist())
    np.testing.assert_allclose(nearest, joints_J, atol=2e-3)


def test_it_agrees_with_the_arms_own_solver_where_commands_lead() -> None:
    rng, compared = np.random.default_rng(5), 0
    for _ in range(60):
        position_X = rng.uniform((0.2, -0.12, 0.02), (0.36, 0.12, 0.2))
        present_J = kinematics.inverse(position_X, DEFAULT_ROTATION, (0.0, 0.02, 0.18, 0.0, 1.37, 0.0))
        goal_X = position_X + rng.uniform(-0.03, 0.03, 3)
        goal_XX = targets.euler_to_rotation(rng.uniform(-0.2, 0.2, 3)) @ DEFAULT_ROTATION
        try:
            arms_J = kinematics.inverse(goal_X, goal_XX, present_J)
        except UnreachableError:
            continue
        compared += 1
        ours = closed_form.joints_for(goal_X.tolist(), goal_XX.tolist(), present_J.tolist())
        np.testing.assert_allclose(ours, arms_J, atol=5e-3)
    assert compared > 40


def test_home_is_zero_and_a_forearm_in_line_keeps_its_roll() -> None:
    """At zero joints forearm and gripper are in line: any roll would do, so the present one stays."""
    rolled = [0.0, 0.0, 0.0, 0.7, 0.0, -0.7]
    eye = np.eye(3).tolist()
    home = WIDOWX_250S.chain.home_X.tolist()
    np.testing.assert_allclose(closed_form.joints_for(home, eye, [0.0] * 6), [0.0] * 6, atol=1e-6)
    np.testing.assert_allclose(closed_form.joints_for(home, eye, rolled), rolled, atol=1e-6)


@pytest.mark.parametrize("position", [(0.8, 0.0, 0.1), (0.0, 0.0, 1.5)])
def test_out_of_reach_is_refused_with_the_place(position) -> None:
    with pytest.raises(UnreachableError, match=str(position[0])):
        closed_form.joints_for(position, DEFAULT_ROTATION.tolist(), WIDOWX_250S.neutral_joints_rad)


def test_pose_beyond_the_joint_limits_is_unreachable() -> None:
    """A gripper pointing up at table height needs the wrist bent further than 2.147 rad or the elbow below it."""
    up = (DEFAULT_ROTATION @ np.diag([-1.0, 1.0, -1.0])).tolist()
    with pytest.raises(UnreachableError):
        closed_form.joints_for((0.30, 0.0, 0.02), up, WIDOWX_250S.neutral_joints_rad)


def test_elbow_of_an_upright_and_of_a_lowered_arm() -> None:
    """Upright the elbow is at (.04975, 0, .36065); lowered by a quarter turn at (.25, 0, .11065 - .04975)."""
    chain = WIDOWX_250S.chain
    assert closed_form.elbow(0.0, 0.0, chain) == pytest.approx((0.04975, 0.0, 0.36065))
    assert closed_form.elbow(0.0, np.pi / 2, chain) == pytest.approx((0.25, 0.0, 0.0609))
    assert closed_form.elbow(np.pi / 2, 0.0, chain) == pytest.approx((0.0, 0.04975, 0.36065))


def test_clearance_of_a_pose_is_that_of_its_joints() -> None:
    joints_J = np.array([0.3, 0.1, 0.2, 0.1, 1.2, -0.2])
    position_X, rotation_XX = kinematics.forward(joints_J)
    of_pose = clearance_of(position_X.tolist(), rotation_XX.tolist(), 0.3, 0.1)
    assert of_pose == clearance(joints_J)
