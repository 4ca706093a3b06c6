"""An arm that recovers by itself, and the calls for a person that its faults raise; without ROS."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from gymnast_core.errors import EstopLatchedError, SafetyError
from gymnast_core.spec import WIDOWX_250S
from gymnast_ros.drivers import auto_recovery
from gymnast_ros.drivers.auto_recovery import AutoRecovery, RecoveryCount
from gymnast_ros.drivers.force import ForceWatch
from gymnast_ros.drivers.health import NeedsHumanError, ask_motors, recover
from gymnast_ros.drivers.widowx import WidowXDriver
from gymnast_ros.run.fault_pages import FaultPages
from gymnast_ros.run.plan import EpisodeResult
from tests.ros.conftest import wait_until
from tests.ros.standin import StandIn


class Calls:
    """A Pager that keeps what it is given."""

    def __init__(self) -> None:
        self.pages: list[tuple[str, str, dict[str, object]]] = []

    def page(self, kind, text, **detail):
        self.pages.append((kind, text, detail))
        return "page-0000000000000000"

    def answer(self, page_id):
        return None

    def resolve(self, page_id, by):
        raise AssertionError("no person is here")

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _, _ in self.pages]


class Arm:
    """The motors of a stand-in that a test breaks, the gate that it closes, and the recovery over both."""

    def __init__(self, folder, *, enabled=True, wait_s=0.0) -> None:
        self.robot = StandIn()
        self.robot.sleeps = lambda seconds: None
        now_s = [0.0]
        self.robot.now_s = lambda: now_s[0]

        def pause(seconds: float) -> None:
            now_s[0] += seconds

        self.robot.wall_ns = lambda: int(now_s[0] * 1e9)
        self.driver = WidowXDriver(self.robot, monotonic_s=lambda: now_s[0], pause=pause)
        self.driver.start_up()
        self.pause, self.gate, self.calls = pause, "", Calls()
        self.ended, self.attempts = threading.Semaphore(0), 0
        self.raises: Exception | None = None
        self.count = RecoveryCount(folder / "recoveries.json")
        self.auto = AutoRecovery(
            self.count, self.calls, enabled=enabled, closed=lambda: self.gate, attempt=self.attempt,
            ended=self.ended.release, wait_s=wait_s,
        )  # fmt: skip

    def attempt(self) -> None:
        self.attempts += 1
        if self.raises is not None:
            raise self.raises
        recover(self.robot, self.driver, tries=1, pause=self.pause)

    def break_(self, *, unrepairable=False) -> None:
        self.robot.torque["elbow"], self.robot.errors["elbow"] = False, 0b100000
        self.robot.unrepairable = unrepairable
        self.auto.failed(ask_motors(self.robot, 0.0).problem)

    def over(self) -> None:
        assert self.ended.acquire(timeout=30.0)


@pytest.fixture
def arm(tmp_path):
    arm = Arm(tmp_path)
    yield arm
    arm.auto.close()


def test_a_motor_that_failed_is_recovered_without_anybody(arm) -> None:
    arm.break_()
    arm.over()
    assert ask_motors(arm.robot, 0.0).problem == ""
    np.testing.assert_allclose(arm.driver.read().joints_J, WIDOWX_250S.neutral_joints_rad, atol=1e-6)
    assert not arm.robot.dropped
    assert (arm.calls.pages, arm.count.tries, arm.auto.under_way) == ([], 1, False)


def test_three_times_then_a_person_and_over_a_restart_too(arm, tmp_path) -> None:
    for number in range(1, 4):
        arm.break_()
        arm.over()
        assert arm.count.tries == number
    assert arm.calls.pages == []
    arm.auto.close()
    again = Arm(tmp_path)
    again.break_()
    again.over()
    assert again.attempts == 0
    [(kind, text, detail)] = again.calls.pages
    assert kind == "motor_fault"
    assert text.startswith("elbow reports overload; elbow lost torque; the arm has tried 3 times to recover by itself")
    assert "gymnast recover" in text
    assert detail == {"tries": 3, "total": 3}
    again.count.person_came()
    again.break_()
    again.over()
    assert (again.attempts, again.count.tries, again.count.total) == (1, 1, 4)
    again.auto.close()


def test_what_does_not_help_three_times_calls_a_person(arm) -> None:
    arm.break_(unrepairable=True)
    arm.over()
    assert arm.attempts == 3
    assert arm.calls.kinds == ["motor_fault"]
    assert not arm.robot.dropped


def test_nothing_moves_while_the_gate_is_closed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(auto_recovery, "PATIENCE_S", 0.3)
    arm = Arm(tmp_path, wait_s=0.3)
    arm.gate = "the emergency stop is latched"
    arm.break_()
    wait_until(lambda: arm.calls.pages, 20.0, "the call for a person")
    assert arm.attempts == 0
    assert not arm.auto.under_way
    assert "cannot recover by itself: the emergency stop is latched" in arm.calls.pages[0][1]
    arm.gate = ""
    arm.over()
    assert (arm.attempts, arm.calls.kinds) == (1, ["motor_fault"])
    arm.auto.close()


def test_a_person_who_recovers_it_first_is_not_met_by_a_moving_arm(tmp_path) -> None:
    arm = Arm(tmp_path, wait_s=600.0)
    arm.break_()
    assert arm.auto.under_way
    arm.auto.over()
    arm.over()
    assert (arm.attempts, arm.calls.pages) == (0, [])
    arm.auto.close()


def test_a_stop_during_a_try_is_no_fault_of_the_driver(tmp_path) -> None:
    arm = Arm(tmp_path)

    def attempt() -> None:
        if not arm.attempts:
            arm.gate, arm.attempts = "the emergency stop is latched", 1
            raise EstopLatchedError("the arm may not move: the emergency stop is latched")
        arm.attempts += 1
        recover(arm.robot, arm.driver, tries=1, pause=arm.pause)

    arm.auto._attempt = attempt
    arm.break_()
    wait_until(lambda: arm.attempts == 1, 20.0, "the first try")
    arm.gate = ""
    arm.over()
    assert (arm.attempts, arm.calls.pages) == (2, [])
    arm.auto.close()


def test_a_driver_that_is_gone_is_not_rebooted_again_and_again(arm) -> None:
    arm.raises = SafetyError("no new joint_states for 1 s; is xs_sdk still running?")
    arm.break_()
    arm.over()
    assert (arm.attempts, arm.calls.kinds) == (1, ["arm_fault"])
    assert "is xs_sdk still running" in arm.calls.pages[0][1]


def test_a_bug_in_a_try_calls_a_person_and_the_next_failure_finds_somebody(arm) -> None:
    arm.raises = KeyError("oops")
    arm.break_()
    arm.over()
    assert "KeyError" in arm.calls.pages[0][1]
    arm.raises = None
    arm.break_()
    arm.over()
    assert ask_motors(arm.robot, 0.0).problem == ""


def test_an_arm_that_is_not_set_so_calls_at_once(tmp_path) -> None:
    arm = Arm(tmp_path, enabled=False)
    arm.break_()
    arm.over()
    assert (arm.attempts, arm.calls.kinds) == (0, ["motor_fault"])
    arm.auto.close()


def test_a_count_that_cannot_be_read_is_spent(tmp_path) -> None:
    (tmp_path / "recoveries.json").write_text("{broken")
    assert RecoveryCount(tmp_path / "recoveries.json").tries == 3


def test_recover_tries_as_often_as_it_is_asked(arm) -> None:
    arm.robot.errors["elbow"], arm.robot.unrepairable = 4, True
    with pytest.raises(NeedsHumanError, match=r"recoveries failed \(2\)"):
        recover(arm.robot, arm.driver, tries=2, pause=arm.pause)


def test_over_force_is_so_many_steps_of_one_joint_in_a_row() -> None:
    watch = ForceWatch(np.full(6, 100.0), 3, np.full(6, 200.0))
    calm, hard = np.zeros(6), np.array([0.0, -120.0, 0, 0, 0, 0])
    other = np.array([130.0, 0, 0, 0, 0, 0])
    for efforts in ((hard, hard, calm, hard, hard), (hard, other, hard, other)):
        watch.reset()
        assert [watch.note(effort) for effort in efforts] == [""] * len(efforts)
    watch.reset()
    assert [watch.note(hard), watch.note(hard)] == ["", ""]
    assert watch.note(hard) == "over-force: shoulder -120 beyond 100 for 3 steps"
    watch.reset()
    assert watch.note(None) == ""
    assert [bool(watch.note(np.full(6, np.nan))) for _ in range(3)] == [False, False, True]
    watch.reset()
    assert watch.note(np.array([0, 0, 0, 0, 250.0, 0])) == "over-force: wrist_angle 250 beyond 100 for 1 steps"
    unbounded = np.full(6, np.inf)
    assert ForceWatch(unbounded, 1, unbounded).note(np.full(6, 1e9)) == ""


def row(reason: str, detail: str = "camera is dead") -> EpisodeResult:
    return EpisodeResult("p", "lift", "lift it", 0, "standard", None, "", 3, "ep-1", reason, detail, 0, 0, "")


def test_a_fault_that_does_not_pass_calls_a_person_once_and_over_force_at_once() -> None:
    calls = Calls()
    pages = FaultPages(calls)
    for reason in ("refused", "fault", "", "fault", "refused", "cancelled", "fault", "fault"):
        pages.note(row(reason))
    assert calls.pages == []
    for _ in range(4):
        pages.note(row("refused"))
    assert calls.kinds == ["arm_fault"]
    assert calls.pages[0][1] == "3 episodes in a row ended by refused: camera is dead"
    pages.note(row("over_force", "over-force: shoulder 1500 beyond 1445 for 3 steps"))
    assert calls.kinds == ["arm_fault", "over_force"]
    for _ in range(5):
        pages.note(row("motor_fault"))  # which the arm itself reports
    assert len(calls.pages) == 2
