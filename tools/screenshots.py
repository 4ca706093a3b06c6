"""Takes the pictures of docs/operator.md again: python -m tools.screenshots [FOLDER].

Starts `gymnast serve` and a simulated `gymnast up` as a user does, works a short day with the shipped commands, and
photographs the pages in a headless Chromium. About twenty minutes on two cores; only the budgets are made small.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from playwright.sync_api import Browser, Page, TimeoutError, expect, sync_playwright

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "images"
MOST_BYTES = 150_000
GYMNAST = Path(sys.executable).with_name("gymnast")
LONG_S = 1200.0
ADAPT = {"groups": 8, "group_size": 8, "grpo_iterations": 4, "forgetting": 1}
"""Small, and with nothing refused for what it may forget: few episodes do not show that."""
BOTTOM = "Math.max(...[...document.querySelectorAll('main > *')].map(e => e.getBoundingClientRect().bottom + scrollY))"
expect.set_options(timeout=LONG_S * 1000)


class Lab:
    """A trainer's and a robot's folder, and the commands that a user types."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"OMP_NUM_THREADS": "1", "MUJOCO_GL": "egl", "ROS_DOMAIN_ID": "187", **os.environ}
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *words: str) -> None:
        """Start a command that stays."""
        with (self.folder / f"{name}.log").open("ab") as log:
            command = [GYMNAST, *words]
            self.running.append(
                subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
            )

    def run(self, *words: str) -> dict[str, Any]:
        """Run a command to its end; returns what it printed."""
        print("gymnast", *words, flush=True)
        done = subprocess.run(
            [GYMNAST, "--json", *words], cwd=self.folder, env=self.environment, capture_output=True, text=True,
            timeout=LONG_S,
        )  # fmt: skip
        if done.returncode not in (0, 3):
            raise SystemExit(f"gymnast {' '.join(words)}\n{done.stdout}{done.stderr}")
        lines = done.stdout.strip().splitlines()
        return dict(json.loads(lines[-1])) if lines else {}

    def stop(self) -> None:
        """End everything, the robot first."""
        for process in reversed(self.running):
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)


def wait_for(ready: Callable[[], Any], what: str) -> Any:
    """Poll until something is there."""
    deadline = time.monotonic() + LONG_S
    while not (found := ready()):
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {LONG_S:.0f} s")
        time.sleep(0.5)
    return found


def photograph(page: Page, name: str, *, height: int = 1200) -> None:
    """Write docs/images/NAME.webp: the page without the empty space below it, as small as it has to be."""
    with contextlib.suppress(TimeoutError):  # a robot's camera streams for ever
        page.wait_for_load_state("load", timeout=5000)
    page.wait_for_timeout(2000)
    bottom = page.evaluate(BOTTOM)
    pixels = np.frombuffer(page.screenshot(full_page=True), np.uint8)
    picture = cv2.imdecode(pixels, cv2.IMREAD_COLOR)[: min(height, int(bottom) + 24)]
    for quality in (90, 75, 60, 45):
        _, encoded = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, quality])
        if len(encoded) < MOST_BYTES:
            break
    (PICTURES / f"{name}.webp").write_bytes(encoded.tobytes())
    print(f"{name}.webp: {picture.shape[1]} x {picture.shape[0]}, {len(encoded) // 1000} kB", flush=True)


@contextlib.contextmanager
def laboratory(folder: Path) -> Iterator[Lab]:
    """A trainer and a simulated robot that takes its orders, with identities for both and for ada."""
    lab = Lab(folder)
    port = folder / "port"
    try:
        lab.start(
            "serve", "serve", "--folder", "trainer", "--port-file", str(port), "--console-port", "0",
            "--adapt-config", json.dumps(ADAPT), "--guard-pairs", "2",
        )  # fmt: skip
        address = wait_for(lambda: port.is_file() and port.read_text().strip(), "the trainer")
        for name, role in (("sim-0", "robot"), ("ada", "admin")):
            lab.run("enroll", name, "--role", role, "--ca", "trainer/ca")
        lab.environment |= {"GYMNAST_TRAINER": address, "GYMNAST_IDENTITY": "identities/ada"}
        lab.start(
            "up", "up", "--robot", "sim", "--name", "sim-0", "--trainer", address, "--identity", "identities/sim-0",
            "--orders", "--page", "8187",
        )  # fmt: skip
        wait_for(lambda: lab.run("operate", "robots")["robots"], "the robot's report")
        yield lab
    finally:
        lab.stop()


