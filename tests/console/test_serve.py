"""`gymnast serve` as it is started by people: service and page in one process, stopped and started together."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

import gymnast_client
from cloud_trainer.service import enroll
from gymnast_cli.main import main
from tests.console.conftest import wait_for


class Serve:
    """The command in a process of its own."""

    def __init__(self, folder: Path, *more: str) -> None:
        port_file = folder.with_suffix(".port")
        port_file.unlink(missing_ok=True)
        words = ["serve", "--folder", str(folder), "--port-file", str(port_file), *more]
        self._log = folder.with_suffix(".log")
        self._before = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "gymnast_cli.main", *words]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        wait_for(lambda: port_file.exists() or self.process.poll() is not None, "the trainer", 90)
        wait_for(lambda: "page at" in self.said() or self.process.poll() is not None, "the page", 60)
        self.address = port_file.read_text() if port_file.exists() else ""

    def said(self) -> str:
        return self._log.read_bytes()[self._before :].decode()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)


def ask(page: str, method: str, path: str, *, cookie: str = "", **form: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(urlsplit(page).netloc, timeout=20)
    headers = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}
    connection.request(method, path, body=urlencode(form), headers=headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


def test_service_and_page_are_one_process_and_a_session_outlives_it(tmp_path, capsys):
    folder = tmp_path / "trainer"
    ada = enroll(folder / "ca", "ada", "operator", out=tmp_path / "ada")
    trainer = Serve(folder, "--console-port", "0")
    try:
        assert main(["--json", "console", "--trainer", trainer.address, "--identity", str(ada)]) == 0
        with gymnast_client.Trainer(trainer.address, ada) as client:
            login = client.log_in()
        entered = ask(login.address, "POST", "/login", token=login.token, next="/jobs")
        assert (entered.status, entered.headers["location"]) == (303, "/jobs")
        cookie = entered.headers["set-cookie"].partition(";")[0]
        assert ask(login.address, "GET", "/jobs", cookie=cookie).status == 200
        assert ask(login.address, "GET", "/jobs").status == 303

        second = Serve(folder, "--console-port", "0")
        assert second.process.wait(40) == 2
        assert "runs on" in second.said()
    finally:
        assert trainer.stop() == 0
    with pytest.raises(ConnectionRefusedError):
        ask(login.address, "GET", "/jobs", cookie=cookie)

    port = str(urlsplit(login.address).port)
    again = Serve(folder, "--console-port", port)
    try:
        assert ask(login.address, "GET", "/jobs", cookie=cookie).status == 200
        other = Serve(tmp_path / "other", "--console-port", port)
        assert other.process.wait(40) == 1
        assert f"cannot listen on 127.0.0.1:{port}" in other.said()
    finally:
        assert again.stop() == 0
