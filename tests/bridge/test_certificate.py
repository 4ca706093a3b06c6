"""The trainer's certificate follows its names, addresses and age, on the wire and on the page, without a pause."""

from __future__ import annotations

import ssl
import threading
import time
from urllib.parse import urlsplit

import pytest

from cloud_trainer.console import Console
from cloud_trainer.service import Service, ServiceConfig, enroll
from cloud_trainer.service.certificate import MachineNames
from cloud_trainer.service.enroll import days_left
from gymnast_client import Trainer
from gymnast_core.errors import ConfigError
from gymnast_core.wire.address import Address
from gymnast_core.wire.identity import names_in


def shown_at(address: str) -> bytes:
    where = Address.parse(address)
    return ssl.get_server_certificate((where.host, where.port)).encode()


def wait_for(condition, timeout_s: float = 30.0) -> bool:
    until = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    return bool(condition())


@pytest.fixture
def machine(monkeypatch):
    """What this machine is called and where it is; a test changes it."""
    names = ["trainer.lab", "trainer", "10.0.0.5", "fd00::5"]
    monkeypatch.setattr(MachineNames, "now", lambda self: list(names))
    return names


def test_a_changed_name_and_address_are_in_the_next_handshake_and_no_call_fails(machine, tmp_path):
    config = ServiceConfig(folder=tmp_path / "trainer", names=("cloud.example",))
    with Service(config) as service, Console(service, tls=True) as console:
        page = urlsplit(console.address).netloc
        ada = enroll(service.authority, "ada", "operator", out=tmp_path / "ada")
        before = names_in(shown_at(service.address))
        assert {*before} == {"cloud.example", *machine, "localhost", "127.0.0.1", "::1"}
        assert names_in(shown_at(page)) == before
        failures, over = [], threading.Event()

        def ask() -> None:
            while not over.is_set():
                try:
                    with Trainer(service.address, ada).jobs as jobs:  # a handshake a call
                        jobs.list()
                except Exception as error:  # noqa: BLE001  # collected for the assertion
                    failures.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        machine[2:] = ["10.0.0.77", "fd00::77"]
        assert wait_for(lambda: "10.0.0.77" in names_in(shown_at(service.address)))
        assert "10.0.0.5" not in names_in(shown_at(service.address)), "it may be somebody else's now"
        assert wait_for(lambda: "fd00::77" in names_in(shown_at(page)))
        over.set()
        asking.join()
        assert failures == []


def test_a_certificate_near_its_end_is_renewed_while_the_service_runs(machine, tmp_path):
    with Service(ServiceConfig(folder=tmp_path / "trainer")) as service:
        names = names_in(shown_at(service.address))
        enroll(service.authority, "trainer", "server", out=tmp_path / "trainer" / "server", hosts=names, days=20)
        assert wait_for(lambda: days_left(shown_at(service.address)) > 80)


def test_it_is_not_issued_again_while_nothing_changed(machine, tmp_path):
    for _ in range(2):
        with Service(ServiceConfig(folder=tmp_path / "trainer", names=("FD00:0::9", "cloud.example"))) as service:
            shown = shown_at(service.address)
            time.sleep(2.5)  # longer than one look
            assert shown_at(service.address) == shown
            assert "fd00::9" in names_in(shown)
    assert len((tmp_path / "trainer" / "ca" / "issued.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("name", ["a b", "http://x", "x:50051", ""])
def test_a_name_that_is_none_is_refused_before_anything_is_made(name, tmp_path):
    with pytest.raises(ConfigError, match="neither a host name nor an address"):
        Service(ServiceConfig(folder=tmp_path / "trainer", names=(name,)))
