"""The operator's day in a real browser, against a trainer process on a simulated scene."""

import os
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.console.simulated import OTHERS, SimulatedScene

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SHOTS = os.environ.get("GYMNAST_SCREENSHOTS")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium: apt-get install chromium")
expect.set_options(timeout=30_000)
PAGES = ("", "adapt", "episodes", "plans", "jobs", "checkpoints", "world-models", "evaluations", "loop", "queue", "log")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser, request):
    """Pages of fresh users; any script error or failed request of a page fails the test."""
    trainer = request.getfixturevalue("fresh_trainer" if "fresh_trainer" in request.fixturenames else "trainer")
    problems: list[str] = []
    contexts = []

    def make(token: str, width: int = 1280, height: int = 720, scheme: str = "light") -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(trainer.facts["address"])
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", name="Robots")).to_be_visible()
        page.wait_for_load_state()  # a key pressed before the script is there is lost
        return page

    yield make
    for context in contexts:
        context.close()
    assert problems == []


def shoot(page: Page, name: str) -> None:
    """Keep a picture to look at, where asked to."""
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)


def test_from_a_new_scene_to_a_kept_adapter_by_clicking(trainer, new_page):
    ana, bea = new_page(trainer.facts["operator"]), new_page(trainer.facts["bea"])
    ana.get_by_role("link", name="Adapt to this scene").click()
    ana.get_by_label("Instruction").fill("close the drawer")
    ana.get_by_role("button", name="Capture the scene").click()

    expect(ana.get_by_text("Not trusted here")).to_be_visible()
    expect(ana.get_by_text("collect a few real episodes here first")).to_be_visible()
    shoot(ana, "adapt-refused")
    ana.get_by_role("button", name="Collect a few here").click()
    expect(ana.get_by_text("What may it cost?")).to_be_visible()
    ana.get_by_label("Minutes").fill("2")
    ana.get_by_role("button", name="Practise").click()

    bea.goto(ana.url)  # a second operator watches the same adaptation
    expect(ana.get_by_text("Let it onto the arm?")).to_be_visible()
    expect(bea.get_by_text("Let it onto the arm?")).to_be_visible()
    ana.get_by_role("button", name="Play").click()
    shoot(ana, "adapt-preview")
    ana.get_by_role("button", name="Approve for a canary").click()
    expect(bea.get_by_role("button", name="Approve for a canary")).to_have_count(0)
    expect(bea.get_by_text("Kept for this scene")).to_be_visible()
    shoot(bea, "adapt-kept")

    bea.get_by_role("link", name="pairs").click()
    expect(bea.get_by_text("Secret, revealed")).to_be_visible()
    shoot(bea, "evaluation")
    candidate = bea.locator("dd a").first.inner_text()
    truth = SimulatedScene(trainer.folder, "dark_table", trainer.facts["base"])
    here = truth.truth(candidate, "dark_table", ("drawer",), 40)
    elsewhere = truth.truth(candidate, "standard", OTHERS, 10)
    assert here.low > 0, here
    assert elsewhere.low > -0.1, elsewhere

    ana.get_by_role("link", name="Adapt", exact=True).first.click()  # the scene comes back: its adapter is offered
    ana.get_by_label("Instruction").fill("close the drawer")
    ana.get_by_role("button", name="Capture the scene").click()
    expect(ana.get_by_text(f"{candidate} was kept for it")).to_be_visible()
    ana.get_by_role("button", name="Cancel").click()
    expect(ana.get_by_role("heading", name="Cancelled")).to_be_visible()


def test_episodes_are_queued_and_their_robot_rests_by_clicking(trainer, new_page):
    ana = new_page(trainer.facts["operator"])
    ana.get_by_role("link", name="Queue").click()
    late = []  # the page is drawn anew after both were asked for: the second click is not lost
    ana.route("**/queue", lambda route: late.append(route) if route.request.method == "GET" else route.continue_())
    ana.get_by_label("Tasks").fill("lift;push")
    ana.get_by_role("button", name="Add", exact=True).click()
    expect(ana.get_by_text("stands in the queue of bridge-1")).to_be_visible()
    ana.get_by_label("Tasks").fill("drawer")
    with ana.expect_response(lambda answer: answer.request.method == "POST"):
        ana.get_by_role("button", name="Add", exact=True).click()
    for route in late:
        route.continue_()
    ana.unroute("**/queue")
    expect(ana.locator("#queue tbody tr")).to_have_count(2)
    ana.get_by_role("button", name="First").click()
    expect(ana.locator("#queue tbody tr").first).to_contain_text("drawer")
    ana.get_by_label("Why").fill("the table is being cleared")
    ana.locator("form").filter(has=ana.get_by_label("Why")).get_by_role("button", name="Pause").click()
    expect(ana.get_by_text("The queue of bridge-1 rests.")).to_be_visible()
    ana.evaluate("window.scrollTo(0, 0)")
    shoot(ana, "queue")
    ana.get_by_role("button", name="Resume bridge-1").click()
    expect(ana.get_by_text("The queue of bridge-1 rests.")).to_have_count(0)
    for left in (1, 0):
        ana.once("dialog", lambda dialog: dialog.accept())
        ana.locator("#queue").get_by_role("button", name="Cancel").first.click()
        expect(ana.locator("#queue").get_by_role("button", name="Cancel")).to_have_count(left)


