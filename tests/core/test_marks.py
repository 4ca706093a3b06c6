"""Marks and the stop latch, without ROS."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from gymnast_core.arm.command_gate import CommandGate, GateState
from gymnast_core.arm.latch import StopLatch
from gymnast_core.arm.limits import GateLimits
from gymnast_core.arm.mark import ForeignError, MarkChecker, Marker
from gymnast_core.errors import ConfigError, CorruptError

KEY, SECOND = bytes(range(32)), 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.ns = 100 * SECOND

    def __call__(self) -> int:
        return self.ns


def refused(checker: MarkChecker, content: bytes, mark: str) -> str:
    with pytest.raises(ForeignError) as caught:
        checker.check(content, mark)
    return str(caught.value)


def test_mark_holds_for_its_content_channel_and_key_alone_and_once() -> None:
    clock = Clock()
    marker, checker = Marker(KEY, "command/arm", clock), MarkChecker(KEY, "command/arm", now_ns=clock)
    clock.ns += 1
    mark = marker.mark(b"move")
    assert "not this graph's" in refused(checker, b"move more", mark)
    assert "not this graph's" in refused(MarkChecker(KEY, "command/policy", now_ns=Clock()), b"move", mark)
    assert "not this graph's" in refused(MarkChecker(bytes(32), "command/arm", now_ns=Clock()), b"move", mark)
    for forged in ("", "1", "1.00", "-1." + mark[2:], "٣.00", "9" * 40 + ".00", mark + "0", "x" * 10_000):
        assert refused(checker, b"move", forged)
    checker.check(b"move", mark)
    assert "sent before" in refused(checker, b"move", mark)


def test_old_message_and_one_from_before_the_start_are_refused() -> None:
    clock = Clock()
    early = Marker(KEY, "c", clock).mark(b"move")
    clock.ns += 1
    checker = MarkChecker(KEY, "c", max_age_ns=SECOND, now_ns=clock)
    assert "sent before" in refused(checker, b"move", early)
    MarkChecker(KEY, "c", latched=True, now_ns=clock).check(b"move", early)
    clock.ns += 1
    late = Marker(KEY, "c", clock).mark(b"move")
    clock.ns += 2 * SECOND
    assert "2.00 s old" in refused(checker, b"move", late)


def _stop(path: Path) -> None:
    StopLatch.attach(path).latch()


def test_latch_is_seen_by_other_processes_and_only_grows(tmp_path) -> None:
    path = tmp_path / "latch"
    StopLatch.create(path)
    latch = StopLatch.attach(path)
    process = multiprocessing.get_context("spawn").Process(target=_stop, args=(path,))
    process.start()
    process.join(60.0)
    assert (latch.stopped, latch.word) == (True, 1)
    latch.latch()
    assert latch.word == 1
    latch.release()
    latch.release()
    assert (latch.stopped, latch.word) == (False, 2)
    assert path.stat().st_mode & 0o077 == 0
    path.write_bytes(b"something else")
    with pytest.raises(CorruptError, match="no stop latch"):
        StopLatch.attach(path)


def test_gate_that_finds_the_stop_latched_is_stopped_until_it_is_re_armed() -> None:
    latch = StopLatch()
    CommandGate(armed=True, latch=latch).latch_estop("button")
    successor = CommandGate(armed=True, latch=latch)
    assert (successor.state, successor.reason) == (GateState.ESTOP, "latched before this gate was started")
    successor.stop("a fault does not lift it")
    assert successor.state is GateState.ESTOP
    assert successor.re_arm(0) == ""
    assert successor.state is GateState.ARMED


@pytest.mark.parametrize(
    "name", ["table_height_m", "table_clearance_m", "self_clearance_m", "max_change_m", "deadman_ns"]
)
@pytest.mark.parametrize("value", [np.nan, np.inf, -1e9])
def test_limit_that_is_not_finite_or_beyond_the_arm_is_refused_by_name(name, value) -> None:
    with pytest.raises(ConfigError, match=name.removesuffix("_ns")):
        GateLimits(**{name: value})


def test_wider_is_said_by_name() -> None:
    start = GateLimits(effort_limit=(100.0,) * 6)
    assert start.wider_than(start) == ""
    assert GateLimits(effort_limit=(100.0,) * 6, table_height_m=0.01, max_change_m=0.05).wider_than(start) == ""
    assert GateLimits(effort_limit=(100.0,) * 5 + (101.0,)).wider_than(start) == "effort_limit"
    assert GateLimits().wider_than(start) == "effort_limit"  # unchecked
    assert GateLimits(effort_limit=(1.0,) * 6, table_height_m=-0.01).wider_than(start) == "table_height_m"
