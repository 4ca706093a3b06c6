"""Who may come in: token, session, client certificate; nobody else."""

import http.client
import json
import socket
import ssl

import pytest

from cloud_trainer.console import Console, Gate, User
from cloud_trainer.service import Service, ServiceConfig
from cloud_trainer.service.enroll import create_authority, enroll
from gymnast_client import Trainer
from gymnast_core.errors import ConfigError, GymnastError
from gymnast_core.web.auth import LoginError
from gymnast_core.wire.errors import NotPermittedError


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
    cookie = gate.open_session(token, seconds=60)
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


def test_a_session_ends_with_its_logout_and_with_its_token(gate, clock):
    token = gate.issue(User("ana", "operator"), days=0.5)
    cookies = [gate.open_session(token) for _ in range(2)]
    gate.close_session(cookies[0])
    with pytest.raises(LoginError):
        gate.user_of_session(cookies[0])
    assert gate.user_of_session(cookies[1]).name == "ana"
    clock.later(0.5 * 86_400)
    with pytest.raises(LoginError, match="expired"):
        gate.user_of_session(cookies[1])


def test_roles_are_denied_by_default():
    User("ana", "operator").require("label")
    for role, action in (("robot", "look"), ("operator", "publish"), ("trainer", "label"), ("admin", "fly")):
        with pytest.raises(NotPermittedError, match="may not"):
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
    create_authority(tmp_path / "elsewhere")
    eve = enroll(tmp_path / "elsewhere", "eve", "admin", out=tmp_path / "eve")

    def context(identity=None):
        made = ssl.create_default_context(cafile=str(tmp_path / "trainer" / "server" / "ca.pem"))
        made.check_hostname = False
        if identity is not None:
            made.load_cert_chain(identity / "cert.pem", identity / "key.pem")
        return made

    with Service(ServiceConfig(folder=tmp_path / "trainer")) as service, Console(service, tls=True) as console:
        ana = enroll(service.authority, "ana", "operator", out=tmp_path / "ana")
        status, page = ask(console.address, "/", context(ana))
        assert status == 200
        assert "ana, operator" in page
        status, refusal = ask(console.address, "/", context())
        assert status == 401
        assert json.loads(refusal)["kind"] == "LoginError"
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            ask(console.address, "/", context(eve))


def test_a_certificate_gets_a_token_for_the_page_in_its_own_name_and_a_robot_gets_none(tmp_path):
    with Service(ServiceConfig(folder=tmp_path / "trainer")) as service:
        holders = {"operator": "ana", "robot": "wx-1"}
        ids = {role: enroll(service.authority, name, role, out=tmp_path / role) for role, name in holders.items()}
        with Trainer(service.address, ids["operator"]) as client:
            with pytest.raises(ConfigError, match="serves no page"):
                client.log_in()
            with Console(service) as console:
                login = client.log_in()
                assert login.address == console.address
                assert console.gate.user_of_token(login.token) == User("ana", "operator")
        with Trainer(service.address, ids["robot"]) as client, pytest.raises(NotPermittedError, match="robot"):
            client.log_in()


def test_a_taken_port_is_said_plainly(tmp_path):
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        Service(ServiceConfig(folder=tmp_path, insecure=True)) as service,
    ):
        port = taken.getsockname()[1]
        console = Console(service, port=port)
        with pytest.raises(GymnastError, match=f"cannot listen on 127.0.0.1:{port}"):
            console.start()
        console.stop()


def test_tokens_are_not_shown_to_the_network(tmp_path):
    with Service(ServiceConfig(folder=tmp_path / "a", insecure=True)) as service:
        with pytest.raises(ConfigError, match="without TLS; use TLS"):
            Console(service, host="0.0.0.0")
        with pytest.raises(ConfigError, match="without certificates"):
            Console(service, host="0.0.0.0", tls=True)
