"""The labelling queue: what waits for a person and why, labelled by keyboard; and where the judge is proven."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from playwright.sync_api import expect, sync_playwright

from cloud_trainer.console import User
from gymnast_core.outcome import Judgement
from gymnast_core.types import Outcome
from tests.console.conftest import JSON, Bench
from tests.console.test_browser import ARGUMENTS, CHROMIUM

S, F, A = Outcome.SUCCESS, Outcome.FAILURE, Outcome.ABSTAIN


def judged(bench: Bench, episode_id: str, outcome: Outcome, *, judge: str = "judge-1", scene: str = "bench") -> None:
    score = {S: 0.97, F: 0.02, A: math.nan}[outcome]
    found = Judgement(outcome, score, 15 if outcome is not A else -1, judge, "what it saw")
    bench.service.judgements.add("default", episode_id, found, task="lift", scene=scene, held_out=True)


@pytest.fixture
def queue(bench: Bench) -> Bench:
    """Oldest first: settled by agreement, contradicted, two judges, abstained, never looked at."""
    for name, label, words in (
        ("agreed", "success", [S]), ("contradicted", "failure", [S]), ("judges", "success", [S]),
        ("abstained", "unlabelled", [A]), ("unseen", "unlabelled", []),
    ):  # fmt: skip
        bench.add_episode(name, label)
        if label == "unlabelled":
            bench.service.meta.change_episode("default", name, lambda row: replace(row, labelled_by=""))
        for word in words:
            judged(bench, name, word)
    judged(bench, "judges", F, judge="judge-2")
    return bench


def test_the_page_shows_what_waits_newest_first_and_says_why(queue: Bench) -> None:
    ana = queue.client("ana", "operator")
    page = ana.get("/labelling").text
    assert page.index("unseen") < page.index("abstained") < page.index("judges") < page.index("contradicted")
    assert "agreed" not in page
    assert "no judge has looked at it" in page
    after = ana.get("/labelling?before=3").text
    assert "A judge found otherwise than its label says" in after


def test_a_label_settles_an_episode_and_the_next_one_is_shown(queue: Bench) -> None:
    ana = queue.client("ana", "operator")
    said = ana.post("/labelling/contradicted", data={"outcome": "failure"}, headers=JSON).json()
    assert said["go"] == "/labelling"
    assert "contradicted" not in [
        row.row.episode_id for row in queue.ask.judging.doubts(User("ana", "operator"), limit=9)
    ]
    ana.post("/labelling/unseen", data={"outcome": "success"}, headers=JSON)
    row = queue.service.meta.episode("default", "unseen")
    assert (row.outcome, row.labelled_by) == ("success", "operator:ana")


def test_who_may_look_but_not_label_gets_no_buttons(queue: Bench) -> None:
    viewer = queue.client("box", "trainer")
    assert "data-key" not in viewer.get("/labelling").text
    assert viewer.post("/labelling/unseen", data={"outcome": "success"}, headers=JSON).status_code == 403


def test_the_table_says_where_a_judge_is_proven_and_what_is_missing(bench: Bench) -> None:
    for n in range(40):
        bench.add_episode(f"won-{n}", "success")
        judged(bench, f"won-{n}", S)
    bench.add_episode("elsewhere", "success")
    judged(bench, "elsewhere", S, scene="kitchen")
    page = bench.client("ana", "operator").get("/labelling").text
    assert "40 of 40" in page
    assert "above 91 %" in page
    assert "never called a failure on &#39;lift&#39; in scene &#39;bench&#39;" in page
    assert "1 of 1 calls were right" in page
    assert "Nothing waits for a label" in page


def test_an_episodes_own_page_keeps_both(queue: Bench) -> None:
    page = queue.client("ana", "operator").get("/episodes/contradicted").text
    assert "What judges found" in page
    assert "judge-1, score 0.97, on frame 16" in page


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium: apt-get install chromium")
def test_keys_label_and_skip_and_what_arrives_meanwhile_does_not_come_under_the_finger(queue: Bench) -> None:
    queue.console.start()
    token = queue.gate.issue(User("ana", "operator"))
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page()
        page.set_default_timeout(30_000)
        page.goto(f"{queue.console.address}/login?next=/labelling")
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Log in").click()
        shown = page.locator("#doubt dl.facts a")
        expect(shown).to_have_text("unseen")
        page.wait_for_load_state()
        queue.add_episode("newer", "unlabelled")
        page.keyboard.press("n")
        expect(shown).to_have_text("abstained")
        page.wait_for_load_state()
        page.keyboard.press("s")
        expect(shown).to_have_text("judges")
        expect(page.get_by_text("abstained is now success")).to_be_visible()
        page.get_by_role("button", name="failure").click()
        expect(shown).to_have_text("contradicted")
        page.keyboard.press("Space")  # it has the focus: a space would press it again
        expect(page.get_by_text("begin with the newest")).to_be_visible()
        browser.close()
    ended = {"abstained": "success", "judges": "failure", "contradicted": "failure", "newer": "unlabelled"}
    assert {name: queue.service.meta.episode("default", name).outcome for name in ended} == ended
