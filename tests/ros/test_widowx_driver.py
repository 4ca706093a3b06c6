"""The driver against a stand-in generated from the declared vendor contract, on a clock that only moves when told."""

from __future__ import annotations

import numpy as np
import pytest

from gymnast_core.arm.kinematics import forward
from gymnast_core.errors import ContractError, SafetyError, StaleCommandError
from gymnast_core.spec import JOINT_NAMES, WIDOWX_250S
from gymnast_ros.drivers.contract import VENDOR_API, check_vendor
from gymnast_ros.drivers.guard import VendorFailedError, guarded
from gymnast_ros.drivers.health import MotorWatch, NeedsHumanError, ask_motors, recover
from gymnast_ros.drivers.widowx import WidowXDriver
from tests.ros.conftest import wait_until
from tests.ros.standin import StandIn


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def robot(clock: Clock) -> StandIn:
    robot = StandIn(clock, lambda: int(clock.now_s * 1e9))
    robot.sleeps = clock.sleep
    return robot


@pytest.fixture
def driver(robot: StandIn, clock: Clock) -> WidowXDriver:
    driver = WidowXDriver(robot, monotonic_s=clock, pause=clock.sleep)
    driver.start_up()
    return driver


def action(dx=0.0, dy=0.0, dz=0.0, gripper=1.0) -> np.ndarray:
    return np.array([dx, dy, dz, 0, 0, 0, gripper], np.float32)


def test_start_up_ends_at_neutral_with_the_steps_profile(driver, robot) -> None:
    np.testing.assert_allclose(driver.read().joints_J, WIDOWX_250S.neutral_joints_rad, atol=1e-9)
    assert robot.registers == {"Profile_Velocity": 250, "Profile_Acceleration": 100}  # 1.25 and 0.5 x 0.2 s
    assert all(robot.torque[name] for name in JOINT_NAMES)
    assert not robot.dropped


def test_deltas_add_to_the_previous_target_not_to_the_measured_pose(driver, robot, clock) -> None:
    start_X, _ = forward(driver.read().joints_J)
    for _ in range(3):
        driver.step(action(dx=0.03))
        clock.sleep(0.05)  # the arm lags behind
    np.testing.assert_allclose(driver.target.position_m, start_X + np.array([0.09, 0, 0]), atol=1e-6)
    clock.sleep(1.0)
    measured_X, _ = forward(driver.read().joints_J)
    np.testing.assert_allclose(measured_X, start_X + np.array([0.09, 0, 0]), atol=2e-4)


def test_steps_never_change_the_profile(driver, robot) -> None:
    before = sum(name == "arm.set_trajectory_time" for name, _ in robot.calls)
    for _ in range(5):
        driver.step(action(dx=0.01))
    assert sum(name == "arm.set_trajectory_time" for name, _ in robot.calls) == before
    steps = [arguments for name, arguments in robot.calls if name == "arm.set_joint_positions"][-5:]
    assert all(arguments["moving_time"] is None and arguments["blocking"] is False for arguments in steps)


def test_refused_step_holds_the_target_and_is_counted(driver, robot) -> None:
    before = driver.target.position_m.copy()
    robot.refuse = True
    executed_A = driver.step(action(dx=0.03, gripper=0.0))
    np.testing.assert_array_equal(executed_A, action(gripper=0.0))
    np.testing.assert_array_equal(driver.target.position_m, before)
    assert driver.failures == 1
    assert robot.finger == WIDOWX_250S.finger_closed_m  # the fingers still act


def test_unreachable_step_holds(driver, clock) -> None:
    for _ in range(6):
        driver.step(action(dx=0.05))
        clock.sleep(0.25)
    for _ in range(2):
        driver.step(action(dx=0.05, dz=0.05))
        clock.sleep(0.25)
    assert driver.failures >= 1


def test_five_failures_in_a_row_end_the_episode(driver, robot) -> None:
    robot.refuse = True
    for _ in range(4):
        driver.step(action(dx=0.01))
    with pytest.raises(SafetyError, match="5 steps in a row"):
        driver.step(action(dx=0.01))


def test_gripper_eases_off_once_it_holds_something(driver, robot, clock) -> None:
    driver.step(action(gripper=0.0))
    assert robot.pressure == 0.5
    clock.sleep(1.1)
    driver.tick()
    assert robot.pressure == 0.2
    driver.step(action(gripper=1.0))
    assert robot.finger == WIDOWX_250S.finger_open_m


def test_torque_goes_off_only_in_the_sleep_pose(driver, robot) -> None:
    driver.sleep()
    assert not robot.dropped
    assert not any(robot.torque[name] for name in JOINT_NAMES)


