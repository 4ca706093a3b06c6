"""What the marks cost the control path: marking and checking one command, and the arm's own look at it.

python -m benchmarks.mark_cost
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

from benchmarks.measured_arm import still_target
from gymnast_core.arm.envelope import ArmState, Envelope
from gymnast_core.arm.latch import StopLatch
from gymnast_core.arm.limits import hard_limits
from gymnast_core.arm.mark import MarkChecker, Marker
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.arm_port import COMMAND_NAMES
from gymnast_ros.nodes.marked import _content

CALLS = 20_000


def microseconds(call: Callable[[], object]) -> float:
    """Of one call, mean over CALLS."""
    started_ns = time.perf_counter_ns()
    for _ in range(CALLS):
        call()
    return (time.perf_counter_ns() - started_ns) / CALLS / 1e3


def main() -> int:
    """Measure and print."""
    key = bytes(32)
    message = messages.to_named(COMMAND_NAMES, [0.01, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0], 1, "policy")
    marker, checker = Marker(key, topics.ARM_COMMAND), MarkChecker(key, topics.ARM_COMMAND)
    target, joints_J = still_target()
    arm, envelope = ArmState(0, target, joints_J.astype(np.float64)), Envelope(hard_limits(0.0))
    action_A, latch = np.array([0.01, 0, 0, 0, 0, 0, 1], np.float32), StopLatch()
    content = _content(message)
    rows = {
        "content of a command": lambda: _content(message),
        "mark": lambda: marker.mark(content),
        "mark and check": lambda: checker.check(content, marker.mark(content)),
        "look at the stop latch": lambda: latch.word,
        "the arm's own envelope": lambda: envelope.check(action_A, arm),
    }
    for name, call in rows.items():
        sys.stdout.write(f"{name:>24} {microseconds(call):7.1f} us\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
