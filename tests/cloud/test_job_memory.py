"""What a job's processes use together, and the end of those that use too much."""

import subprocess
import sys

import psutil
import pytest

from cloud_trainer.jobs.memory import JobMemoryError, MemoryWatch, memory_of_machine, used_by

MIB = 1 << 20
EATS = "import sys, time; kept = bytearray(int(sys.argv[1])); print(flush=True); time.sleep(600)"
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"


def child(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", *arguments], stdout=subprocess.PIPE)


def test_a_process_that_uses_too_much_ends_with_its_children_and_the_others_stay():
    greedy, modest = child(PARENT, EATS, str(400 * MIB)), child(PARENT, EATS, str(10 * MIB))
    try:
        assert greedy.stdout.readline() == modest.stdout.readline() == b"\n"  # of their children, once they have eaten
        (eater,) = psutil.Process(greedy.pid).children()
        with MemoryWatch(greedy.pid, 200 * MIB) as watch, MemoryWatch(modest.pid, 200 * MIB) as other:
            assert greedy.wait(60) == -9
            assert psutil.wait_procs([eater], 60)[0] == [eater]
            with pytest.raises(JobMemoryError, match=r"used more than 0\.195 GiB; make it smaller"):
                watch.check()
            other.check()
            assert modest.poll() is None
    finally:
        for process in (greedy, modest):
            for one in psutil.Process(process.pid).children() if process.poll() is None else ():
                one.kill()
            process.kill()
            process.wait()
            process.stdout.close()


def test_what_is_counted_is_what_is_in_use():
    process = child(EATS, str(100 * MIB))
    try:
        assert process.stdout.readline() == b"\n"
        assert 100 * MIB < used_by(psutil.Process(process.pid)) < 150 * MIB
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert used_by(psutil.Process()) < memory_of_machine() <= psutil.virtual_memory().total
