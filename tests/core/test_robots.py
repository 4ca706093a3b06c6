"""Every arm by its own numbers: kinematics against MuJoCo's, the gate's promises, and which arm is computed for."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.obedient_arm import forward as axis_by_axis
from gymnast_core.arm import closed_form, kinematics
from gymnast_core.arm.command_gate import ArmState, Command, CommandGate
from gymnast_core.arm.envelope import Envelope
from gymnast_core.arm.limits import GateLimits, hard_limits
from gymnast_core.arm.targets import DEFAULT_ROTATION, EndEffectorTarget
from gymnast_core.errors import ConfigError, UnreachableError
from gymnast_core.robots import ROBOTS, robot_named
from gymnast_core.spec import VIPERX_300S, WIDOWX_250S, RobotSpec
from tests.core.arm_reference import clearance, within_limits

ROOT = Path(__file__).parents[2]
ARMS = pytest.mark.parametrize("spec", list(ROBOTS.values()), ids=list(ROBOTS))
STEP_NS = WIDOWX_250S.step_ns
# Offsets of the vendor's descriptions, joint by joint, then the gripper's frame (four fixed joints).
LINKS_M = {
    "wx250s": ((0, 0, 0.072), (0, 0, 0.03865), (0.04975, 0, 0.25), (0.175, 0, 0), (0.075, 0, 0), (0.065, 0, 0),
               (0.043 + 0.023 + 0.027575, 0, 0)),
    "vx300s": ((0, 0, 0.079), (0, 0, 0.04805), (0.05955, 0, 0.3), (0.2, 0, 0), (0.1, 0, 0), (0.069744, 0, 0),
               (0.042825 + 0.025875 + 0.0385, 0, 0)),
}  # fmt: skip
AXES = ("0 0 1", "0 1 0", "0 1 0", "1 0 0", "0 1 0", "1 0 0")


def described(name: str) -> mujoco.MjModel:
    """The arm as its vendor describes it, frame in frame; shares nothing with gymnast_core."""
    xml = ""
    for place, axis in reversed([*zip(LINKS_M[name], (*AXES, ""), strict=True)]):
        joint = f'<joint axis="{axis}"/>' if axis else ""
        x, y, z = place
        xml = f'<body pos="{x} {y} {z}">{joint}<inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>{xml}</body>'
    return mujoco.MjModel.from_xml_string(f'<mujoco><compiler angle="radian"/><worldbody>{xml}</worldbody></mujoco>')


def drawn(spec: RobotSpec, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(spec.joint_low_rad, spec.joint_high_rad)


@ARMS
def test_forward_and_jacobian_are_those_of_the_vendors_chain(spec: RobotSpec) -> None:
    model = described(spec.name)
    data, last = mujoco.MjData(model), model.nbody - 1
    linear, angular = np.zeros((3, 6)), np.zeros((3, 6))
    for seed in range(200):
        data.qpos[:] = joints_J = drawn(spec, seed)
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_jacBody(model, data, linear, angular, last)
        position_X, rotation_XX, jacobian_XJ = kinematics.gripper_and_jacobian(joints_J, spec)
        np.testing.assert_allclose(position_X, data.xpos[last], atol=1e-9)
        np.testing.assert_allclose(rotation_XX, data.xmat[last].reshape(3, 3), atol=1e-9)
        np.testing.assert_allclose(jacobian_XJ, np.vstack([angular, linear]), atol=1e-9)
        np.testing.assert_array_equal(kinematics.forward(joints_J, spec)[0], position_X)


@ARMS
def test_both_solvers_find_back_to_where_the_arm_was(spec: RobotSpec) -> None:
    found = 0
    for seed in range(100):
        joints_J = drawn(spec, seed)
        position_X, rotation_XX = kinematics.forward(joints_J, spec)
        exact = closed_form.joints_for(position_X.tolist(), rotation_XX.tolist(), joints_J.tolist(), spec=spec)
        np.testing.assert_allclose(exact, joints_J, atol=2e-3)
        nudged_J = np.clip(joints_J + np.random.default_rng(seed).normal(0, 0.05, 6), spec.joint_low_rad,
                           spec.joint_high_rad)  # fmt: skip
        try:
            solved_J = kinematics.inverse(position_X, rotation_XX, nudged_J, spec=spec)
        except UnreachableError:
            continue  # at a limit the iteration may stop short; the gate asks the closed form
        found += 1
        assert within_limits(solved_J, spec)
        assert np.abs(kinematics.forward(solved_J, spec)[0] - position_X).max() < 1e-4
    assert found > 80


def test_screw_axes_of_the_viperx_are_the_vendors() -> None:
    """Interbotix/interbotix_ros_toolboxes, mr_descriptions.vx300s."""
    chain = VIPERX_300S.chain
    assert chain.home_X.tolist() == [0.536494, 0.0, 0.42705]
    assert [row[3:].tolist() for row in chain.screw_axes_JX] == [
        [0, 0, 0], [-0.12705, 0, 0], [-0.42705, 0, 0.05955], [0, 0.42705, 0], [-0.42705, 0, 0.35955], [0, 0.42705, 0],
    ]  # fmt: skip


@ARMS
def test_poses_and_limits_of_an_arm_fit_each_other(spec: RobotSpec) -> None:
    for pose in (spec.neutral_joints_rad, spec.sleep_joints_rad):
        assert within_limits(pose, spec)
    position_X, rotation_XX = kinematics.forward(spec.neutral_joints_rad, spec)
    assert (position_X > spec.workspace_low_m).all()
    assert (position_X < spec.workspace_high_m).all()
    assert rotation_XX[:, 0] @ DEFAULT_ROTATION[:, 0] > 0.95, "the gripper points down"
    limits = GateLimits(spec)
    assert (limits.workspace_low_m, limits.workspace_high_m) == (spec.workspace_low_m, spec.workspace_high_m)
    assert limits.at(20.0).workspace_low_m == spec.workspace_low_m


def test_a_pose_that_only_the_longer_arm_reaches() -> None:
    where, down = (0.52, 0.0, 0.1), DEFAULT_ROTATION.tolist()
    assert closed_form.joints_for(where, down, VIPERX_300S.neutral_joints_rad, spec=VIPERX_300S)
    with pytest.raises(UnreachableError):
        closed_form.joints_for(where, down, WIDOWX_250S.neutral_joints_rad, spec=WIDOWX_250S)
    joints_J = [0.0, 0.3, 0.3, 0.0, 1.0, 0.0]
    assert clearance(joints_J, spec=VIPERX_300S) != clearance(joints_J)
    assert hard_limits(0.0, VIPERX_300S).spec is VIPERX_300S
    assert Envelope(GateLimits(VIPERX_300S)).limits.joint_step_rad == pytest.approx(0.628, abs=1e-3)


numbers = st.floats(-0.4, 0.4) | st.sampled_from([0.0, 0.05, -0.05, float("nan"), float("inf")])


@ARMS
@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(numbers, min_size=7, max_size=7), min_size=1, max_size=20))
def test_whatever_is_asked_an_arm_stays_inside_its_own_envelope(spec: RobotSpec, stream) -> None:
    """An arm that obeys exactly: every pose in its box, no joint beyond its limit or too fast, nothing in the table."""
    gate = CommandGate(GateLimits(spec), armed=True)
    joints_J = np.array(spec.neutral_joints_rad)
    arm = ArmState(0, EndEffectorTarget(*kinematics.forward(joints_J, spec), 1.0), joints_J)
    for values in stream:
        gate.observe(arm, arm.stamp_ns)
        decision = gate.decide(Command(np.array(values, np.float32), arm.stamp_ns), arm.stamp_ns)
        if decision.action_A is not None and decision.action_A[:6].any():
            assert np.isfinite(decision.action_A).all()
            target, _ = arm.target.advanced(decision.action_A, spec)
            after = closed_form.joints_for(
                target.position_m.tolist(), target.rotation.tolist(), arm.target_joints_J.tolist(), spec=spec
            )
            assert within_limits(after, spec)
            assert (target.position_m >= np.array(spec.workspace_low_m) - 1e-9).all()
            assert (target.position_m <= np.array(spec.workspace_high_m) + 1e-9).all()
            assert np.abs(np.array(after) - arm.target_joints_J).max() <= spec.joint_velocity_rad_s * spec.step_s + 1e-6
            reached_NX, _ = axis_by_axis(np.array([after]), spec)
            np.testing.assert_allclose(reached_NX[0], target.position_m, atol=2e-4)
            arm = replace(arm, target=target, target_joints_J=np.array(after))
            assert clearance(after, spec=spec).table_m > 0.0
        arm = replace(arm, stamp_ns=arm.stamp_ns + STEP_NS)


def test_an_arm_that_nobody_knows_is_refused_with_those_that_there_are() -> None:
    assert robot_named("vx300s") is VIPERX_300S
    with pytest.raises(ConfigError, match=r"no arm named 'panda'; there are wx250s, vx300s"):
        robot_named("panda")


ASKS = {"forward", "inverse", "joints_for", "clearance_of", "gripper_and_jacobian", "hard_limits", "advanced"}
TAKES = {"forward": 2, "gripper_and_jacobian": 2, "hard_limits": 2, "advanced": 2}
"""Those that take the spec by position, and at which place."""


@pytest.mark.parametrize("package", ["gymnast_core", "gymnast_ros", "gymnast_cli", "cloud_trainer/world_model/data"])
def test_whatever_computes_for_an_arm_says_for_which(package: str) -> None:
    silent = []
    for path in sorted((ROOT / package).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "gymnast_core.arm" in text else ():
            if not isinstance(node, ast.Call):
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            of_torch = isinstance(node.func, ast.Attribute) and name == "forward" and "kinematics" not in ast.dump(node)
            said = any(word.arg == "spec" for word in node.keywords) or len(node.args) >= TAKES.get(name, 99)
            if name in ASKS and not said and not of_torch:
                silent.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert not silent, f"these compute for the WidowX whatever the arm is: {silent}"
