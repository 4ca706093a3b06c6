"""A trainer that is killed right after it has acknowledged a stop moves no arm when it is started again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cloud_trainer.flows.loop_engine import ArmLoopEngine
from cloud_trainer.flows.loop_parts import CanaryRequest, TrialStoppedError
from cloud_trainer.flows.loops import Loops
from cloud_trainer.flows.trials import Trials
from gymnast_core.evaluation.sequential import SequentialRule
from tests.console.planted_loop import PlantedEngine
from tests.hostile.registry import Tally, attack

NAMES = ("policy-a", "policy-b", "policy-c")
KILLED = """
import os, signal, sys, threading
from pathlib import Path
from cloud_trainer.flows.loops import Loops
from tests.console.planted_loop import PlantedEngine, planted_config

engines = [PlantedEngine(("policy-a", "policy-b", "policy-c"), hold=threading.Event()) for _ in range(int(sys.argv[2]))]
loops = Loops(Path(sys.argv[1]), lambda tenant: engines[int(tenant.removeprefix("lab-"))])
for number, engine in enumerate(engines):
    loops.start(f"lab-{number}", planted_config(), robots=["wx-0"], by="ana")
    engine.asked.wait(60)
    engine.improve = lambda *asked: threading.Event().wait()  # a step that lasts
for number in range(len(engines)):
    threading.Thread(target=loops.stop, args=(f"lab-{number}", "night"), kwargs={"by": "bea"}).run()
if sys.argv[3] == "term":
    loops.close()
os.kill(os.getpid(), signal.SIGKILL)
"""


@attack("a trainer killed after it has acknowledged the stop of a loop")
def kills(folder: Path, size: int) -> Tally:
    lost = 0
    for how in ("kill", "term"):
        root = folder / how
        root.mkdir(parents=True)
        command = [sys.executable, "-c", KILLED, str(root), str(size), how]
        assert subprocess.run(command, timeout=120, cwd=Path(__file__).parents[2]).returncode == -9
        engines = {f"lab-{number}": PlantedEngine(NAMES) for number in range(size)}
        again = Loops(root, engines.__getitem__)
        for tenant, engine in engines.items():
            lost += again.get(tenant, "night").state != "stopped" or bool(engine.errands)
        again.close()
    return Tally(2 * size, 0, lost)


def test_a_loop_that_was_stopped_stays_so_whatever_becomes_of_the_trainer(tmp_path):
    assert kills(tmp_path, 2) == Tally(4, 0, 0)


def test_a_trial_of_other_checkpoints_under_a_loops_key_promotes_nothing(tmp_path):
    trials = Trials(tmp_path, lambda tenant: None)  # type: ignore[arg-type, return-value]
    rule = SequentialRule()
    trials.start("lab", robot="wx-0", candidate="good", incumbent="worst", tasks=["lift"], by="eve", key="loop-1")
    engine = ArmLoopEngine("lab", None, None, trials, None, None, None)  # type: ignore[arg-type]
    asked = CanaryRequest("wx-0", "candidate", "incumbent", ("lift",), "", rule, "loop-1", "ana via loop night")
    with pytest.raises(TrialStoppedError, match="of eve has the key of this canary"):
        engine.try_out(asked, lambda: "", lambda *_: None)
