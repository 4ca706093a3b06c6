"""When entries are said to end: by what they did so far, by what their like did, one behind the other."""

from __future__ import annotations

import json
import time
from dataclasses import replace

from cloud_trainer.flows.loops import Loops
from cloud_trainer.flows.queue_ends import entry_left_s, estimated_ends, flow_left_s, turn_s
from cloud_trainer.flows.queue_view import shown_entries
from cloud_trainer.store.sql_queue import PortionRow, QueueRow
from gymnast_core.practice import PersonCall, PracticeAsked, PracticeState
from tests.bridge.test_queue_turns import KEY, TRIAL, queues
from tests.console.planted_loop import PlantedEngine, planted_config

__all__ = ["queues"]
S = 10**9


def seconds(ends: dict[str, int]) -> dict[str, float]:
    return {name: at / S for name, at in ends.items()}


def flow(name: str, kind: str, robot: str = "wx-1", **fields: object) -> QueueRow:
    row = QueueRow(f"entry-{name}", "default", name, kind, name, "", (robot,), {}, 5, 0, "ana")  # type: ignore[arg-type]
    return replace(row, **fields)  # type: ignore[arg-type]


def test_episodes_and_trials_end_one_behind_the_other_and_shares_beside_each_other(queues):
    one, two, alone = (queues.add(robots=robots) for robots in (("wx-1", "wx-2"), ("wx-1",), ("wx-3",)))
    trial, unknown = flow("trial-a", "trial"), flow("trial-b", "trial")
    left = {trial.entry_id: 10.0, one.entry_id: 100.0, two.entry_id: 30.0, alone.entry_id: 7.0}
    assert seconds(estimated_ends([unknown, trial, one, two, alone], left, 0)) == {
        trial.entry_id: 10.0, one.entry_id: 55.0, two.entry_id: 85.0, alone.entry_id: 7.0
    }  # fmt: skip


def test_an_adaptation_or_loop_is_behind_those_alone_that_it_begins_after():
    loop, adaptation = flow("night", "loop", spec={"begun": True}), flow("adapt-a", "adaptation", spec={"begun": False})
    entry, other = flow("", "evaluation", flow=""), flow("adapt-b", "adaptation", "wx-2", spec={"begun": False})
    left = {loop.entry_id: 60.0, adaptation.entry_id: 5.0, entry.entry_id: 2.0, other.entry_id: 9.0}
    assert seconds(estimated_ends([loop, adaptation, entry, other], left, 0)) == {
        loop.entry_id: 60.0, adaptation.entry_id: 65.0, entry.entry_id: 2.0, other.entry_id: 9.0
    }  # fmt: skip
    del left[loop.entry_id]
    assert adaptation.entry_id not in estimated_ends([loop, adaptation], left, 0), "nobody can say when it begins"


def test_a_flow_takes_as_long_as_the_last_ones_did_where_it_cannot_say_more():
    over = [flow(f"a-{n}", "adaptation", created_ns=0, since_ns=took * S) for n, took in enumerate((100, 300, 900))]
    over.append(flow("night", "loop", created_ns=0, since_ns=5 * S))
    asked = flow("adapt-a", "adaptation", created_ns=1000 * S)
    assert flow_left_s(asked, over, 1120 * S) == 180.0
    assert flow_left_s(replace(asked, spec={"begun": False}), over, 1120 * S) == 300.0
    assert flow_left_s(asked, over, 1400 * S) == 0.0, "longer than they did"
    assert flow_left_s(asked, [], 1120 * S) == 0.0


def test_how_long_turns_and_practice_take_is_measured(queues):
    for took in (4.0, 6.0, 20.0):
        with queues.turn(TRIAL):
            queues.ahead_s += took
    [row] = queues.book.open_of("default")
    assert 6.0 <= turn_s(queues.book, row) < 7.0
    spec = PracticeAsked(task="put", reset="take", hours=2.0).model_dump(mode="json", exclude_defaults=True)
    practice = queues.add(kind="practice", spec=spec)
    assert entry_left_s(queues.book, practice) == 7200.0
    given_ns = time.time_ns() - 3600 * S
    queues.book.portions[KEY] = PortionRow("portion-a", *KEY, practice.entry_id, 1, "practise", spec, given_ns)
    assert 3590.0 < entry_left_s(queues.book, practice) <= 3600.0


def test_a_loop_is_as_fast_as_its_rounds_were(tmp_path):
    engine = PlantedEngine(("policy-a", "policy-b", "policy-c"))
    loops = Loops(tmp_path, lambda tenant: engine)
    found: list[float] = []
    engine.begins = lambda *_: found.append(loops.left_s("lab-a", "night"))
    folder = tmp_path / "lab-a" / "night"
    folder.mkdir(parents=True)
    (folder / "history.json").write_text(json.dumps({"rounds": [{}], "seconds": 900.0}))
    loops.start("lab-a", planted_config(), robots=("wx-0",), by="ana")
    deadline = time.monotonic() + 20
    while not found or loops.get("lab-a", "night").state == "running":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert 1700.0 < found[0] <= 1800.0, "two of its three rounds are left"
    assert loops.left_s("lab-a", "night") == 0.0


def test_a_practice_that_waits_for_a_person_says_so_in_the_queue(queues):
    spec = PracticeAsked(task="put", reset="take", hours=2.0).model_dump(mode="json", exclude_defaults=True)
    queues.add(kind="practice", spec=spec)
    assert queues.heard() is not None
    state = PracticeState(run="practice-1", asked=PracticeAsked.model_validate(spec), began_ns=time.time_ns())
    call = PersonCall(page_id="page-1", kind="hard_reset", text="lay the scene", at_ns=1)
    for now, note in ((state.called(call), "wx-1 waits for a person: lay the scene"), (state, "")):
        queues.heard(practice=now.status(time.time_ns()))
        [shown] = shown_entries(queues.book, "default", lambda *_: "", lambda *_: 0.0)
        assert (shown.state, shown.note) == ("running", note)
