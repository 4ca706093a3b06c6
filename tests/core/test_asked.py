"""A process ends by its signal: with a second one within the first, and whichever thread the system gives it to."""

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


ELSEWHERE = """
import signal, threading, time
from gymnast_core.asked import Asked
asked = Asked()
signal.signal(signal.SIGTERM, lambda *_: asked.set())
other = threading.Thread(target=time.sleep, args=(60.0,), daemon=True)
other.start()

def later():
    time.sleep(1.0)  # the main thread sleeps by then
    signal.pthread_kill(other.ident, signal.SIGTERM)

threading.Thread(target=later, daemon=True).start()
assert asked.wait()
"""


def test_signal_that_another_thread_takes_ends_a_wait_without_end() -> None:
    subprocess.run([sys.executable, "-c", ELSEWHERE], timeout=30.0, check=True)
