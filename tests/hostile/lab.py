"""A trainer with its page over TLS on loopback, and people and robots of several tenants who come from outside."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import grpc

from cloud_trainer.console import Console
from cloud_trainer.service import Service, ServiceConfig, enroll
from gymnast_core.wire.channel import domain_error, open_channel
from gymnast_core.wire.gymnast.v1 import console_pb2, console_pb2_grpc
from gymnast_core.wire.identity import Identity

FORM = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
PATIENCE_S = 20.0


@dataclass
class Answer:
    """What the page answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Lab:
    """See the module."""

    folder: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    page_options: Mapping[str, Any] = field(default_factory=dict)
    policy: Any = None
    plain_page: bool = False
    engine_of: Callable[[str], Any] | None = None

    def __enter__(self) -> Lab:
        self.service = Service(ServiceConfig(folder=self.folder / "trainer", **self.options), policy=self.policy)
        self.service.start()
        self.service.handlers.flows.take_up(self.engine_of)
        self.console = Console(self.service, tls=not self.plain_page, **self.page_options)
        self.console.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.console.stop()
        self.service.stop(1.0)

    def identity(self, name: str, role: str, tenant: str = "default") -> Path:
        out = self.folder / "ids" / f"{tenant}-{name}-{role}"
        return enroll(self.service.authority, name, role, out=out, tenant=tenant)

    def channel(self, identity: Path) -> grpc.Channel:
        return open_channel(self.service.address, Identity.load(identity))

    def token(self, identity: Path) -> str:
        with self.channel(identity) as channel:
            stub = console_pb2_grpc.ConsoleServiceStub(channel)
            return str(stub.LogIn(console_pb2.LogInRequest(), timeout=PATIENCE_S).token)

    def tls(self, identity: Path | None = None) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(self.folder / "trainer" / "server" / "ca.pem"))
        made.check_hostname = False
        if identity is not None:
            made.load_cert_chain(identity / "cert.pem", identity / "key.pem")
        return made

    def connect(self, identity: Path | None = None) -> http.client.HTTPSConnection:
        host, port = self.console.address.removeprefix("https://").split(":")
        return http.client.HTTPSConnection(host, int(port), context=self.tls(identity), timeout=PATIENCE_S)

    def page(
        self, method: str, path: str, *, identity: Path | None = None, token: str = "", cookie: str = "",
        form: Mapping[str, str] | None = None,
    ) -> Answer:  # fmt: skip
        """Ask the page over HTTPS, with a certificate, a bearer token, a session, or nothing."""
        headers = dict(FORM)
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if cookie:
            headers["Cookie"] = cookie
        connection = self.connect(identity)
        try:
            connection.request(method, path, urlencode(form or {}), headers)
            found = connection.getresponse()
            return Answer(found.status, dict(found.getheaders()), found.read())
        finally:
            connection.close()

    def log_in(self, token: str) -> str:
        """Log in on the page as a browser does; returns its cookie."""
        answer = self.page("POST", "/login", form={"token": token, "next": "/"})
        assert answer.status == 303, answer.text
        return answer.headers["set-cookie"].split(";")[0]


def error_of(call: Callable[[], Any]) -> str:
    """The name of the error a gRPC call is refused with; empty when it is not."""
    try:
        found = call()
        if hasattr(found, "__next__"):
            list(found)
    except grpc.RpcError as failure:
        return type(domain_error(failure)).__name__
    return ""


def within(limit_s: float, condition: Callable[[], bool]) -> float:
    """Wait until a condition holds; returns how long it took, infinity when the time is over."""
    began = time.monotonic()
    while time.monotonic() - began < limit_s:
        if condition():
            return time.monotonic() - began
        time.sleep(0.02)
    return float("inf")


class Stream:
    """An open event stream of the page, read by a thread until it ends."""

    def __init__(self, lab: Lab, path: str, headers: Mapping[str, str], identity: Path | None = None) -> None:
        self._connection = lab.connect(identity)
        self._connection.request("GET", path, headers=dict(headers))
        self._answer = self._connection.getresponse()
        self.status = self._answer.status
        self.ended = threading.Event()
        self.began = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while self._answer.read1(4096):
                self.began.set()
        except (OSError, http.client.HTTPException):
            pass
        self.ended.set()
        self._connection.close()
