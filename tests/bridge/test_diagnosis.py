"""Why a trainer is not reached is named: certificates, clocks, names, proxies; what may pass by itself is retried."""

from __future__ import annotations

import datetime as dt
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from cloud_trainer.service import Service, ServiceConfig, enroll
from gymnast_client import Trainer
from gymnast_core.episodes import Spool
from gymnast_core.errors import TransientBridgeError
from gymnast_core.wire import identity as identities_module
from gymnast_core.wire.address import Address
from gymnast_core.wire.diagnosis import diagnose
from gymnast_core.wire.errors import NotAuthenticatedError
from gymnast_core.wire.identity import Identity
from gymnast_ros.uplink import RemotePolicy, Reporter, RobotNews, Uplink
from tests.bridge.conftest import fill


@pytest.fixture
def ada(identities):
    return Identity.load(identities("ada", "operator"))


def port_of(service: Service) -> int:
    return Address.parse(service.address).port


def refusal(address: str, identity, **more) -> str:
    """What a client that asks for jobs is told; it must not have been asked to wait."""
    began = time.monotonic()
    with Trainer(address, identity, **more).jobs as jobs, pytest.raises(NotAuthenticatedError) as refused:
        jobs.list()
    assert time.monotonic() - began < 15
    return str(refused.value)


def test_nothing_is_wrong_with_a_link_that_works(service, ada):
    assert diagnose(Address.parse(service.address), ada) is None


def test_wrong_name_is_named_with_the_names_there_are(tmp_path):
    with Service(ServiceConfig(folder=tmp_path / "trainer", host="0.0.0.0")) as service:
        ada = enroll(service.authority, "ada", "operator", out=tmp_path / "ada")
        said = refusal(f"127.0.0.99:{port_of(service)}", ada)
    assert "'127.0.0.99' was expected" in said
    assert "localhost" in said


def test_another_trainers_identity_is_named_on_either_side(service, tmp_path):
    stranger = enroll(tmp_path / "other" / "ca", "ada", "operator", out=tmp_path / "stranger")
    assert f"was not issued by the authority in {stranger}" in refusal(service.address, stranger)
    (stranger / "ca.pem").write_bytes((service.authority / "ca.pem").read_bytes())
    assert "does not accept the certificate" in refusal(service.address, stranger)


def test_an_expired_certificate_and_a_wrong_clock_are_named(service, tmp_path, monkeypatch):
    old = enroll(service.authority, "old", "operator", out=tmp_path / "old", days=1e-9)
    assert "expired on" in refusal(service.address, old)
    fresh = enroll(service.authority, "new", "operator", out=tmp_path / "new")

    class Before(dt.datetime):
        @classmethod
        def now(cls, tz=None):
            return dt.datetime(2001, 1, 1, tzinfo=tz)

    monkeypatch.setattr(identities_module.dt, "datetime", Before)
    assert "the clock here says 2001-01-01" in str(diagnose(Address.parse(service.address), Identity.load(fresh)))


def test_tls_on_one_side_alone_is_named(service, ada, tmp_path):
    assert "speaks TLS; give --identity" in refusal(service.address, None, insecure=True)
    with Service(ServiceConfig(folder=tmp_path / "open", insecure=True)) as plain:
        assert "speaks no TLS" in refusal(plain.address, ada)


def test_a_trainer_that_is_away_or_a_name_nobody_knows_may_come_back(ada):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    away = diagnose(Address("127.0.0.1", port), ada)
    assert isinstance(away, TransientBridgeError)
    assert f"127.0.0.1:{port} is not reached (Connection refused)" in str(away)
    nobody = diagnose(Address("no-such-host.invalid", 50051), ada)
    assert isinstance(nobody, TransientBridgeError)
    assert "no address is known for 'no-such-host.invalid'" in str(nobody)