def stops_at(clock: Clock, driver: WidowXDriver, moment_s: float) -> None:
    """Somebody presses the emergency stop at that moment of the clock."""

    def pause(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now_s >= moment_s:
            driver.stopped = "emergency stop"

    driver._pause = pause


@pytest.mark.parametrize("move", ["go_neutral", "sleep"])
def test_emergency_stop_ends_a_slow_move_within_a_tick(driver, robot, clock, move) -> None:
    driver._pause = clock.sleep
    if move == "go_neutral":
        driver.sleep(torque_off=False)
    pressed_s = clock.now_s + 0.5
    stops_at(clock, driver, pressed_s)
    with pytest.raises(SafetyError, match="emergency stop"):
        getattr(driver, move)()
    assert clock.now_s - pressed_s <= 0.2
    stood = robot.where()
    for _ in range(100):  # with the slow profile still in the motors it would swing on by a third of a radian
        clock.sleep(0.05)
        np.testing.assert_allclose(robot.where(), stood, atol=0.06)
    assert not robot.dropped
    assert all(robot.torque[name] for name in JOINT_NAMES)  # and holds
    with pytest.raises(SafetyError, match="may not move"):
        driver.begin_neutral()


def test_every_motor_has_a_health_of_its_own(driver, robot) -> None:
    robot.torque["elbow"], robot.errors["elbow"] = False, 0b100000
    health = ask_motors(robot, 0.0).by_motor()
    assert set(health) == {*JOINT_NAMES, "gripper"}
    assert health["elbow"][:2] == (2, "overload")
    assert health["waist"][:2] == (0, "holds")


def test_silence_of_the_joints_is_named(robot, clock, monkeypatch) -> None:
    monkeypatch.setattr(robot.core, "robot_get_joint_states", lambda: None)
    with pytest.raises(StaleCommandError, match="no joint_states from xs_sdk"):
        WidowXDriver(robot, monotonic_s=clock, pause=clock.sleep)


def test_overloaded_motor_is_found_and_recovered_with_its_modes(driver, robot) -> None:
    robot.torque["elbow"], robot.errors["elbow"] = False, 0b100000
    health = ask_motors(robot, 0.0)
    assert health.problem == "elbow reports overload; elbow lost torque"
    assert recover(robot, driver, pause=lambda seconds: None).problem == ""
    assert robot.modes == {"arm": "position", "gripper": "pwm"}
    assert not robot.dropped


def test_motor_that_stays_broken_calls_a_human_after_three_tries(driver, robot) -> None:
    robot.errors["elbow"], robot.unrepairable = 4, True
    with pytest.raises(NeedsHumanError, match="elbow reports overheating"):
        recover(robot, driver, pause=lambda seconds: None)
    assert (
        sum(arguments.get("name") == "arm" for name, arguments in robot.calls if name == "core.robot_reboot_motors")
        == 3
    )


def test_hanging_service_is_a_fault_and_delays_nobody(robot) -> None:
    robot.hang = True
    watch = MotorWatch(robot, period_s=0.01, stuck_s=0.1)
    wait_until(lambda: watch.latest().problem == "xs_sdk does not answer", 5.0, "stuck bus")
    watch._closing.set()


def test_vendor_package_that_lacks_a_method_is_refused_by_name(robot) -> None:
    del robot.core.robot_reboot_motors
    robot.gripper.grasp = lambda: None
    with pytest.raises(ContractError, match=r"gripper.grasp\(delay=\), core.robot_reboot_motors\(\)"):
        check_vendor(robot)


def test_every_declared_call_is_made_with_declared_arguments(driver, robot) -> None:
    """The contract holds nothing we do not use: what is declared is what must be checked on the real arm."""
    robot.errors["waist"] = 1
    recover(robot, driver, pause=lambda seconds: None)
    driver.step(action(gripper=0.0))
    robot.registers = dict.fromkeys(robot.registers, 0)  # motors that lost their supply for a moment
    driver.forget_profile()
    driver.hold()
    driver.sleep()
    assert {name for name, _ in robot.calls} == {f"{call.part}.{call.name}" for call in VENDOR_API}


def test_arm_that_does_not_get_to_its_sleep_pose_keeps_its_torque(driver, robot) -> None:
    robot.block("elbow")
    with pytest.raises(SafetyError, match=r"did not reach its sleep pose: elbow is 1\.\d\d rad away"):
        driver.sleep()
    assert not robot.dropped
    assert all(robot.torque[name] for name in JOINT_NAMES)
    robot.block()
    driver.sleep()
    assert not robot.dropped
    assert not any(robot.torque[name] for name in JOINT_NAMES)


def test_arm_that_is_slow_to_its_sleep_pose_is_waited_for(driver, robot, clock) -> None:
    robot.block("elbow")
    free_s = clock.now_s + 3.5

    def pause(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now_s > free_s and robot.stuck:
            robot.block()

    driver._pause = pause
    driver.sleep()
    assert not robot.dropped
    assert clock.now_s > free_s


def test_blocked_arm_does_not_start_from_a_neutral_pose_it_is_not_in(driver, robot) -> None:
    driver.sleep(torque_off=False)
    robot.block("shoulder")
    with pytest.raises(SafetyError, match="did not reach its neutral pose: shoulder"):
        driver.go_neutral()


@pytest.mark.parametrize("move", ["sleep", "go_neutral", "start_up"])
def test_dead_driver_is_a_named_fault_before_anything_is_sent(driver, robot, clock, move) -> None:
    driver.read()
    robot.dead = True
    began_s = clock.now_s
    with pytest.raises(StaleCommandError, match="is xs_sdk still running"):
        getattr(driver, move)()
    assert clock.now_s - began_s < 2.0


def test_recovery_with_a_dead_driver_answers(driver, robot) -> None:
    driver.read()
    robot.dead = True
    with pytest.raises(StaleCommandError, match="is xs_sdk still running"):
        recover(guarded(robot), driver, pause=lambda seconds: None)


def test_whatever_the_package_raises_is_a_fault_with_the_calls_name(driver, robot) -> None:
    robot.explode = True
    for call in (driver.read, driver.hold, driver.sleep, driver.go_neutral, lambda: driver.step(action(dx=0.01))):
        with pytest.raises(VendorFailedError, match=r"interbotix_xs_modules failed \(KeyError\("):
            call()


def test_registers_that_do_not_answer_are_named(driver, robot) -> None:
    driver.read()
    robot.dead = True
    with pytest.raises(VendorFailedError, match=r"robot_get_motor_registers\(arm, Torque_Enable\)"):
        ask_motors(guarded(robot), 0.0)


def test_hold_is_sent_although_a_joint_is_beyond_its_limit(driver, robot, clock) -> None:
    beyond = WIDOWX_250S.joint_high_rad[1] + 0.02
    robot.goal = robot.start = np.array(
        [*WIDOWX_250S.neutral_joints_rad[:1], beyond, *WIDOWX_250S.neutral_joints_rad[2:]]
    )
    driver.hold()
    assert robot.calls[-1][0] == "core.robot_write_commands"
    assert robot.goal[1] == WIDOWX_250S.joint_high_rad[1]
    np.testing.assert_allclose(np.delete(robot.goal, 1), np.delete(robot.start, 1))


def test_hold_in_a_slow_move_is_sent_at_once_and_again_in_the_pace_of_a_step(driver, robot, clock) -> None:
    driver.sleep(torque_off=False)
    driver.begin_neutral()
    clock.sleep(0.7)
    before = len(robot.calls)
    driver.hold()
    sent = [name for name, _ in robot.calls[before:]]
    first, last = sent.index("core.robot_write_commands"), len(sent) - 1
    assert sent[last] == "core.robot_write_commands"
    assert "arm.set_trajectory_time" not in sent[:first]
    assert "core.robot_get_motor_registers" in sent[first:last]  # the profile was read back
    assert robot.pace_s == pytest.approx(0.25)


def test_hold_in_the_pace_of_a_step_costs_no_register(driver, robot) -> None:
    before = len(robot.calls)
    driver.hold()
    assert not any("register" in name or "trajectory" in name for name, _ in robot.calls[before:])


def test_far_goal_is_never_sent_in_a_pace_that_the_motors_do_not_have(driver, robot) -> None:
    """The package does not write what it holds for known; motors that lost their supply know nothing."""
    driver.sleep(torque_off=False)
    robot.registers = {"Profile_Velocity": 0, "Profile_Acceleration": 0}
    driver.forget_profile()
    driver.begin_neutral()
    assert robot.pace_s == 2.0


def test_dry_run_of_the_vendor_works_without_velocity_effort_and_registers(robot, clock) -> None:
    robot.bare = True
    driver = WidowXDriver(robot, dry_run=True, monotonic_s=clock, pause=clock.sleep)
    driver.start_up()
    driver.step(action(dx=0.01))
    reading = driver.read()
    assert (reading.velocity_J, reading.effort_J) == (None, None)
    driver.sleep()
    assert not robot.dropped


def test_joint_states_without_a_joint_are_named(driver, robot, monkeypatch) -> None:
    monkeypatch.setattr("tests.ros.standin.NAMES", ("waist", "left_finger"))
    with pytest.raises(SafetyError, match="no position of shoulder, elbow"):
        driver.read()
