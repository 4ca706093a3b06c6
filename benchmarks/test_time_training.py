"""From a new simulated scene to an approved, canaried adapter, by clicking; the simulator is the ground truth.

`python -m benchmarks.test_time_training` starts a trainer (`gymnast serve` with its page), the real node graph
(simulated arm, gate, rollout, bridge; mutual TLS) and a Chromium. It records episodes of every task in the standard
scene, then clicks what an operator clicks: capture, collect, practise within a budget, approve, and waits for the
canary's rule. Afterwards both policies run greedily from the same fresh start states: in that scene and on the other
tasks.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.table import Table

from benchmarks.keep_rule import KeepRule, judge_trial
from gymnast_cli.demo.config import TASKS
from gymnast_cli.demo.graph import Robot, free_domain
from gymnast_cli.demo.trainer_process import trainer_process
from gymnast_client import Trainer
from gymnast_core.evaluation.results import counts, difference
from gymnast_core.records.manifest import read_manifest
from gymnast_ros.sim.tasks import TASKS as INSTRUCTIONS
from gymnast_ros.uplink import Identity

LONGEST_S = 1800.0
CAPTURED = ("Not trusted here", "What may it cost?", "Failed")
TRAINED = ("Let it onto the arm?", "Failed")
TRIED = ("Kept for this scene", "Reverted", "Failed")


def main() -> int:
    """Run it once and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"), help="policy/, world_model/, judge/")
    parser.add_argument("--scene", default="pink_cube")
    parser.add_argument("--task", default="lift", choices=TASKS)
    parser.add_argument("--home", type=int, default=30, help="episodes per task in the standard scene beforehand")
    parser.add_argument("--collect", type=int, default=25, help="episodes clicked for in the new scene")
    parser.add_argument("--minutes", type=float, default=3.0, help="budget of the practice")
    parser.add_argument("--config", default="{}", help="JSON settings of the job")
    parser.add_argument("--pairs", type=int, default=40, help="of the canary, at most")
    parser.add_argument("--starts", type=int, default=40, help="per task, for the ground truth")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/test_time_training"), help="emptied first")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    figures = measure(args)
    Console().print(table_of(figures))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Start everything, click, measure; returns JSON figures."""
    domain, kinds = free_domain(), ("policy", "world_model", "judge")
    options = [
        "--console-port", "0", "--robot-scene", args.scene, "--adapt-config", args.config,
        "--canary-pairs", str(args.pairs),
    ]  # fmt: skip
    imports, base = [args.checkpoints / kind for kind in kinds], args.checkpoints / "policy"
    figures: dict[str, Any] = {
        "scene": args.scene, "task": args.task, "seed": args.seed, "minutes": args.minutes, "home": args.home,
        "collect": args.collect, "versions": {kind: read_manifest(args.checkpoints / kind).id for kind in kinds},
    }  # fmt: skip
    with (
        trainer_process(args.out / "trainer", imports, options=options) as address,
        Robot.start(args.out, address, base, seed=args.seed, domain_id=domain) as robot,
    ):
        robot.collect(args.home, lambda *_: None, round_number=1)
        with logged_in(address, args.out) as page:
            figures |= click_through(page, args)
        if figures.get("candidate"):
            figures |= truth(robot, figures["versions"]["policy"], figures["candidate"], args)
    return figures


@contextmanager
def logged_in(address: str, folder: Path) -> Iterator[Page]:
    """A Chromium on the trainer's page, logged in as the operator."""
    with Trainer(address, Identity.load(folder / "identities" / "operator")) as client:
        login = client.log_in()
    with sync_playwright() as play:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.set_default_timeout(60_000)
        page.goto(login.address)
        page.get_by_label("Token").fill(login.token)
        page.get_by_role("button", name="Log in").click()
        yield page
        browser.close()


