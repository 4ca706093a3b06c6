"""The page of the queue: the same entries, orders and refusals as over the wire, for whoever may."""

from __future__ import annotations

import pytest

from cloud_trainer.service.handlers import QueueRequest
from cloud_trainer.store.sql_queue import StartRow
from gymnast_core.web.auth import User
from tests.console.conftest import JSON

ANA = User("ana", "operator")
FORM = {"robots": "bridge-1", "tasks": "lift;push", "count": "3"}


@pytest.fixture
def ana(bench):
    bench.report({"state": "ready", "takes_orders": True, "policy_version": "policy-a"})
    return bench.client("ana", "operator")


def add(client, **values: str):
    return client.post("/queue", data={**FORM, **values}, headers=JSON)


def ids(bench) -> list[str]:
    return [entry.row.entry_id for entry in bench.ask.queue.all(ANA) if not entry.row.ended]


def test_entries_are_added_ordered_paused_and_cancelled_on_the_page(bench, ana) -> None:
    assert add(ana).status_code == 200
    assert add(ana, kind="episode", priority="3", seed_start="41", scene="dark_table").status_code == 200
    first, second = bench.ask.queue.all(ANA)
    assert (first.row.kind, first.row.spec["seed_count"], first.row.spec["checkpoint"]) == ("evaluation", 3, "policy-a")
    assert (second.row.priority, second.row.spec["seed_start"], second.row.spec["scene"]) == (3, 41, "dark_table")
    low = second.row.entry_id
    assert ana.post(f"/queue/{low}/first", headers=JSON).json()["said"].endswith("priority 5")
    assert ids(bench) == [low, first.row.entry_id]
    page = ana.get("/queue").text
    assert page.index(low) < page.index(first.row.entry_id)
    assert ana.post(f"/queue/{low}/pause", headers=JSON).status_code == 200
    assert "paused by ana" in ana.get("/queue").text
    assert ana.post(f"/queue/{low}/resume", headers=JSON).status_code == 200
    assert ana.post(f"/queue/{low}/cancel", headers=JSON).status_code == 200
    assert ids(bench) == [first.row.entry_id]
    refused = ana.post(f"/queue/{low}/pause", headers=JSON)
    assert (refused.status_code, "has ended (cancelled)" in refused.json()["error"]) == (409, True)
    assert ana.post("/queue/entry-x/cancel", headers=JSON).status_code == 404
    assert ana.post(f"/queue/{first.row.entry_id}/jump", headers=JSON).status_code == 422


def test_a_robots_whole_queue_rests_and_says_why(bench, ana) -> None:
    assert ana.post("/queue/robots", data={"robot": "bridge-1", "reason": "a <b>new</b> table"}, headers=JSON).json()
    page = ana.get("/queue").text
    assert "The queue of bridge-1 rests." in page
    assert "a &lt;b&gt;new&lt;/b&gt; table" in page
    assert ana.post("/queue/robots/bridge-1/resume", headers=JSON).status_code == 200
    assert "rests" not in ana.get("/queue").text
    again = ana.post("/queue/robots/bridge-1/resume", headers=JSON)
    assert (again.status_code, "nothing to resume" in again.json()["error"]) == (409, True)


@pytest.mark.parametrize(("values", "status", "said"), [
    ({"robots": "bridge-9"}, 409, "has not reported here"),
    ({"tasks": " ; "}, 422, "tasks"),
    ({"count": "0"}, 422, "seed_count must be"),
    ({"count": "many"}, 422, "count must be a number, got 'many'"),
    ({"priority": "12"}, 422, "priority must be 0 to 9"),
    ({"kind": "trial"}, 422, "kind 'trial' is not one of"),
    ({"checkpoint": "../x"}, 422, "checkpoint '../x'"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused_by_value(bench, ana, values, status, said) -> None:
    refused = add(ana, **values)
    assert (refused.status_code, said in refused.json()["error"]) == (status, True), refused.text


def test_who_may_only_look_sees_no_forms_and_changes_nothing(bench, ana) -> None:
    add(ana)
    eve = bench.client("eve", "trainer")
    page = eve.get("/queue").text
    assert ids(bench)[0] in page
    assert "<button" not in page.split("</nav>")[-1].split("<main")[-1].split("</main>")[0]
    for address in ("/queue", f"/queue/{ids(bench)[0]}/cancel", "/queue/robots"):
        assert eve.post(address, data={**FORM, "robot": "bridge-1"}, headers=JSON).status_code == 403


def test_an_entry_shows_what_it_came_to_by_task_and_robot(bench, ana) -> None:
    bench.ask.queue.add(ANA, QueueRequest("evaluation", ("bridge-1",), {
        "tasks": ["lift"], "seed_start": 7, "seed_count": 4}))  # fmt: skip
    [entry_id] = ids(bench)
    book = bench.service.queues.book
    with book.changed:
        for seed, won in ((7, True), (8, False), (9, None)):
            start = StartRow("lift", seed, "bridge-1", won, f"ep-{seed}", "operator:sim", "", 1)
            book.note(book.entries[entry_id], [start])
    page = ana.get(f"/queue/{entry_id}").text
    assert "3 of 4 episodes" in page
    assert "50 %" in page
    assert "/episodes/ep-9" in page
    assert "unlabelled" in page
    assert ana.get("/queue/entry-x").status_code == 404
