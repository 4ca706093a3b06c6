"""Two tenants at one trainer, by the shipped commands: what one publishes the other does not see, and what is taken
back from an admin ends on the wire, on the page and in a page that is open.

It starts a real trainer and eight commands, because that is what it is about: about ten seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from gymnast_cli.demo.trainer_process import trainer_process
from tests.hostile.lab import within

SHIPPED = Path(__file__).parents[2] / "checkpoints"
SOON_S = 20.0


def gymnast(*words: str, code: int = 0) -> dict[str, Any]:
    """One shipped command, as a user types it, with --json."""
    run = subprocess.run(
        [sys.executable, "-m", "gymnast_cli.main", "--json", *words], capture_output=True, text=True, check=False
    )
    assert run.returncode == code, (words, run.stdout, run.stderr)
    return dict(json.loads(run.stdout)) if run.stdout.strip().startswith("{") else {"said": run.stdout}


def status(page: str, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
    request = urllib.request.Request(f"{page}/log", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_two_tenants_share_a_trainer_and_an_admin_is_taken_back(tmp_path):
    with trainer_process(tmp_path / "trainer", [], options=["--console-port", "0"]) as address:
        ca = str(tmp_path / "trainer" / "ca")
        for name, role, tenant in (("root", "admin", "acme"), ("ada", "operator", "acme"), ("bea", "operator", "lab")):
            gymnast("enroll", name, "--role", role, "--tenant", tenant, "--ca", ca, "--out", str(tmp_path / name))

        def asked(name: str) -> tuple[str, ...]:
            return ("--trainer", address, "--identity", str(tmp_path / name))

        gymnast("weights", "publish", str(SHIPPED / "policy"), *asked("root"))
        assert [len(gymnast("weights", "list", *asked(name))["releases"]) for name in ("ada", "bea")] == [1, 0]
        login = gymnast("console", *asked("root"))
        page, token = login["address"], login["token"]
        assert status(page, token) == 200
        events = urllib.request.urlopen(
            urllib.request.Request(f"{page}/events", headers={"Authorization": f"Bearer {token}"}), timeout=60
        )
        ended = threading.Event()
        threading.Thread(target=lambda: (events.read(), ended.set()), daemon=True).start()
        gymnast("enroll", "root", "--tenant", "acme", "--ca", ca, "--revoke")
        assert ended.wait(SOON_S), "the page that was open"
        assert within(SOON_S, lambda: status(page, token) == 401) < SOON_S
        assert gymnast("weights", "list", *asked("root"), code=77)["error"] == "RevokedError"
        assert len(gymnast("weights", "list", *asked("ada"))["releases"]) == 1, "others of the tenant go on"
        events.close()
