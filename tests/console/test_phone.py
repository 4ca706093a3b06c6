"""The operator's tables on a phone: nothing has to be scrolled sideways, and each number keeps its column's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bridge.conftest import make_checkpoint
from tests.bridge.gated_robot import TENANT, GatedRobot, record_of, shipped
from tests.console.test_browser import ARGUMENTS, CHROMIUM, SHOTS
from tests.hostile.lab import Lab

WIDER = """() => [...document.querySelectorAll(".scroll > table")].map((table) => [
  table.parentElement.scrollWidth - table.parentElement.clientWidth, table.classList.contains("stacked")])"""
STRETCHED = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
PUT = """(table) => { document.getElementById("main").innerHTML = table; stack(document); }"""
GUARD = (
    """<h1>close the drawer</h1><h2>Other tasks</h2><div class="scroll"><table><thead><tr><th>Task</th>
<th class="n">Pairs</th><th class="n">Candidate</th><th class="n">Incumbent</th><th class="n">Difference</th>
<th class="n">May be lost</th></tr></thead><tbody>"""
    + "".join(
        f"""<tr><td>{task}</td><td class="n">40</td><td class="n">81 % <small>66 to 91</small></td>
<td class="n">84 % <small>70 to 93</small></td><td class="n">-3 <small>-14 to +8</small></td>
<td class="n">14 %</td></tr>"""
        for task in ("lift the red cube", "push the red cube to the left")
    )
    + "</tbody></table></div>"
)
"""The table of a trial's other tasks, as its page draws it."""
PLACES = ("log", "checkpoints", "world-models", "evaluations", "queue", "episodes")


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium: apt-get install chromium")
def test_tables_fit_a_phone_and_stay_tables_on_a_desk(tmp_path: Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    with (
        Lab(tmp_path) as lab,
        GatedRobot(lab.service, lab.identity("wx-1", "robot"), tmp_path / "wx-1") as robot,
        sync_playwright() as play,
    ):
        base, new = shipped(robot, tmp_path), make_checkpoint(tmp_path / "new", 1.0)
        lab.service.publisher.publish(TENANT, tmp_path / "new", robots=["nobody"])
        lab.service.gates.book.keep(TENANT, record_of(new.id, base, decision="failed", reason="it oscillates"))
        root = lab.log_in(lab.token(lab.identity("root", "admin")))
        back = {"robots": "wx-1", "reason": "the new one drops what it lifts, three times in a row since noon"}
        assert lab.page("POST", f"/checkpoints/{base}/rollback", cookie=root, form=back).status < 400
        browser = play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_context(ignore_https_errors=True, viewport={"width": 420, "height": 860}).new_page()
        page.set_default_timeout(90_000)
        page.goto(lab.console.address)
        page.get_by_label("Token").fill(lab.token(lab.identity("root", "admin")))
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", name="Robots")).to_be_visible(timeout=90_000)
        for place in (*PLACES, f"checkpoints/{new.id}"):
            page.goto(f"{lab.console.address}/{place}")
            found = page.evaluate(WIDER)
            assert all(over <= 0 for over, _ in found), (place, found)
            assert page.evaluate(STRETCHED) <= 0, place
            if SHOTS:
                page.screenshot(path=str(Path(SHOTS) / f"phone-{place.replace('/', '-')}.png"), full_page=True)
        page.evaluate(PUT, GUARD)
        assert page.evaluate(WIDER) == [[0, True]], "six columns of numbers become blocks"
        cell = page.locator(".stacked td").nth(1)
        assert cell.evaluate("(node) => getComputedStyle(node, '::before').content") == '"Pairs"'
        expect(page.locator("thead")).to_be_hidden()
        if SHOTS:
            page.screenshot(path=str(Path(SHOTS) / "phone-stacked.png"), full_page=True)
        page.set_viewport_size({"width": 1100, "height": 800})
        expect(page.locator("thead")).to_be_visible()
        assert page.locator(".stacked").count() == 0
        browser.close()
