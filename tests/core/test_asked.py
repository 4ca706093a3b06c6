"""A process that gets a second signal while it handles the first still ends."""

from __future__ import annotations

import subprocess
import sys

PROCESS = """
import signal, sys
from gymnast_core.asked import Asked
asked = Asked()
signal.signal(signal.SIGINT, lambda *_: asked.set())

def interrupt(frame, event, _):
    if frame.f_code.co_name == "set" and event == "line":
        signal.raise_signal(signal.SIGINT)
    return interrupt

assert not asked.wait(0.01)
sys.settrace(interrupt)
signal.raise_signal(signal.SIGINT)
sys.settrace(None)
assert asked.wait(10.0) and asked.wait() and asked.is_set()
"""


def test_signal_within_each_line_of_another_ones_handler_is_heard() -> None:
    subprocess.run([sys.executable, "-c", PROCESS], timeout=30.0, check=True)
