"""The robot's own page over real nodes, in a real browser: camera, stop, re-arm, label; and who may not."""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from gymnast_core.web.auth import Gate, User
from gymnast_ros.bringup import Graph, GraphConfig
from gymnast_ros.nodes.client import GraphClient
from tests.console.test_browser import ARGUMENTS, CHROMIUM
from tests.ros.conftest import wait_until
from tests.ros.test_bridge_node import checkpoint

SHOTS = os.environ.get("GYMNAST_SCREENSHOTS")
TIMEOUT_MS = 30_000


@pytest.fixture(scope="module")
def graph(domain_id: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    """A simulated robot with its page, no trainer; a person labels."""
    folder = tmp_path_factory.mktemp("robot")
    checkpoint(folder / "base", 0)
    config = GraphConfig(
        folder=folder, domain_id=domain_id, policy=str(folder / "base"), page=free_port(),
        parameters={"rollout": {"auto_label": False, "label_timeout_s": 60.0}},
    )  # fmt: skip
    with Graph(config) as running:
        yield running


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def address(graph: Graph, client: GraphClient) -> str:
    """Of the page, once it has found the camera: a lockstep episode is over sooner than DDS finds a new listener."""
    own = graph.config.folder / "page"
    wait_until(lambda: (own / "address").exists(), 40.0, "the page")
    address = (own / "address").read_text()

    def sees() -> bool:
        client.run_episode(instruction="lift the red cube", seed=1, record=False)
        headers = {"Authorization": f"Bearer {(own / 'token').read_text()}"}
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
        connection.request("GET", "/frame.jpg", headers=headers)
        jpeg = connection.getresponse().read()
        connection.close()
        return bool(jpeg)

    client.set("rollout", {"auto_label": True})
    wait_until(sees, 40.0, "the page's first frame")
    client.set("rollout", {"auto_label": False})
    return address


def ask(address: str, path: str, token: str, **form: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", path, body=urlencode(form), headers={**headers, "Accept": "application/json"})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def shoot(page: Page, name: str) -> None:
    """Keep pictures to look at, where asked to; the page fits its screen anyway."""
    for width, height, scheme in ((390, 844, "dark"), (390, 844, "light"), (1280, 720, "dark"), (1280, 720, "light")):
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=scheme)
        overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0, f"{overflow} px too wide at {width}"
        if SHOTS:
            page.screenshot(path=str(Path(SHOTS) / f"{name}-{width}-{scheme}.png"))


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium: apt-get install chromium")
def test_a_person_beside_the_arm_watches_labels_stops_and_re_arms(graph, client, address) -> None:
    expect.set_options(timeout=TIMEOUT_MS)
    token = (graph.config.folder / "page" / "token").read_text()
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.set_default_timeout(TIMEOUT_MS)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address)
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", name="sim-0")).to_be_visible()

        client.set("rollout", {"instruction": "lift the red cube", "seed": 3, "record": True})
        client.call("rollout/run_episode")
        expect(page.get_by_text("waits for a label")).to_be_visible()
        expect(page.locator("#facts")).to_contain_text("lift the red cube")
        picture = page.get_by_alt_text("camera of sim-0")
        expect(picture).to_be_visible()
        page.wait_for_function("document.querySelector('#camera img').naturalWidth > 100")
        shoot(page, "robot-label")
        page.get_by_role("button", name="failure").click()
        expect(page.locator("#state .tag")).to_have_text("idle")
        client.wait_for("rollout/result", lambda result: result["ok"], 20.0)
        row = client.latest("rollout/result")["episode"]
        assert (row["success"], row["labelled_by"]) == (False, "operator:local")

        page.get_by_role("button", name="Stop the arm").click()
        expect(page.locator("#state .tag")).to_have_text("stopped")
        assert client.gate["state"] == "estop"
        shoot(page, "robot-stopped")
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Re-arm").click()
        expect(page.get_by_role("button", name="Re-arm")).to_have_count(0)
        assert client.gate["state"] == "armed"
        browser.close()
    assert problems == []
    said = (graph.config.folder / "page" / "actions.jsonl").read_text()
    assert [name in said for name in ("label failure", "stop", "re-arm")] == [True] * 3


def test_who_may_not_and_what_is_not_possible_is_said(graph, client, address) -> None:
    folder = graph.config.folder / "page"
    assert (folder / "token").stat().st_mode & 0o077 == 0
    local, guest = (folder / "token").read_text(), Gate(folder).issue(User("guest", "trainer"))
    assert ask(address, "/stop", "made-up")[0] == 401
    status, said = ask(address, "/re-arm", guest)
    assert (status, "may not re-arm" in said) == (403, True)
    status, said = ask(address, "/label", local, label="success")
    assert (status, "no episode is waiting" in said) == (409, True)
    assert ask(address, "/label", local, label="great")[0] == 422
    assert ask(address, "/stop", guest)[0] == 200
    client.re_arm()