def click_through(page: Page, args: argparse.Namespace) -> dict[str, Any]:
    """Do what an operator does; returns how it ended and how long every part took."""
    spent: dict[str, float] = {}
    page.get_by_role("link", name="Adapt to this scene").click()
    page.get_by_label("Instruction").fill(INSTRUCTIONS[args.task].instruction)
    page.get_by_role("button", name="Capture the scene").click()
    said = wait_for(page, CAPTURED, spent, "capture")
    for _ in range(2):  # an operator's patience
        if said != "Not trusted here":
            break
        page.get_by_label("Real episodes").fill(str(args.collect))
        page.get_by_role("button", name="Collect a few here").click()
        page.get_by_role("heading", name="Not trusted here").wait_for(state="hidden")
        said = wait_for(page, CAPTURED, spent, "collect and check trust")
    if said == "What may it cost?":
        page.get_by_label("Minutes").fill(str(args.minutes))
        page.get_by_role("button", name="Practise").click()
        said = wait_for(page, TRAINED, spent, "practise and check forgetting")
    if said == "Let it onto the arm?":
        page.screenshot(path=str(args.out / "preview.png"), full_page=True)
        page.get_by_role("button", name="Approve for a canary").click()
        said = wait_for(page, TRIED, spent, "canary")
    page.screenshot(path=str(args.out / "end.png"), full_page=True)
    (journal,) = (args.out / "trainer" / "console" / "adaptations").glob("*/journal.jsonl")
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    found = {entry["kind"]: entry["data"] for entry in entries}
    return {
        "ended": said, "seconds": spent, "candidate": found.get("trained", {}).get("candidate", ""),
        "reason": next((e["data"]["reason"] for e in reversed(entries) if e["data"].get("reason")), ""),
        "iterations": sum(entry["kind"] == "iteration" for entry in entries), "trust": found.get("trust", {}),
        "forgetting": found.get("forgetting", {}), "canary": found.get(said.split()[0].lower(), {}).get("card", {}),
    }  # fmt: skip


def wait_for(page: Page, headings: tuple[str, ...], spent: dict[str, float], part: str) -> str:
    """Wait until the page, which updates itself, shows one of the headings; returns which."""
    started = time.monotonic()
    shown = page.get_by_role("heading", name=headings[0])
    for heading in headings[1:]:
        shown = shown.or_(page.get_by_role("heading", name=heading))
    shown.first.wait_for(timeout=1000 * LONGEST_S)
    spent[part] = spent.get(part, 0.0) + time.monotonic() - started
    return str(shown.first.inner_text())


def truth(robot: Robot, base: str, candidate: str, args: argparse.Namespace) -> dict[str, Any]:
    """Both policies, greedy, same start states: the task in the new scene, the other tasks in the standard one."""
    others = [task for task in TASKS if task != args.task]
    parts = {}
    for name, tasks, scene in (("in_scene", [args.task], args.scene), ("other_tasks", others, "standard")):
        found = robot.evaluate(
            [base, candidate], "evaluation", args.starts, lambda *_: None, tasks=tasks, scene=scene
        )  # fmt: skip
        before, after = found[base], found[candidate]
        parts[name] = {"before": counts(before), "after": counts(after), "difference": difference(before, after)}
    kept, reason = judge_trial(parts["in_scene"], parts["other_tasks"], KeepRule())
    return {**parts, "keep_rule": {"kept": kept, "reason": reason}}


def table_of(figures: Mapping[str, Any]) -> Table:
    """What a person reads."""
    table = Table(title=f"{figures['task']} in {figures['scene']}: {figures['ended']} ({figures['reason']})")
    for column in ("where", "before", "after", "difference, 95 %"):
        table.add_column(column)
    for name in ("in_scene", "other_tasks"):
        if name in figures:
            part = figures[name]
            rates = [f"{part[when]['successes']}/{part[when]['n']}" for when in ("before", "after")]
            change = part["difference"]
            table.add_row(name, *rates, f"{change['mean']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]")
    for part, seconds in figures["seconds"].items():
        table.add_row(part, "", "", f"{seconds:.0f} s")
    return table


if __name__ == "__main__":
    sys.exit(main())