def test_a_robot_keeps_its_episodes_says_why_and_ships_them_when_it_is_mended(service, tmp_path, caplog):
    stranger = enroll(tmp_path / "other" / "ca", "wx-1", "robot", out=tmp_path / "id")
    spool = Spool(tmp_path / "spool")
    fill(spool, 1)
    alarms = []
    with Uplink(service.address, stranger, spool=spool, on_event=alarms.append) as uplink:
        until = time.monotonic() + 30
        while not uplink.status().alarm and time.monotonic() < until:
            time.sleep(0.05)
        assert "was not issued by the authority" in uplink.status().alarm
        assert [event.kind for event in alarms] == ["alarm"], "once, not at every attempt"
        said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert [line.partition(" ")[0] for line in said] == ["trainer_refused"], "and on the robot's terminal"
        enroll(service.authority, "wx-1", "robot", out=tmp_path / "id")
        assert uplink.flush(30)
        assert uplink.status().alarm == ""


def test_a_robot_with_an_identity_of_another_role_says_so_once(service, identities, caplog):
    reporter = Reporter(service.address, identities("ada", "operator"), RobotNews, period_s=0.05)
    reporter.start()
    until = time.monotonic() + 30
    while reporter.dropped < 3 and time.monotonic() < until:
        time.sleep(0.05)
    reporter.stop()
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(said) == 1
    assert "trainer_refused" in said[0]
    assert "'ada' (operator) may not report; who may: robot, admin" in said[0]


def test_a_remote_policy_names_it_too(service, tmp_path):
    stranger = enroll(tmp_path / "other" / "ca", "wx-1", "robot", out=tmp_path / "id")
    with pytest.raises(NotAuthenticatedError, match="was not issued by the authority"):
        RemotePolicy(service.address, stranger)


class HttpProxy:
    """Answers CONNECT: to one port on this machine, whatever is asked for, or with a refusal."""

    def __init__(self, port: int | None) -> None:
        self._port, self.asked = port, []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096) or b"\r\n\r\n"
        self.asked.append(head.split(b"\r\n")[0].decode())
        if self._port is None:
            client.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            client.close()
            return
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        server = socket.create_connection(("127.0.0.1", self._port))
        threading.Thread(target=self._pump, args=(server, client), daemon=True).start()
        self._pump(client, server)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            end.close()


@pytest.fixture
def proxies(monkeypatch) -> Iterator:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    made = []

    def make(port: int | None) -> HttpProxy:
        made.append(HttpProxy(port))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


def test_a_trainer_behind_a_proxy_is_reached_and_one_here_goes_around_it(tmp_path, proxies, monkeypatch):
    with Service(ServiceConfig(folder=tmp_path / "trainer", names=("trainer.example",))) as service:
        ada = enroll(service.authority, "ada", "operator", out=tmp_path / "ada")
        through, refusing = proxies(port_of(service)), proxies(None)
        monkeypatch.setenv("http_proxy", refusing.url)
        monkeypatch.setenv("https_proxy", through.url)
        with Trainer(service.address, ada).jobs as jobs:
            assert jobs.list() == []
        assert through.asked == refusing.asked == []
        with Trainer("trainer.example:50051", ada).jobs as jobs:
            assert jobs.list() == []
        assert "CONNECT trainer.example:50051 HTTP/1.1" in through.asked
        assert refusing.asked == []


def test_a_proxy_in_the_way_is_named(ada, proxies, monkeypatch):
    refusing = proxies(None)
    monkeypatch.setenv("HTTPS_PROXY", refusing.url)
    said = str(diagnose(Address("trainer.example", 50051), ada))
    assert "(from HTTPS_PROXY) does not connect to trainer.example:50051 (HTTP/1.1 403 Forbidden)" in said
    assert "NO_PROXY=trainer.example" in said
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert "the proxy 127.0.0.1:9 (from HTTPS_PROXY) is not reached" in str(
        diagnose(Address("trainer.example", 1), ada)
    )
