"""The control tick keeps its deadlines, whatever its calls take."""

from __future__ import annotations

import threading
import time

from gymnast_ros.run.ticker import Ticker, prefer
from tests.ros.conftest import wait_until


def test_deadlines_are_counted_from_the_start_so_lateness_never_adds_up() -> None:
    period_ns = 5_000_000
    ticks_ns: list[int] = []
    ticker = Ticker(period_ns, lambda: ticks_ns.append(time.monotonic_ns()))
    started_ns = time.monotonic_ns()
    ticker.start()
    wait_until(lambda: len(ticks_ns) >= 40, 20.0, "forty ticks")
    ticker.close()
    deadlines = len(ticks_ns) + ticker.missed
    assert ticks_ns[0] - started_ns >= period_ns
    assert abs((ticks_ns[-1] - started_ns) / period_ns - deadlines) <= 2.0 + ticker.missed


def test_slow_call_costs_the_deadlines_it_covers_and_no_burst_follows() -> None:
    period_ns, starts_ns = 20_000_000, []
    gate = threading.Event()

    def call() -> None:
        starts_ns.append(time.monotonic_ns())
        if len(starts_ns) == 1:
            gate.wait(0.1)  # five periods

    ticker = Ticker(period_ns, call).start()
    wait_until(lambda: len(starts_ns) >= 3, 20.0, "ticks after the slow one")
    ticker.close()
    assert ticker.missed >= 4
    assert starts_ns[1] - starts_ns[0] >= 100_000_000


def test_no_call_begins_after_closing_and_a_tick_may_close_itself() -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        ticker.close()

    ticker = Ticker(1_000_000, call)
    ticker.start()
    wait_until(lambda: len(calls) == 1, 10.0, "the first tick")
    ticker.close()
    assert len(calls) == 1


def test_scheduling_that_is_not_allowed_says_what_to_allow() -> None:
    """A process that does not exist may not be made real-time by anybody."""
    assert "rtprio 20" in prefer(2**22 - 1, 20)


def test_call_that_raises_is_reported_and_the_next_tick_comes() -> None:
    calls: list[int] = []
    failures: list[Exception] = []

    def call() -> None:
        calls.append(1)
        if len(calls) < 3:
            raise ValueError("a frame without pixels")

    ticker = Ticker(1_000_000, call, failed=failures.append).start()
    wait_until(lambda: len(calls) >= 5, 10.0, "ticks after the ones that raised")
    ticker.close()
    assert [str(failure) for failure in failures] == ["a frame without pixels"] * 2
