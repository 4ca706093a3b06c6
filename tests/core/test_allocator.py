"""Freed messages stay with the process: measured in a fresh one, as page faults."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from gymnast_core.wire.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
held = bytes(1 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    message = b"".join((held, held)), b"".join((held, held))
    del message
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_messages_reuse_the_memory_of_those_before_them():
    assert faults("keep") < faults("leave") / 4
