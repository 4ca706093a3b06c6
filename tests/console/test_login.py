"""Who may come in: token, session, client certificate; nobody else."""

import http.client
import json
import ssl

import pytest

from cloud_trainer.console import Console, Gate, User
from cloud_trainer.console.auth import ForbiddenError, LoginError
from cloud_trainer.service.enroll import create_authority, enroll
from gymnast_core.errors import ConfigError, GymnastError


class Clock:
    """A wall clock to turn."""

    def __init__(self):
        self.now_ns = 1_000_000_000_000

    def __call__(self):
        return self.now_ns

    def later(self, seconds):
        self.now_ns += round(seconds * 1e9)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def gate(tmp_path, clock):
    return Gate(tmp_path / "console", wall_ns=clock)


def test_a_token_says_who_and_is_not_kept_in_the_clear(gate, tmp_path):
    token = gate.issue(User("ana", "operator", "lab"))
    assert gate.user_of_token(token) == User("ana", "operator", "lab")
    assert token not in (tmp_path / "console" / "tokens.json").read_text()
    assert (tmp_path / "console" / "tokens.json").stat().st_mode & 0o077 == 0


def test_tokens_and_sessions_expire_and_say_so(gate, clock):
    token = gate.issue(User("ana", "operator"), days=1)
    cookie = gate.open_session(User("ana", "operator"), seconds=60)
    clock.later(59)
    assert gate.user_of_session(cookie).name == "ana"
    clock.later(2)
    with pytest.raises(LoginError, match="session has expired"):
        gate.user_of_session(cookie)
    clock.later(86_400)
    with pytest.raises(LoginError, match="token has expired"):
        gate.user_of_token(token)


@pytest.mark.parametrize("cookie", ["", "x", "e30.deadbeef", "%%%.0", "é.0"])
def test_made_up_sessions_are_refused(gate, cookie):
    with pytest.raises(LoginError):
        gate.user_of_session(cookie)


def test_a_session_cannot_be_promoted_by_its_holder(gate):
    import base64

    body, signature = gate.open_session(User("ana", "operator")).split(".")
    forged = base64.urlsafe_b64encode(base64.urlsafe_b64decode(body).replace(b"operator", b"admin")).decode()
    with pytest.raises(LoginError):
        gate.user_of_session(f"{forged}.{signature}")


def test_roles_are_denied_by_default():
    User("ana", "operator").require("label")
    for role, action in (("robot", "look"), ("operator", "publish"), ("trainer", "label"), ("admin", "fly")):
        with pytest.raises(ForbiddenError, match="may not"):
            User("x", role).require(action)
    with pytest.raises(ConfigError):
        User("x", "king")


def ask(address, path, context):
    host, port = address.removeprefix("https://").split(":")
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=10)
    try:
        connection.request("GET", path, headers={"Accept": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_a_client_certificate_of_our_authority_is_a_login_and_a_foreign_one_is_not(tmp_path):
    authority = tmp_path / "trainer" / "ca"
    create_authority(authority)
    server = enroll(authority, "trainer", "server", out=tmp_path / "server", hosts=("127.0.0.1", "localhost"))
    ana = enroll(authority, "ana", "operator", out=tmp_path / "ana")
    create_authority(tmp_path / "elsewhere")
    eve = enroll(tmp_path / "elsewhere", "eve", "admin", out=tmp_path / "eve")
    console = Console(tmp_path / "trainer", identity=server)
    address = console.start()

    def context(identity=None):
        made = ssl.create_default_context(cafile=str(server / "ca.pem"))
        made.check_hostname = False
        if identity is not None:
            made.load_cert_chain(identity / "cert.pem", identity / "key.pem")
        return made

    try:
        status, page = ask(address, "/", context(ana))
        assert status == 200
        assert "ana, operator" in page
        status, refusal = ask(address, "/", context())
        assert status == 401
        assert json.loads(refusal)["kind"] == "LoginError"
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            ask(address, "/", context(eve))
    finally:
        console.stop()


def test_a_taken_port_is_said_plainly(tmp_path):
    create_authority(tmp_path / "a" / "ca")
    create_authority(tmp_path / "b" / "ca")
    first, second = Console(tmp_path / "a"), None
    try:
        port = int(first.start().rsplit(":", 1)[1])
        second = Console(tmp_path / "b", port=port)
        with pytest.raises(GymnastError, match=f"cannot listen on 127.0.0.1:{port}"):
            second.start()
    finally:
        first.stop()
        if second is not None:
            second.stop()
