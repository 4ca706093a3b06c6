"""What was taken back is worth nothing: certificates, tokens, sessions, streams; on the wire and on the page."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from pathlib import Path

import pytest

from cloud_trainer.service import enroll, revoke
from cloud_trainer.service.auth import ACTION_OF
from gymnast_core.authority import MAY
from gymnast_core.web import auth
from gymnast_core.web.auth import Gate, LoginError, User
from gymnast_core.wire.gymnast.v1 import trajectories_pb2_grpc, weights_pb2, weights_pb2_grpc
from gymnast_core.wire.identity import peer_of
from tests.hostile.lab import Lab, Stream, error_of, within
from tests.hostile.registry import Tally, attack

SOON_S = 10.0
"""A busy machine may need longer than the second that is promised; nothing here may last for ever."""


@pytest.fixture
def lab(tmp_path):
    with Lab(tmp_path) as lab:
        yield lab


def releases(lab, identity):
    channel = lab.channel(identity)
    stub = weights_pb2_grpc.WeightsServiceStub(channel)
    return lambda: stub.ListReleases(weights_pb2.ListReleasesRequest(), timeout=20)


def test_a_revoked_admins_certificate_gets_nothing_on_the_page_and_publishes_nothing(lab):
    root = lab.identity("root", "admin")
    assert lab.page("GET", "/", identity=root).status == 200
    with contextlib.closing(lab.connect(root)) as held:
        held.request("GET", "/jobs")
        assert held.getresponse().read()
        revoke(lab.service.authority, "root")
        assert within(SOON_S, lambda: lab.page("GET", "/", identity=root).status == 403) < SOON_S
        held.request("GET", "/jobs")
        assert held.getresponse().status == 403, "the connection it had open is no way round"
    asked = [("GET", path) for path in ("/", "/log", "/events")]
    asked += [("POST", f"/checkpoints/policy-1/{how}") for how in ("publish", "rollback")]
    for method, path in asked:
        answer = lab.page(method, path, identity=root, form={"robots": "*", "reason": "because"})
        assert (answer.status, answer.json()["kind"]) == (403, "RevokedError"), path
    assert lab.service.trails.of("default").log.entries == ()


def test_tokens_and_sessions_of_a_revoked_operator_stop_working(lab):
    ana, bea = lab.identity("ana", "operator"), lab.identity("bea", "operator")
    token = lab.token(ana)
    cookie, other = lab.log_in(token), lab.log_in(lab.token(bea))
    assert lab.page("GET", "/jobs", token=token).status == 200
    assert lab.page("GET", "/jobs", cookie=cookie).status == 200
    revoke(lab.service.authority, "ana")
    assert within(SOON_S, lambda: lab.page("GET", "/jobs", token=token).status == 401) < SOON_S
    assert lab.page("GET", "/jobs", cookie=cookie).status == 401
    assert lab.page("POST", "/login", form={"token": token}).status == 401
    assert lab.page("GET", "/jobs", cookie=other).status == 200, "who was not revoked goes on"
    fresh = lab.token(lab.identity("ana", "operator"))
    assert lab.page("GET", "/jobs", token=fresh).status == 200, "a new certificate is a new beginning"


def test_logging_out_ends_the_session_itself_and_its_streams(lab):
    token = lab.token(lab.identity("ana", "operator"))
    cookie, elsewhere = lab.log_in(token), lab.log_in(token)
    stream = Stream(lab, "/events", {"Cookie": cookie})
    assert stream.began.wait(SOON_S)
    assert lab.page("POST", "/logout", cookie=cookie).status == 303
    assert lab.page("GET", "/jobs", cookie=cookie).status == 401, "the cookie was kept, and is worth nothing"
    assert stream.ended.wait(SOON_S)
    assert lab.page("GET", "/jobs", cookie=elsewhere).status == 200


def test_cookies_hold_no_identity_that_a_holder_could_write(lab):
    cookie = lab.log_in(lab.token(lab.identity("ana", "operator")))
    assert "ana" not in cookie
    assert len(cookie.partition("=")[2]) < 64


@pytest.mark.parametrize("how", ["revoked", "role"])
def test_open_streams_end_when_what_they_stand_on_is_taken_back(lab, how):
    """On the page by certificate, by token and by session; on the wire an upload and a watch."""
    ana, robot = lab.identity("ana", "admin"), lab.identity("wx-1", "robot")
    token = lab.token(ana)
    streams = [
        Stream(lab, "/events", {}, identity=ana),
        Stream(lab, "/events", {"Authorization": f"Bearer {token}"}),
        Stream(lab, "/events", {"Cookie": lab.log_in(token)}),
    ]
    assert all(stream.began.wait(SOON_S) for stream in streams)
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()
    hold = threading.Event()
    with lab.channel(ana) as people, lab.channel(robot) as robots:
        watch = weights_pb2_grpc.WeightsServiceStub(people).Watch(weights_pb2.WatchRequest(), timeout=60)
        upload = trajectories_pb2_grpc.TrajectoryServiceStub(robots).Upload(iter(hold.wait, True), timeout=60)
        assert next(upload).WhichOneof("message") == "credit"
        for call in (watch, upload):
            threading.Thread(target=lambda call=call: ended.put(error_of(lambda: list(call))), daemon=True).start()
        for name in ("ana", "wx-1"):
            if how == "revoked":
                revoke(lab.service.authority, name)
            else:
                lab.identity(name, "operator")
        assert all(stream.ended.wait(SOON_S) for stream in streams)
        assert all(ended.get(timeout=SOON_S) for _ in range(2))
        hold.set()
        assert error_of(releases(lab, ana)) == "RevokedError"


def test_who_became_an_operator_is_no_admin_any_more(lab):
    admin = lab.identity("ana", "admin")
    token = lab.token(admin)
    operator = lab.identity("ana", "operator")
    assert within(SOON_S, lambda: error_of(releases(lab, admin)) == "RevokedError") < SOON_S
    assert lab.page("GET", "/", identity=admin).status == 403
    assert lab.page("GET", "/", token=token).status == 401
    assert error_of(releases(lab, operator)) == ""
    answer = lab.page("POST", "/checkpoints/policy-1/publish", identity=operator)
    assert (answer.status, answer.json()["kind"]) == (403, "NotPermittedError")


def test_a_name_in_another_tenant_keeps_its_role(lab):
    here = lab.identity("ana", "admin")
    lab.identity("ana", "operator", tenant="acme")
    assert error_of(releases(lab, here)) == ""


def test_the_wire_and_the_page_ask_one_table(lab):
    """Every method stands for an action of the table the page asks; there is no second list of roles."""
    assert set(ACTION_OF.values()) <= set(MAY)


def test_guessing_tokens_is_slowed_down_and_others_go_on(lab):
    """By the login form and by bearer: after ten wrong ones nothing more is looked at, not even the right one."""
    token = lab.token(lab.identity("ana", "operator"))
    cookie = lab.log_in(token)
    statuses = [lab.page("POST", "/login", form={"token": f"guess-{n}"}).status for n in range(6)]
    statuses += [lab.page("GET", "/jobs", token=f"guess-{n}").status for n in range(6)]
    assert statuses == [401] * 10 + [429] * 2
    assert lab.page("POST", "/login", form={"token": token}).status == 429
    assert lab.page("GET", "/jobs", cookie=cookie).status == 200, "a session goes on"
    assert lab.page("GET", "/", identity=lab.identity("bea", "operator")).status == 200, "and a certificate"


@attack("what was taken back")
def use_what_was_taken_back(folder: Path, size: int) -> Tally:
    """Certificates, tokens and sessions of revoked people, on the wire and on the page; nobody else loses anything."""
    accepted = lost = attempts = 0
    with Lab(folder) as lab:
        bea = lab.token(lab.identity("bea", "operator"))
        for number in range(max(1, size // 6)):
            ana = lab.identity(f"ana-{number}", "admin")
            token = lab.token(ana)
            cookie, asks = lab.log_in(token), releases(lab, ana)
            revoke(lab.service.authority, f"ana-{number}")
            within(1.0, lambda asks=asks: error_of(asks) == "RevokedError")
            answers = [lab.page("GET", "/", **way) for way in ({"identity": ana}, {"token": token}, {"cookie": cookie})]
            answers.append(lab.page("POST", "/login", form={"token": token}))
            back = {"reason": "x"}
            answers.append(lab.page("POST", "/checkpoints/policy-1/rollback", identity=ana, form=back))
            attempts += len(answers) + 1
            accepted += sum(answer.status in (200, 303) for answer in answers) + (error_of(asks) == "")
            lost += lab.page("GET", "/jobs", token=bea).status != 200
    return Tally(attempts, accepted, lost)


def test_nothing_that_was_taken_back_is_accepted(tmp_path):
    tally = use_what_was_taken_back(tmp_path, 6)
    assert (tally.accepted, tally.lost) == (0, 0)


def test_a_token_and_its_sessions_end_with_the_certificate_behind_them(lab):
    short = enroll(lab.service.authority, "ana", "operator", out=lab.folder / "ana", days=0.02)
    cookie = lab.log_in(lab.token(short))
    until_ns = peer_of((short / "cert.pem").read_bytes()).until_ns
    folder = lab.folder / "trainer" / "console"
    (row,) = json.loads((folder / "tokens.json").read_text()).values()
    assert row["expires_ns"] == until_ns < time.time_ns() + 3600 * 10**9
    name, _, value = cookie.partition("=")
    assert lab.page("GET", "/", cookie=f"{name}={value}").status == 200
    later = Gate(folder, wall_ns=lambda: until_ns + 1)
    with pytest.raises(LoginError, match="expired"):
        later.user_of_session(value)


def test_a_hundred_names_together_push_nobody_out(tmp_path, monkeypatch):
    monkeypatch.setattr(auth, "_MOST_TOKENS", 60)
    monkeypatch.setattr(auth, "_MOST_OF_ONE", 5)
    gate, ana = Gate(tmp_path), User("ana", "operator", "default")
    token = gate.issue(ana, days=0.5)
    cookie = gate.open_session(token, seconds=600)
    for number in range(120):
        own = gate.issue(User(f"eve-{number % 20}", "robot", "acme"), days=30)
        gate.open_session(own)
    assert len(json.loads((tmp_path / "tokens.json").read_text())) == 60
    assert gate.user_of_token(token) == gate.user_of_session(cookie) == ana


def test_nobody_pushes_out_anothers_tokens_and_sessions_by_logging_in_often(tmp_path):
    gate = Gate(tmp_path)
    ana, eve = User("ana", "operator", "default"), User("eve", "robot", "acme")
    token = gate.issue(ana, days=0.5)
    cookie = gate.open_session(token, seconds=600)
    tokens = [gate.issue(eve, days=0.5) for _ in range(130)]
    cookies = [gate.open_session(tokens[-1]) for _ in range(130)]
    assert gate.user_of_token(token) == ana
    assert gate.user_of_session(cookie) == ana
    for name in ("tokens.json", "sessions.json"):
        rows = json.loads((tmp_path / name).read_text()).values()
        assert sum(row["name"] == "eve" for row in rows) == 100, name
    assert gate.user_of_token(tokens[-1]) == gate.user_of_session(cookies[-1]) == eve
    with pytest.raises(LoginError):
        gate.user_of_token(tokens[0])
