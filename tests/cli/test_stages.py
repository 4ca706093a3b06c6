"""What a long command shows: a bar on a terminal, a line now and then without one, the final count at the end."""

from __future__ import annotations

import io
import re
import threading

from rich.console import Console

from gymnast_cli.stages import Stages, shown


def test_without_a_terminal_a_line_comes_while_a_stage_runs_and_the_last_one_shows_the_final_count():
    printed = io.StringIO()
    seen = threading.Event()

    class Watched(io.StringIO):
        def write(self, text: str) -> int:
            printed.write(text)
            if "120/400" in printed.getvalue():
                seen.set()
            return len(text)

    with Stages(Console(file=Watched(), width=150), line_every_s=0.01) as stages, stages.stage("evaluate") as advance:
        advance(120, 400, "success 40/120")
        assert seen.wait(20)
        advance(400, 400, "success 104/400")
    assert re.search(r"\.\.\. evaluate +\d+\.\d s +120/400  success 40/120", printed.getvalue())
    assert re.search(r"done evaluate .*success 104/400\n$", printed.getvalue())


def test_a_stage_that_fails_ends_its_lines():
    before = threading.active_count()
    stages = Stages(Console(file=io.StringIO(), width=150), line_every_s=0.01)
    try:
        with stages, stages.stage("break"):
            raise ValueError
    except ValueError:
        pass
    assert threading.active_count() == before


def test_an_arm_that_was_stopped_is_named_where_somebody_waits_for_it():
    status = {"done": 37, "total": 120, "successes": 9, "state": "paused", "message": "e-stop; re-arm it to go on"}
    assert shown(status) == (37, 120, "paused: e-stop; re-arm it to go on")
    assert shown({**status, "state": "running"}) == (37, 120, "success 9/37")
