"""Bridge's poses: Euler angles, proprioception, and the target that deltas add up to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gymnast_core.arm.targets import (
    DEFAULT_ROTATION,
    EndEffectorTarget,
    commanded_proprioception,
    euler_to_rotation,
    proprioception,
    rotation_to_euler,
)
from gymnast_core.errors import ActionOutOfBoundsError

HALF_PI = np.pi / 2


def rotation_about_z(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


@given(st.floats(-3.1, 3.1), st.floats(-1.5, 1.5), st.floats(-3.1, 3.1))
def test_euler_angles_round_trip(roll: float, pitch: float, yaw: float) -> None:
    euler = rotation_to_euler(euler_to_rotation([roll, pitch, yaw]))
    np.testing.assert_allclose(euler, [roll, pitch, yaw], atol=1e-9)


def test_euler_convention_is_fixed_world_axes() -> None:
    # Roll a quarter turn first (y to z), then yaw a quarter turn (z stays): y ends up at z, x at y.
    rotation = euler_to_rotation([HALF_PI, 0.0, HALF_PI])
    np.testing.assert_allclose(rotation @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(rotation @ [1, 0, 0], [0, 1, 0], atol=1e-12)


def test_gripper_down_has_zero_bridge_angles() -> None:
    proprio = proprioception([0.3, 0.0, 0.15], DEFAULT_ROTATION, 0.5)
    np.testing.assert_allclose(proprio, [0.3, 0, 0.15, 0, 0, 0, 0.5], atol=1e-7)
    assert proprio.dtype == np.float32


def test_target_adds_deltas_to_the_previous_target() -> None:
    target = EndEffectorTarget.from_proprioception([0.3, 0.0, 0.15, 0, 0, 0, 1.0])
    target, told = target.advanced([0.02, -0.01, 0.03, 0, 0, 0.1, 0.0])
    target, _ = target.advanced([0.02, -0.01, 0.03, 0, 0, 0.1, 0.0])
    np.testing.assert_allclose(target.proprio_P, [0.34, -0.02, 0.21, 0, 0, 0.2, 0.0], atol=1e-6)
    np.testing.assert_allclose(told, [0.02, -0.01, 0.03, 0, 0, 0.1, 0.0], atol=1e-7)


def test_rotation_is_about_world_axes_at_the_gripper() -> None:
    target = EndEffectorTarget.from_proprioception([0.3, 0.1, 0.15, 0, 0, 0, 1.0])
    turned, _ = target.advanced([0, 0, 0, 0, 0, 0.25, 1.0])
    np.testing.assert_array_equal(turned.position_m, target.position_m)
    np.testing.assert_allclose(turned.rotation, rotation_about_z(0.25) @ DEFAULT_ROTATION, atol=1e-12)


def test_target_is_cut_to_step_limits_and_workspace() -> None:
    target = EndEffectorTarget.from_proprioception([0.43, 0.0, 0.15, 0, 0, 0, 1.0])
    moved, told = target.advanced([0.5, -0.5, 0.0, 2.0, 0, 0, 3.0])
    # x stops at the workspace (.45), y at the step limit (.05), roll at .25, the gripper at 1.
    np.testing.assert_allclose(told, [0.02, -0.05, 0, 0.25, 0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(moved.position_m, [0.45, -0.05, 0.15], atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_target_refuses_what_is_not_finite(value: float) -> None:
    target = EndEffectorTarget.from_proprioception([0.3, 0.0, 0.15, 0, 0, 0, 1.0])
    with pytest.raises(ActionOutOfBoundsError):
        target.advanced([0, 0, value, 0, 0, 0, 1])


def test_batched_poses_are_the_targets_one_by_one() -> None:
    rng = np.random.default_rng(4)
    start_BP = np.concatenate([rng.uniform([0.2, -0.1, 0.05], [0.4, 0.1, 0.2], (3, 3)), np.zeros((3, 4))], axis=1)
    actions_BTA = rng.uniform(-0.3, 0.3, (3, 6, 7))
    poses = commanded_proprioception(start_BP, actions_BTA)
    for row in range(3):
        target = EndEffectorTarget.from_proprioception(start_BP[row])
        for step in range(6):
            target, _ = target.advanced(actions_BTA[row, step])
            np.testing.assert_allclose(poses[row, step + 1], target.proprio_P, atol=1e-5)