def logged_in(browser: Browser, address: str, token: str, picture: str = "") -> Page:
    """A page of a person that has logged in; the login itself is photographed where a picture is named."""
    page = browser.new_context(viewport={"width": 1100, "height": 700}).new_page()
    page.set_default_timeout(LONG_S * 1000)
    page.goto(address)
    if picture:
        photograph(page, picture)
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("button", name="Log out")).to_be_visible()
    return page


def adaptation(page: Page) -> None:
    """Test-time training by clicking."""
    page.get_by_role("link", name="Adapt to this scene").click()
    page.get_by_label("Instruction").fill("push the blue block to the left")
    page.get_by_label("Scene").fill("pink_cube")
    photograph(page, "adapt-begin")
    page.get_by_role("button", name="Capture the scene").click()
    collect, practise = (page.get_by_role("button", name=name) for name in ("Collect a few here", "Practise"))
    expect(collect.or_(practise)).to_be_visible()
    if collect.is_visible():
        photograph(page, "adapt-untrusted")
        page.get_by_label("Real episodes").fill("24")
        collect.click()
        expect(practise).to_be_visible()
    photograph(page, "adapt-budget")
    practise.click()
    failed = page.get_by_role("heading", name="Failed")
    expect(failed.or_(page.get_by_text("Let it onto the arm?"))).to_be_visible()
    if failed.is_visible():
        raise SystemExit(page.locator("main").inner_text())
    photograph(page, "adapt-preview")
    page.get_by_role("button", name="Approve for a canary").click()
    expect(page.get_by_role("heading", name="Kept").or_(page.get_by_text("Reverted").first)).to_be_visible()
    photograph(page, "adapt-decided")


def tour(page: Page, console: str) -> None:
    """Every list, and the first thing in it."""
    for name in ("", "episodes", "jobs", "checkpoints", "world-models", "evaluations", "log"):
        page.goto(f"{console}/{name}")
        photograph(page, name or "robots", height=900)
        first = page.locator("tbody a", has_text="adapt" if name == "jobs" else None).first
        if name in ("episodes", "jobs", "checkpoints", "evaluations") and first.count():
            page.goto(console + str(first.get_attribute("href")))
            photograph(page, name.removesuffix("s"), height=1100)


def calls(lab: Lab, page: Page, console: str) -> None:
    """A practising arm that waits for a person, on the page of calls, among the robots and in the queue."""
    asked = ("--task", "put", "--reset", "take", "--hours", "1", "--tries", "2")
    lab.run("queue", "add", "practice", "--robot", "sim-0", *asked)
    wait_for(lambda: lab.run("pages", "list")["pages"], "a call")
    for name in ("calls", "practice"):
        page.goto(f"{console}/{name if name == 'calls' else ''}")
        photograph(page, name, height=900)
    page.goto(f"{console}/queue")
    page.goto(console + str(page.locator("tbody a").first.get_attribute("href")))
    photograph(page, "queue-entry", height=900)
    lab.run("practise", "--stop")


def robots_own_page(lab: Lab, browser: Browser) -> None:
    """The page that the robot itself serves."""
    lab.start("collect", "collect", "--tasks", "lift", "--count", "400", "--keep-local")  # something to see
    page = logged_in(browser, "http://127.0.0.1:8187", (lab.folder / "robot" / "page" / "token").read_text().strip())
    expect(page.get_by_text("lift the red cube").first).to_be_visible()
    photograph(page, "robot-page", height=900)


def main() -> None:
    """Work the day; keep the folder where one is given."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("needs a Chromium: apt-get install chromium")
    PICTURES.mkdir(exist_ok=True)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="gymnast-pictures-"))
    folder.mkdir(parents=True, exist_ok=True)
    with laboratory(folder) as lab, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        lab.run("collect", "--tasks", "lift", "--count", "4")
        lab.run("collect", "--tasks", "push", "--count", "60")
        login = lab.run("console")
        page = logged_in(browser, login["address"], login["token"], "login")
        adaptation(page)
        tour(page, login["address"])
        calls(lab, page, login["address"])
        robots_own_page(lab, browser)
        browser.close()


if __name__ == "__main__":
    main()