def test_a_checkpoint_is_offered_tried_and_promoted_by_clicking(fresh_trainer, new_page):
    root, better = new_page(fresh_trainer.facts["admin"]), fresh_trainer.facts["better"]
    hold = fresh_trainer.folder / "hold"
    hold.touch()
    root.get_by_role("link", name="Checkpoints").click()
    root.get_by_role("link", name=better).click()
    expect(root.get_by_role("button", name="Promote")).to_have_count(0)
    root.get_by_role("button", name="Offer").click()
    root.get_by_label("Instruction").fill("close the drawer")
    root.get_by_label("Scene").fill("dark_table")
    shoot(root, "checkpoint-try")
    root.get_by_role("button", name="Begin a blinded trial").click()
    expect(root.get_by_text("Which of the two runs is hidden")).to_be_visible()
    shoot(root, "evaluations-running")
    hold.unlink()
    root.get_by_role("link", name=re.compile("^trial-")).click(timeout=180_000)  # the simulated runs take their time
    expect(root.get_by_text("Secret, revealed")).to_be_visible()
    root.get_by_role("link", name=better).click()
    root.get_by_role("button", name="Promote").click()
    expect(root.get_by_text("2 releases so far")).to_be_visible()


def test_the_console_can_be_worked_without_a_mouse(trainer, new_page):
    page = new_page(trainer.facts["operator"])
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent.trim()") == "Adapt to this scene":
            break
    page.keyboard.press("Enter")
    page.get_by_label("Instruction").focus()
    page.keyboard.type("lift the red cube")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=re.compile("Not trusted here|What may it cost"))).to_be_visible()
    page.get_by_role("button", name="Cancel").press("Enter")
    expect(page.get_by_role("heading", name="Cancelled")).to_be_visible()


def test_the_keyboard_stays_where_it_is_when_a_part_is_drawn_anew(trainer, new_page):
    page = new_page(trainer.facts["operator"])
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()  # the browser follows a link in its own time
    link = page.get_by_role("link", name="Adapt to this scene").first
    link.focus()
    page.evaluate("""() => { const part = document.getElementById("robots"); draw(part, part.innerHTML); }""")
    expect(link).to_be_focused()
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    expect(link).to_be_focused()
    assert page.evaluate(outline) == "solid"


@pytest.mark.parametrize(("width", "height", "scheme"), [(1280, 720, "light"), (390, 844, "dark")])
def test_every_page_fits_its_screen_and_loads_nothing_from_elsewhere(trainer, new_page, width, height, scheme):
    page = new_page(trainer.facts["admin"], width, height, scheme)
    asked: list[str] = []
    failed: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("response", lambda response: failed.append(response.url) if response.status >= 400 else None)
    base = trainer.facts["address"]
    addresses = [f"{base}/{name}" for name in PAGES]
    for address in list(addresses):
        page.goto(address)
        first = page.locator("tbody a, .card a").first
        if first.count() and (link := first.get_attribute("href")):
            addresses.append(base + link)
    for address in dict.fromkeys(addresses):
        page.goto(address)
        expect(page.locator("h1")).to_be_visible()
        overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0, f"{address} is {overflow} px too wide at {width}"
        cut = page.evaluate(
            "[...document.querySelectorAll(':not(.lineage) > .scroll > svg')]"
            ".filter(chart => chart.getBoundingClientRect().right > innerWidth).length"
        )
        assert cut == 0, f"{cut} charts of {address} go on beyond {width} px, and the names of their curves with them"
        name = address.removeprefix(base).strip("/").replace("/", "_")[:40] or "robots"
        shoot(page, f"{name}-{width}-{scheme}")
    assert failed == []
    assert [url for url in asked if not url.startswith((base, "data:", "blob:"))] == []


def test_every_item_of_the_menu_is_in_sight_on_a_small_laptop(trainer, new_page):
    page = new_page(trainer.facts["admin"], 1024, 768)
    hidden = page.evaluate(
        "[...document.querySelectorAll('.top nav a')].map(link => link.getBoundingClientRect())"
        ".filter((box, index, boxes) => { const who = document.querySelector('.who').getBoundingClientRect();"
        " return box.right > who.left || box.bottom > document.querySelector('.top').getBoundingClientRect().bottom })"
    )
    assert hidden == []


def test_an_open_page_survives_a_killed_trainer_and_shows_the_truth_afterwards(trainer, new_page):
    page = new_page(trainer.facts["operator"])
    page.get_by_role("link", name="Episodes").click()
    page.locator("tr", has_text="sim-standard-lift-0").get_by_role("link").click()
    expect(page.locator("#facts .tag").first).to_have_text("success")
    port = int(trainer.facts["address"].rsplit(":", 1)[1])
    page.wait_for_load_state()  # the script is there; only what is written in the page was asked for so far
    trainer.kill()
    expect(page.get_by_text("No connection to the trainer")).to_be_visible()
    page.get_by_role("button", name="failure").click()
    expect(page.get_by_text("The trainer did not answer")).to_be_visible()
    trainer.start(port)
    expect(page.locator("#link")).to_be_hidden()
    expect(page.locator("#facts .tag").first).to_have_text("success")  # nothing was done meanwhile
    page.get_by_role("button", name="failure").click()
    expect(page.locator("#facts .tag").first).to_have_text("failure")
    expect(page.locator("#facts").get_by_text("operator:ana").first).to_be_visible()
