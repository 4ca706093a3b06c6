"""What the gate lets through, cuts, holds and drops; numbers worked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gymnast_core.arm import kinematics
from gymnast_core.arm.clearance import segment_distance
from gymnast_core.arm.command_gate import (
    ArmState,
    Command,
    CommandGate,
    GateDecision,
    GateLimits,
    GateState,
    GateVerdict,
)
from gymnast_core.arm.targets import DEFAULT_ROTATION, EndEffectorTarget
from gymnast_core.errors import ConfigError
from gymnast_core.spec import WIDOWX_250S
from tests.core.arm_reference import clearance, within_limits

SECOND = 1_000_000_000
GUESS_J = np.array([0.0, 0.02, 0.18, 0.0, 1.37, 0.0])


def arm_at(position=(0.28, 0.0, 0.12), *, stamp_ns=SECOND, gripper=1.0, **fields) -> ArmState:
    target = EndEffectorTarget(np.array(position), DEFAULT_ROTATION, gripper)
    return ArmState(stamp_ns, target, kinematics.inverse(position, DEFAULT_ROTATION, GUESS_J), **fields)


def armed(limits: GateLimits | None = None, **arm) -> CommandGate:
    gate = CommandGate(limits, armed=True)
    gate.observe(arm_at(**arm), 0)
    return gate


def action(dx=0.0, dy=0.0, dz=0.0, roll=0.0, pitch=0.0, yaw=0.0, gripper=1.0) -> np.ndarray:
    return np.array([dx, dy, dz, roll, pitch, yaw, gripper], np.float32)


def decide(gate: CommandGate, wanted: np.ndarray, *, stamp_ns=SECOND, now_ns=1) -> GateDecision:
    return gate.decide(Command(wanted, stamp_ns), now_ns)


def test_action_within_limits_passes_bit_for_bit() -> None:
    wanted = action(0.01, -0.05, 0.02, gripper=0.0)
    decision = decide(armed(), wanted)
    assert decision.verdict is GateVerdict.FORWARDED
    np.testing.assert_array_equal(decision.action_A, wanted)


def test_action_beyond_the_step_limits_is_cut_to_them() -> None:
    decision = decide(armed(), action(0.2, -0.06, 0.01, yaw=0.4, gripper=1.5))
    assert decision.verdict is GateVerdict.LIMITED
    assert decision.reasons == ("step_limit",)
    np.testing.assert_allclose(decision.action_A, [0.05, -0.05, 0.01, 0, 0, 0.25, 1.0], atol=1e-7)


def test_target_is_kept_inside_the_workspace() -> None:
    """At x = 0.43 only 0.02 m are left to the wall at 0.45."""
    gate = armed(position=(0.43, 0.0, 0.10))
    decision = decide(gate, action(dx=0.05))
    assert decision.reasons == ("workspace",)
    assert decision.action_A[0] == pytest.approx(0.02, abs=1e-6)
    assert 0.43 + float(decision.action_A[0]) >= 0.45  # rounded outward: the arm's own clip lands on the wall


def test_task_box_is_narrower_than_the_arms() -> None:
    limits = GateLimits(workspace_low_m=(0.2, -0.1, 0.05), workspace_high_m=(0.4, 0.1, 0.25))
    decision = decide(armed(limits, position=(0.28, 0.0, 0.07)), action(dz=-0.05))
    assert decision.action_A[2] == pytest.approx(-0.02, abs=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_value_that_is_not_finite_holds_the_arm_with_its_gripper(value) -> None:
    decision = decide(armed(gripper=0.3), action(dx=value))
    assert decision.verdict is GateVerdict.HELD
    assert decision.reasons == ("not_finite",)
    np.testing.assert_allclose(decision.action_A, [0, 0, 0, 0, 0, 0, 0.3], atol=1e-7)


@pytest.mark.parametrize("wrong", [np.zeros(6, np.float32), np.zeros(7), np.zeros((1, 7), np.float32)])
def test_malformed_command_holds_the_arm(wrong) -> None:
    assert decide(armed(), wrong).reasons == ("malformed",)


def test_unreachable_pose_holds_the_arm_but_lets_the_fingers_move() -> None:
    decision = decide(armed(position=(0.40, 0.0, 0.24)), action(dx=0.05, dz=0.05, gripper=0.0))
    assert decision.verdict is GateVerdict.HELD
    assert decision.reasons == ("unreachable",)
    np.testing.assert_array_equal(decision.action_A, np.zeros(7))


def test_joint_faster_than_its_limit_slows_the_step_down() -> None:
    """Close to the base a sideways 5 cm turns the waist by 0.3 rad; a limit of 0.5 rad/s allows 0.1 in 0.2 s."""
    slow = replace(WIDOWX_250S, joint_velocity_rad_s=0.5)
    gate = armed(GateLimits(spec=slow), position=(0.16, 0.0, 0.12))
    decision = decide(gate, action(dy=0.05))
    assert decision.reasons == ("joint_velocity",)
    assert 0.0 < decision.action_A[1] < 0.05
    target, _ = gate.arm.target.advanced(decision.action_A)
    joints = kinematics.inverse(target.position_m, target.rotation, gate.arm.target_joints_J)
    assert np.abs(joints - gate.arm.target_joints_J).max() <= 0.1 + 1e-9


def test_seam_between_chunks_is_smoothed() -> None:
    """+0.05 then -0.05 is a change of 0.10; a limit of 0.06 lets it fall to -0.01."""
    gate = armed(GateLimits(max_change_m=0.06))
    decide(gate, action(dx=0.05))
    gate.observe(arm_at((0.33, 0.0, 0.12), stamp_ns=2 * SECOND), 2)
    decision = decide(gate, action(dx=-0.05), stamp_ns=2 * SECOND)
    assert decision.reasons == ("seam",)
    assert decision.action_A[0] == pytest.approx(-0.01, abs=1e-6)


def test_new_episode_has_no_seam() -> None:
    gate = armed(GateLimits(max_change_m=0.06))
    decide(gate, action(dx=0.05))
    gate.observe(arm_at(stamp_ns=2 * SECOND, episode=1), 2)
    assert decide(gate, action(dx=-0.05), stamp_ns=2 * SECOND).verdict is GateVerdict.FORWARDED


def test_table_clearance_refuses_going_closer_and_allows_leaving() -> None:
    limits = GateLimits(table_height_m=0.08, table_clearance_m=0.02)
    gate = armed(limits, position=(0.28, 0.0, 0.05))
    assert decide(gate, action(dz=-0.02)).reasons == ("table_clearance",)
    gate.observe(arm_at((0.28, 0.0, 0.05), stamp_ns=2 * SECOND), 2)
    assert decide(gate, action(dz=0.02), stamp_ns=2 * SECOND).verdict is GateVerdict.FORWARDED


def test_self_clearance_refuses_coming_closer_to_the_base() -> None:
    limits = GateLimits(self_clearance_m=0.08)
    gate = armed(limits, position=(0.19, 0.0, 0.02))
    assert decide(gate, action(dx=-0.05)).reasons == ("self_clearance",)


def test_command_for_an_older_observation_is_dropped() -> None:
    gate = armed(stamp_ns=2 * SECOND)
    decision = decide(gate, action(), stamp_ns=SECOND)
    assert (decision.verdict, decision.action_A, decision.reasons) == (GateVerdict.DROPPED, None, ("stale_command",))


def test_command_within_the_allowed_age_passes() -> None:
    gate = armed(GateLimits(max_command_age_ns=SECOND), stamp_ns=2 * SECOND)
    assert decide(gate, action(), stamp_ns=SECOND).verdict is GateVerdict.FORWARDED


def test_replayed_command_is_dropped() -> None:
    gate = armed()
    decide(gate, action())
    assert decide(gate, action()).reasons == ("replayed",)


def test_command_from_the_future_is_dropped() -> None:
    assert decide(armed(), action(), stamp_ns=9 * SECOND).reasons == ("from_the_future",)


def test_stale_observation_holds_the_arm() -> None:
    gate = armed(GateLimits(deadman_ns=SECOND))
    assert decide(gate, action(), now_ns=SECOND + 1).reasons == ("stale_observation",)


def test_silence_holds_within_one_tick_and_a_fresh_command_opens_again() -> None:
    gate = armed(GateLimits(deadman_ns=SECOND))
    decide(gate, action(), now_ns=1)
    assert gate.tick(SECOND) is None
    hold = gate.tick(SECOND + 2)
    assert hold.verdict is GateVerdict.HELD
    np.testing.assert_allclose(hold.action_A, [0, 0, 0, 0, 0, 0, 1], atol=1e-7)
    assert gate.state is GateState.HOLDING
    assert gate.tick(SECOND + 3) is None  # told once
    gate.observe(arm_at(stamp_ns=2 * SECOND), 2 * SECOND)
    assert decide(gate, action(), stamp_ns=2 * SECOND, now_ns=2 * SECOND).verdict is GateVerdict.FORWARDED
    assert gate.state is GateState.ARMED


def test_silence_after_the_episode_is_no_fault() -> None:
    gate = armed(GateLimits(deadman_ns=SECOND))
    decide(gate, action(), now_ns=1)
    gate.observe(arm_at(stamp_ns=2 * SECOND, running=False), 2)
    assert gate.tick(9 * SECOND) is None
    assert gate.state is GateState.ARMED


def test_estop_wins_over_everything_until_re_armed() -> None:
    gate = armed()
    gate.latch_estop("button")
    assert decide(gate, action()).reasons == ("estop",)
    gate.stop("some fault")
    assert (gate.state, gate.reason) == (GateState.ESTOP, "button")
    assert gate.re_arm(1) == ""
    assert decide(gate, action()).verdict is GateVerdict.FORWARDED


def test_re_arm_needs_a_fresh_observation() -> None:
    gate = CommandGate(GateLimits(deadman_ns=SECOND))
    assert "no fresh observation" in gate.re_arm(0)
    gate.observe(arm_at(), 0)
    assert "no fresh observation" in gate.re_arm(2 * SECOND)
    assert gate.state is GateState.DISARMED
    assert gate.re_arm(1) == ""


def test_simulator_may_be_re_armed_while_its_time_stands_still() -> None:
    gate = CommandGate(GateLimits(deadman_ns=SECOND), armed=True)
    gate.latch_estop("button")
    assert gate.re_arm(9 * SECOND) == ""
    assert gate.state is GateState.ARMED


def test_command_before_the_estop_is_not_executed_after_re_arming() -> None:
    gate = armed()
    decide(gate, action(dx=0.05))
    gate.latch_estop("button")
    gate.re_arm(1)
    assert decide(gate, action(dx=0.05)).reasons == ("replayed",)


def test_clock_that_jumps_back_stops_the_arm() -> None:
    gate = armed(stamp_ns=5 * SECOND)
    gate.observe(arm_at(stamp_ns=4 * SECOND), 2)
    assert gate.state is GateState.STOPPED
    assert "5000000000 to 4000000000" in gate.reason
    assert decide(gate, action(), stamp_ns=4 * SECOND).reasons == ("stopped",)
    assert gate.re_arm(3) == ""
    assert decide(gate, action(), stamp_ns=4 * SECOND).verdict is GateVerdict.FORWARDED


def test_restarted_arm_waits_for_an_operator() -> None:
    gate = CommandGate()
    gate.observe(arm_at(stamp_ns=5 * SECOND, session=1), 0)
    gate.re_arm(1)
    gate.observe(arm_at(stamp_ns=SECOND, session=2), 2)
    assert (gate.state, gate.reason) == (GateState.STOPPED, "the arm was restarted; look at it, then re-arm")


def test_restarted_simulator_goes_on_unless_stopped() -> None:
    gate = armed(stamp_ns=5 * SECOND, session=1)
    gate.observe(arm_at(stamp_ns=SECOND, session=2), 2)
    assert decide(gate, action()).verdict is GateVerdict.FORWARDED
    gate.latch_estop("button")
    gate.observe(arm_at(stamp_ns=SECOND, session=3), 3)
    assert gate.state is GateState.ESTOP


@pytest.mark.parametrize("effort", [[0, 900, 0, 0, 0, 0], [0, -900, 0, 0, 0, 0], [0, np.nan, 0, 0, 0, 0]])
def test_overloaded_joint_stops_the_arm(effort) -> None:
    gate = armed(GateLimits(effort_limit=(800.0,) * 6))
    gate.observe(arm_at(stamp_ns=2 * SECOND, effort_J=np.array(effort, float)), 2)
    assert gate.state is GateState.STOPPED


def test_refusals_in_a_row_stop_the_arm() -> None:
    gate = armed(GateLimits(max_refusals=3))
    for step in range(1, 4):
        gate.observe(arm_at(stamp_ns=step * SECOND), step)
        decide(gate, action(dx=np.nan), stamp_ns=step * SECOND)
    assert gate.state is GateState.STOPPED
    assert "3 commands in a row refused, the last one: not_finite" in gate.reason


def test_every_verdict_is_counted() -> None:
    gate = armed()
    decide(gate, action(dx=0.2))
    decide(gate, action())
    assert gate.counts == {"limited": 1, "step_limit": 1, "dropped": 1, "replayed": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"workspace_low_m": (0.0, -0.2, -0.01)},
        {"workspace_high_m": (0.45, 0.25, 0.9)},
        {"workspace_low_m": (0.4, 0.0, 0.0), "workspace_high_m": (0.3, 0.1, 0.1)},
        {"deadman_ns": 0},
        {"max_change_m": -1.0},
        {"effort_limit": (1.0, 2.0)},
    ],
)
def test_envelope_that_makes_no_sense_is_refused(wrong) -> None:
    with pytest.raises(ConfigError):
        GateLimits(**wrong)


commands = st.lists(
    st.tuples(
        st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=7, max_size=7),
        st.sampled_from([0, 0, 0, -SECOND, SECOND, 3 * SECOND]),
        st.sampled_from([1, 1, 1, 2 * SECOND]),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(commands)
def test_whatever_is_asked_the_arm_stays_inside_its_envelope(stream) -> None:
    """An arm that obeys exactly: after every told action its pose is in the box and its joints moved slowly."""
    gate = armed(GateLimits(deadman_ns=SECOND))
    arm, now_ns = gate.arm, 0
    for values, shift_ns, wait_ns in stream:
        now_ns += wait_ns
        tick = gate.tick(now_ns)
        if tick is not None:
            assert not tick.action_A[:6].any()
        decision = decide(gate, np.array(values, np.float32), stamp_ns=arm.stamp_ns + shift_ns, now_ns=now_ns)
        if decision.action_A is not None:
            arm = obey(arm, decision.action_A)
        arm = replace(arm, stamp_ns=arm.stamp_ns + SECOND // 5)
        gate.observe(arm, now_ns)


def obey(arm: ArmState, action_A: np.ndarray) -> ArmState:
    spec = WIDOWX_250S
    assert np.isfinite(action_A).all()
    assert np.abs(action_A[:3]).max() <= 0.05 + 1e-7
    assert np.abs(action_A[3:6]).max() <= 0.25 + 1e-7
    assert 0.0 <= action_A[6] <= 1.0
    target, _ = arm.target.advanced(action_A)
    moved = bool(action_A[:6].any())
    joints = (
        kinematics.inverse(target.position_m, target.rotation, arm.target_joints_J) if moved else arm.target_joints_J
    )
    assert (target.position_m >= np.array(spec.workspace_low_m) - 1e-9).all()
    assert (target.position_m <= np.array(spec.workspace_high_m) + 1e-9).all()
    assert within_limits(joints)
    assert np.abs(joints - arm.target_joints_J).max() <= np.pi * 0.2 + 1e-6
    return replace(arm, target=target, target_joints_J=joints)


def test_segment_distances_by_hand() -> None:
    x, y, z = np.eye(3)
    zero = np.zeros(3)
    assert segment_distance(zero, x, z, z + y) == pytest.approx(1.0)  # skew
    assert segment_distance(zero, x, 3 * x, 4 * x) == pytest.approx(2.0)  # in line
    assert segment_distance(-x, x, -y, y) == pytest.approx(0.0)  # crossing
    assert segment_distance(zero, x, y, x + y) == pytest.approx(1.0)  # parallel
    assert segment_distance(zero, x, 2 * x + y, 2 * x + 3 * y) == pytest.approx(np.sqrt(2))  # end to end


def test_clearance_of_a_gripper_pointing_down_is_that_of_its_palm() -> None:
    """Gripper frame at z = 0.10: the palm is 0.066 m above it with a radius of 0.02 m; the wrist is higher."""
    joints = kinematics.inverse((0.28, 0.0, 0.10), DEFAULT_ROTATION, GUESS_J, tolerance_m=1e-7)
    assert clearance(joints).table_m == pytest.approx(0.10 + 0.066 - 0.02, abs=1e-4)
    assert clearance(joints, table_height_m=0.05).table_m == pytest.approx(0.096, abs=1e-4)


def test_human_takes_over_and_gives_back_without_a_jump() -> None:
    gate = armed(GateLimits(max_change_m=0.06))
    gate.take_over(True)
    assert decide(gate, action(dx=0.05)).reasons == ("taken_over",)
    human = gate.decide(Command(action(dx=0.05), SECOND, "teleop"), 1)
    assert (human.verdict, human.source) == (GateVerdict.FORWARDED, "teleop")
    gate.take_over(False)
    gate.observe(arm_at(stamp_ns=2 * SECOND), 2)
    assert gate.decide(Command(action(), 2 * SECOND, "teleop"), 2).reasons == ("not_taken_over",)
    back = decide(gate, action(dx=-0.05), stamp_ns=2 * SECOND)
    assert (back.reasons, back.source) == (("seam",), "policy")
    assert back.action_A[0] == pytest.approx(-0.01, abs=1e-6)
