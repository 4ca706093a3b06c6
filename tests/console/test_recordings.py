"""The recording of an episode, out of the page and into a viewer: read by the real mcap library."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi.testclient import TestClient
from mcap.reader import make_reader

from cloud_trainer.console import Console, User
from cloud_trainer.console.app import create_app
from cloud_trainer.console.recordings import TICKET_S, Tickets
from cloud_trainer.service import Service, ServiceConfig
from gymnast_cli.main import main
from gymnast_core.episodes import write_recording
from gymnast_core.web.auth import Gate, LoginError
from tests.console.conftest import JSON, Bench
from tests.world_model.recordings import made

ADA = User("ada", "operator")


@pytest.fixture
def recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[tuple[Service, Path]]:
    """A trainer with one episode, and its file."""
    path = write_recording(tmp_path / "recorded", made(0))
    with Service(ServiceConfig(folder=tmp_path / "trainer", insecure=True)) as service:
        assert main(["episodes", "import", "mcap", str(path), "--trainer", service.address, "--insecure"]) == 0
        capsys.readouterr()
        yield service, path


def client(service: Service, user: User | None = ADA) -> TestClient:
    console = Console(service)
    app = create_app(console.sources, console.gate)
    if user is None:
        return TestClient(app, follow_redirects=False)
    token = console.gate.issue(user)
    return TestClient(app, headers={"Authorization": f"Bearer {token}"}, follow_redirects=False)


def test_a_page_leads_foxglove_to_a_recording_that_mcap_reads(recorded: tuple[Service, Path]) -> None:
    service, path = recorded
    ada = client(service)
    page = ada.get("/episodes/ep-made-0").text
    assert 'href="/episodes/ep-made-0/foxglove"' in page
    assert "gymnast episodes open ep-made-0" in page
    link = ada.get("/episodes/ep-made-0/foxglove").headers["location"]
    assert link.startswith("foxglove://open?")
    asked = parse_qs(urlsplit(link).query)
    assert asked["ds"] == ["remote-file"]
    url = urlsplit(asked["ds.url"][0])
    assert f"{url.scheme}://{url.netloc}" == "http://testserver"
    viewer = TestClient(ada.app, headers={"Origin": "https://elsewhere.example"})  # no session, no token
    there = f"{url.path}?{url.query}"
    whole = viewer.get(there)
    assert (whole.status_code, whole.content) == (200, path.read_bytes())
    assert whole.headers["access-control-allow-origin"] == "*"
    topics = {channel.topic for _, channel, _ in make_reader(io.BytesIO(whole.content)).iter_messages()}
    assert any("image" in topic for topic in topics)
    part = viewer.get(there, headers={"Range": "bytes=8-15"})
    assert (part.status_code, part.content) == (206, path.read_bytes()[8:16])
    assert viewer.options(url.path).headers["access-control-allow-headers"] == "Range"
    assert ada.get("/episodes/ep-made-0/recording.mcap").content == path.read_bytes(), "and whoever is logged in"


def test_an_episodes_page_says_which_arm_it_was_where_the_episode_does(
    recorded: tuple[Service, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service, _ = recorded
    other = made(1)
    header = replace(other.header, metadata={**other.header.metadata, "robot_model": "vx300s"})
    path = write_recording(tmp_path / "viperx", replace(other, header=header))
    assert main(["episodes", "import", "mcap", str(path), "--trainer", service.address, "--insecure"]) == 0
    capsys.readouterr()
    shown = [client(service).get(f"/episodes/ep-made-{number}").text for number in (0, 1)]
    assert [", a vx300s</dd>" in text for text in shown] == [False, True]


def test_nobody_else_gets_it(recorded: tuple[Service, Path]) -> None:
    service, _ = recorded
    ada = client(service)
    there = "/episodes/ep-made-0/recording.mcap"
    asked = parse_qs(urlsplit(ada.get("/episodes/ep-made-0/foxglove").headers["location"]).query)
    ticket = parse_qs(urlsplit(asked["ds.url"][0]).query)["ticket"][0]
    stranger = TestClient(ada.app, follow_redirects=False)
    assert stranger.get(there, headers=JSON).status_code == 401
    assert stranger.get("/episodes/ep-made-0/foxglove", headers=JSON).status_code == 401
    for wrong in (ticket[:-1], "x.y", ticket.replace(".", "A."), "é"):
        assert stranger.get(there, params={"ticket": wrong}, headers=JSON).status_code == 401
    assert stranger.get("/episodes/ep-other/recording.mcap", params={"ticket": ticket}).status_code == 303
    abroad = client(service, User("eve", "operator", tenant="other"))
    assert abroad.get(there, headers=JSON).status_code == 404
    robot = client(service, User("wx-1", "robot"))
    assert robot.get(there, headers=JSON).status_code == 403


def test_a_ticket_is_for_one_recording_and_some_minutes() -> None:
    now_s = [1000.0]
    tickets = Tickets(lambda: now_s[0])
    ticket = tickets.issue(ADA, "ep-1")
    assert tickets.user(ticket, "ep-1") == ADA
    with pytest.raises(LoginError, match="another recording"):
        tickets.user(ticket, "ep-2")
    now_s[0] += TICKET_S + 1
    with pytest.raises(LoginError, match="older than 10 minutes"):
        tickets.user(ticket, "ep-1")
    with pytest.raises(LoginError, match="none of this page"):
        Tickets(lambda: 0.0).user(ticket, "ep-1")


def test_a_ticket_ends_with_what_its_holder_was_let_in_by(recorded: tuple[Service, Path], tmp_path: Path) -> None:
    taken_back: set[str] = set()
    gate = Gate(tmp_path / "gate", withdrawn=lambda peer: peer.serial in taken_back)
    app = create_app(Console(recorded[0]).sources, gate)
    token = gate.issue(User("ada", "operator", "default", "5e1f"))
    ada = TestClient(app, headers={"Authorization": f"Bearer {token}"}, follow_redirects=False)
    asked = parse_qs(urlsplit(ada.get("/episodes/ep-made-0/foxglove").headers["location"]).query)
    url, viewer = urlsplit(asked["ds.url"][0]), TestClient(app)
    assert viewer.get(f"{url.path}?{url.query}").status_code == 200
    taken_back.add("5e1f")
    assert viewer.get(f"{url.path}?{url.query}", headers=JSON).status_code == 401


def test_a_blinded_run_stays_blinded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.add_episode("ep-blind", policy="policy-a", purpose="trial")
    monkeypatch.setattr(bench.ask.flows, "blinds", lambda row: True)
    ada = bench.client("ada", "operator")
    assert ada.get("/episodes/ep-blind/recording.mcap", headers=JSON).status_code == 409
    assert "foxglove" not in ada.get("/episodes/ep-blind").text


def test_open_hands_a_recording_to_the_program_that_is_installed(
    recorded: tuple[Service, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, path = recorded
    there = ["--trainer", service.address, "--insecure", "--into", str(tmp_path / "kept")]
    command = ["--json", "episodes", "open", "ep-made-0", "--viewer", "foxglove", *there]
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert main(command) == 2
    assert "foxglove.dev/download" in json.loads(capsys.readouterr().out)["message"]
    assert not (tmp_path / "kept").exists(), "nothing was fetched"
    (tmp_path / "bin").mkdir()
    os.mkfifo(tmp_path / "seen")
    viewer = tmp_path / "bin" / "foxglove-studio"
    viewer.write_text(f"#!/bin/sh\necho \"$1\" > '{tmp_path / 'seen'}'\n")
    viewer.chmod(0o755)
    with subprocess.Popen(["/bin/cat", str(tmp_path / "seen")], stdout=subprocess.PIPE, text=True) as reader:
        assert main(command) == 0
        assert reader.communicate(timeout=60)[0].strip() == str(tmp_path / "kept" / "ep-made-0.mcap")
    assert (tmp_path / "kept" / "ep-made-0.mcap").read_bytes() == path.read_bytes()
    monkeypatch.setitem(sys.modules, "rerun", None)
    assert main(["--json", "episodes", "open", str(path)]) == 2
    assert "pip install 'gymnast_ros[view]'" in json.loads(capsys.readouterr().out.splitlines()[-1])["message"]


def test_open_is_refused_where_no_viewer_can_show_it(
    recorded: tuple[Service, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rerun")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "WAYLAND_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setattr("gymnast_cli.screen._VIEWER_PORT", bound.getsockname()[1])
        for command in (["episodes", "open"], ["view"]):
            assert main(["--json", *command, str(recorded[1])]) == 2
            said = json.loads(capsys.readouterr().out.splitlines()[-1])["message"]
            assert "no screen for rerun's viewer" in said
            assert "--save FILE.rrd" in said
