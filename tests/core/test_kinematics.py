"""Kinematics against numbers worked by hand, finite differences and its own inverse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gymnast_core.arm import kinematics as kin
from gymnast_core.arm.targets import DEFAULT_ROTATION, euler_to_rotation
from gymnast_core.errors import ShapeError, UnreachableError
from gymnast_core.spec import WIDOWX_250S
from tests.core.arm_reference import within_limits

HALF_PI = np.pi / 2


def rotation_about_z(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def test_zero_joints_are_the_home_pose() -> None:
    position, rotation = kin.forward(np.zeros(6))
    np.testing.assert_allclose(position, [0.458325, 0.0, 0.36065], atol=1e-12)
    np.testing.assert_allclose(rotation, np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    ("joint", "expected_position", "expected_x_axis"),
    [
        # A quarter turn of the waist swings x to y.
        (0, (0.0, 0.458325, 0.36065), (0.0, 1.0, 0.0)),
        # Shoulder at height .11065: (x, z - .11065) = (.458325, .25) turns to (.25, -.458325).
        (1, (0.25, 0.0, 0.11065 - 0.458325), (0.0, 0.0, -1.0)),
        # Elbow at (.04975, .36065): .408575 m ahead of it, turned straight down.
        (2, (0.04975, 0.0, 0.36065 - 0.408575), (0.0, 0.0, -1.0)),
        # Rolls turn about the gripper's own axis: position stays.
        (3, (0.458325, 0.0, 0.36065), (1.0, 0.0, 0.0)),
        # Wrist at x = .29975: .158575 m ahead of it, turned straight down.
        (4, (0.29975, 0.0, 0.36065 - 0.158575), (0.0, 0.0, -1.0)),
        (5, (0.458325, 0.0, 0.36065), (1.0, 0.0, 0.0)),
    ],
)
def test_quarter_turn_of_one_joint_lands_where_geometry_says(
    joint: int, expected_position: tuple[float, ...], expected_x_axis: tuple[float, ...]
) -> None:
    joints = np.zeros(6)
    joints[joint] = HALF_PI
    position, rotation = kin.forward(joints)
    np.testing.assert_allclose(position, expected_position, atol=1e-12)
    np.testing.assert_allclose(rotation[:, 0], expected_x_axis, atol=1e-12)


def test_neutral_pose_is_where_bridge_says() -> None:
    position, _ = kin.forward(WIDOWX_250S.neutral_joints_rad)
    np.testing.assert_allclose(position, [0.120, -0.019, 0.247], atol=5e-4)


@pytest.mark.parametrize("seed", range(5))
def test_jacobian_is_the_derivative_of_the_forward_map(seed: int) -> None:
    joints = np.random.default_rng(seed).uniform(-1.2, 1.2, 6)
    step, columns = 1e-6, kin.gripper_and_jacobian(joints)[2]
    for joint in range(6):
        nudge = np.zeros(6)
        nudge[joint] = step
        (p0, r0), (p1, r1) = kin.forward(joints - nudge), kin.forward(joints + nudge)
        np.testing.assert_allclose(columns[3:, joint], (p1 - p0) / (2 * step), atol=1e-7)
        np.testing.assert_allclose(columns[:3, joint], kin.rotation_vector(r1 @ r0.T) / (2 * step), atol=1e-7)


def test_jacobian_of_the_waist_at_home_is_hand_worked() -> None:
    # Turning about z at 1 rad/s moves (.458325, 0, .36065) along y at .458325 m/s.
    np.testing.assert_allclose(kin.gripper_and_jacobian(np.zeros(6))[2][:, 0], [0, 0, 1, 0, 0.458325, 0], atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.2, 0.36), st.floats(-0.15, 0.15), st.floats(0.02, 0.15), st.floats(-0.5, 0.5), st.floats(-0.2, 0.2))
def test_inverse_round_trips_over_the_table(x: float, y: float, z: float, yaw: float, tilt: float) -> None:
    rotation = euler_to_rotation([0.0, tilt, yaw]) @ DEFAULT_ROTATION
    joints = kin.inverse([x, y, z], rotation, [0.0, 0.02, 0.18, 0.0, 1.37, 0.0])
    position, reached = kin.forward(joints)
    assert np.linalg.norm(position - [x, y, z]) < 1e-4
    assert np.linalg.norm(kin.rotation_vector(rotation @ reached.T)) < 1e-3
    assert within_limits(joints)


def test_inverse_starts_at_its_guess() -> None:
    joints = np.array([0.1, 0.2, 0.1, 0.05, 1.2, -0.1])
    np.testing.assert_array_equal(kin.inverse(*kin.forward(joints), joints), joints)


@pytest.mark.parametrize("position", [(0.45, 0.25, 0.30), (0.9, 0.0, 0.1), (0.0, 0.0, 0.95)])
def test_out_of_reach_raises_and_says_by_how_much(position: tuple[float, float, float]) -> None:
    with pytest.raises(UnreachableError, match="mm"):
        kin.inverse(position, DEFAULT_ROTATION, [0.0, 0.02, 0.18, 0.0, 1.37, 0.0])


def test_pose_beyond_the_joint_limits_is_unreachable_though_the_geometry_allows_it() -> None:
    # The chain gets there with the elbow at 1.75 rad; its limit is 1.606.
    beyond = np.array([0.0, -1.0, 1.75, 0.0, 0.6, 0.0])
    assert not within_limits(beyond)
    with pytest.raises(UnreachableError):
        kin.inverse(*kin.forward(beyond), [0.0, -1.0, 1.6, 0.0, 0.6, 0.0])


def test_wrong_number_of_joints_is_refused() -> None:
    with pytest.raises(ShapeError):
        kin.forward(np.zeros(7))


@pytest.mark.parametrize("angle", [0.0, 1e-9, 0.3, 3.0, np.pi])
def test_rotation_vector_is_axis_times_angle(angle: float) -> None:
    np.testing.assert_allclose(np.abs(kin.rotation_vector(rotation_about_z(angle))), [0, 0, angle], atol=1e-9)
