"""The page of calls for a person: open ones, an answer, the receivers."""

import json

from cloud_trainer.console import User
from gymnast_core.paging import Page
from tests.console.conftest import JSON, wait_for
from tests.receivers import web_server


def with_receivers(bench, url):
    """The bench's desk as one started with --pages has it."""
    desk = bench.service.pages
    desk.config = desk.config.changed(receivers=[{"name": "night", "way": "webhook", "url": url}])
    return desk


def test_a_call_is_shown_answered_and_then_among_the_answered(bench) -> None:
    ana = bench.client("ana", "operator")
    assert "Nobody is needed." in ana.get("/calls").text
    before = bench.console.sources.version(User("ana", "operator"), "/calls")
    page = Page("motor_fault", "bridge-1", "elbow: overload <b>", detail={"motor": "elbow"})
    bench.service.pages.raise_page("default", page)
    assert bench.console.sources.version(User("ana", "operator"), "/calls") != before
    shown = ana.get("/calls").text
    for text in ("Motor fault on bridge-1", "elbow: overload &lt;b&gt;", "Sent to nobody yet.", "&#34;motor&#34;"):
        assert text in shown
    assert "1 call for a person" in ana.get("/").text
    answered = ana.post(f"/calls/{page.page_id}", data={"note": " gripper freed "}, headers=JSON)
    assert answered.json() == {"said": "motor fault on bridge-1: you look after it", "go": "/calls"}
    shown = ana.get("/calls").text
    assert "Nobody is needed." in shown
    assert "gripper freed" in shown
    again = bench.client("bea", "operator").post(f"/calls/{page.page_id}", headers=JSON)
    assert again.json()["said"] == "motor fault on bridge-1: ana answered it already"
    assert bench.service.trails.of("default").log.entries[-1].data["note"] == "gripper freed"


def test_whoever_may_only_look_answers_nothing(bench) -> None:
    page = Page("estop", "bridge-1", "stopped")
    bench.service.pages.raise_page("default", page)
    looker = bench.client("machine", "trainer")
    assert "I look after it" not in looker.get("/calls").text
    assert looker.post(f"/calls/{page.page_id}", headers=JSON).status_code == 403
    assert bench.client("wx", "robot").get("/calls", headers=JSON).status_code == 403
    assert bench.client("ana", "operator").post("/calls/page-0000000000000000", headers=JSON).status_code == 404


def test_receivers_are_tried_from_the_page(bench) -> None:
    ana = bench.client("ana", "operator")
    assert "gymnast serve --pages pages.toml" in ana.get("/calls").text
    with web_server() as inbox:
        with_receivers(bench, f"{inbox.url}/secret-path")
        shown = ana.get("/calls").text
        assert "night" in shown
        assert "secret-path" not in shown
        assert ana.post("/calls/test", headers=JSON).json()["said"] == "delivered to night"
        assert json.loads(inbox.posts[0].body)["kind"] == "test"
        inbox.status = 500
        assert "night failed: 127.0.0.1 answered 500" in ana.post("/calls/test", headers=JSON).json()["said"]
    wait_for(lambda: bench.service.pages.store.calls("default") == [], "a test leaves no call")
