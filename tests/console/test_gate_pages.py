"""The gate on the operator's page and command line, from outside: who overrode it is red wherever it runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gymnast_client import Trainer
from gymnast_core.errors import NotTrustedError
from gymnast_core.records.release import Release
from tests.bridge.conftest import make_checkpoint
from tests.bridge.gated_robot import OFF, PATIENCE_S, TENANT, GatedRobot, record_of, shipped
from tests.bridge.test_bridge import wait_until
from tests.console.test_browser import ARGUMENTS, CHROMIUM, SHOTS
from tests.hostile.lab import Lab

WHY = "PyBullet cannot show the new gripper pads"


def gymnast(lab: Lab, identity: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gymnast_cli.main", *words, "--trainer", lab.service.address]
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        [*command, "--identity", str(identity)], capture_output=True, text=True, timeout=120, env=environment
    )


@pytest.fixture
def overridden(tmp_path):
    """A robot that runs what an administrator, logged in on the page, let past its gate."""
    with Lab(tmp_path) as lab, GatedRobot(lab.service, lab.identity("wx-1", "robot"), tmp_path / "wx-1") as wx1:
        root = lab.log_in(lab.token(lab.identity("root", "admin")))
        base, new = shipped(wx1, tmp_path), make_checkpoint(tmp_path / "new", 1.0)
        lab.service.publisher.publish(TENANT, tmp_path / "new", robots=["nobody"])
        lab.service.gates.book.keep(TENANT, record_of(new.id, base, decision="failed", reason="it oscillates"))
        place = f"/checkpoints/{new.id}/publish"
        ana = lab.log_in(lab.token(lab.identity("ana", "operator")))
        refused = lab.page("POST", place, cookie=ana, form={"robots": "wx-1", "override": WHY})
        assert refused.status == 403
        answer = lab.page("POST", place, cookie=root, form={"robots": "wx-1", "override": WHY})
        assert answer.status < 400, answer.text
        wx1.staged(new.id)
        wx1.store.swap(new.id)
        wx1.heard()
        wait_until(
            lambda: lab.service.robots.find(TENANT, "wx-1").status["weights"]["gate"]["how"] == "override", PATIENCE_S
        )
        yield lab, root, new.id


def test_an_override_is_red_on_the_page_and_in_the_command_line(overridden, tmp_path):
    lab, root, new = overridden
    robots = lab.page("GET", "/", cookie=root).text
    red = re.compile(r'<span class="tag failure">gate overridden</span> <span class="bad">by root: ' + re.escape(WHY))
    assert red.search(robots)
    page = lab.page("GET", f"/checkpoints/{new}", cookie=root).text
    assert red.search(page)
    assert f"overrides the gate: root (admin), {WHY}. The gate had said: gate-" in page
    assert "it oscillates" in page
    identity = lab.identity("ana", "operator")
    said = gymnast(lab, identity, "operate", "robots").stdout
    assert "OVERRIDDEN by" in re.sub(r"[\s│┃]+", " ", said)
    listed = gymnast(lab, identity, "weights", "list", "--json").stdout
    assert json.loads(listed)["releases"][-1]["override"]["reason"] == WHY
    with Trainer(lab.service.address, identity) as there:
        gate = next(there.robots.list()).gate
        assert (gate.how, gate.by, gate.reason) == ("override", "root", WHY)
        assert [record.decision for record in there.checkpoints.gates(new)] == ["failed"]
        entry = next(row for row in there.log.entries() if "override" in row.data)
        assert (entry.by, entry.data["override"]) == ("root", WHY)


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium: apt-get install chromium")
@pytest.mark.slow
def test_it_is_red_to_the_eye(overridden):
    from playwright.sync_api import expect, sync_playwright

    lab, _, new = overridden
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for scheme in ("light", "dark"):
            context = browser.new_context(ignore_https_errors=True, color_scheme=scheme)
            page = context.new_page()
            page.set_default_timeout(60_000)
            page.goto(lab.console.address)
            page.get_by_label("Token").fill(lab.token(lab.identity("root", "admin")))
            page.get_by_role("button", name="Log in").click()
            expect(page.get_by_text(f"by root: {WHY}")).to_be_visible(timeout=60_000)
            red, green, blue = (
                int(part) for part in re.findall(
                    r"\d+", page.get_by_text("gate overridden").evaluate("node => getComputedStyle(node).color")
                )[:3]
            )  # fmt: skip
            assert red > 1.5 * max(green, blue)
            if SHOTS:
                page.screenshot(path=str(Path(SHOTS) / f"gate-robots-{scheme}.png"), full_page=True)
                page.goto(f"{lab.console.address}/checkpoints/{new}")
                page.screenshot(path=str(Path(SHOTS) / f"gate-checkpoint-{scheme}.png"), full_page=True)
        browser.close()


def test_offering_gates_first_where_a_robot_asks_and_at_once_where_none_does(tmp_path):
    with (
        Lab(tmp_path) as lab,
        GatedRobot(lab.service, lab.identity("wx-1", "robot"), tmp_path / "wx-1") as asks,
        GatedRobot(lab.service, lab.identity("wx-2", "robot"), tmp_path / "wx-2", OFF, "wx-2") as asks_nothing,
    ):
        base = shipped(asks, tmp_path)
        shipped(asks_nothing, tmp_path)
        new = make_checkpoint(tmp_path / "new", 1.0)
        lab.service.publisher.publish(TENANT, tmp_path / "new", robots=["nobody"])
        identity = lab.identity("root", "admin")
        done = gymnast(lab, identity, "operate", "offer", new.id, "--robot", "wx-1", "--robot", "wx-2", "--json")
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        asks_nothing.staged(new.id)
        with Trainer(lab.service.address, identity) as there:
            job = there.jobs.get(said["jobs"][0])
            assert (job.kind, dict(job.spec)) == (
                "gate", {"policy": new.id, "incumbent": base, "offer_to": ["wx-1"]}
            )  # fmt: skip
            with pytest.raises(NotTrustedError, match="gymnast operate gate"):
                there.checkpoints.offer(new.id, ["wx-1"])
            again, signed = there.checkpoints.gate_and_offer(new.id, ["wx-1"])
            assert [one.job_id for one in again] == said["jobs"], "the one under way"
            assert signed is None
            lab.service.gates.book.keep(TENANT, record_of(new.id, base))
            begun, signed = there.checkpoints.gate_and_offer(new.id, ["wx-1"])
            assert begun == []
            assert Release.from_bytes(signed.payload).gate is not None
        asks.staged(new.id)


def test_the_page_runs_the_gate_before_it_offers(tmp_path):
    with Lab(tmp_path) as lab, GatedRobot(lab.service, lab.identity("wx-1", "robot"), tmp_path / "wx-1") as wx1:
        root = lab.log_in(lab.token(lab.identity("root", "admin")))
        shipped(wx1, tmp_path)
        new = make_checkpoint(tmp_path / "new", 1.0)
        lab.service.publisher.publish(TENANT, tmp_path / "new", robots=["nobody"])
        assert "wx-1 requires a gate record" in lab.page("GET", f"/checkpoints/{new.id}", cookie=root).text
        answer = lab.page("POST", f"/checkpoints/{new.id}/publish", cookie=root, form={"robots": "wx-1"})
        assert "the gate runs first, as job" in answer.text
        assert [row.kind for row in lab.service.jobs.list(TENANT, 10, None)] == ["gate"]
