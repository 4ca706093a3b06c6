"""Real servers on loopback that calls for a person are sent to: HTTP, HTTPS, SMTP with STARTTLS or TLS and a login."""

from __future__ import annotations

import email
import email.policy
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from cloud_trainer.service import enroll

PATIENCE_S = 30.0


def until(condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
    deadline_s = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline_s, f"{what} did not happen within {timeout_s} s"
        time.sleep(0.02)
    return found


@dataclass(frozen=True)
class Post:
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


@dataclass
class Inbox:
    """What a web server was sent; `status` is what it answers next, `held` keeps it from answering."""

    posts: list[Post] = field(default_factory=list)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    free: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def wait(self, count: int) -> list[Post]:
        until(lambda: len(self.posts) >= count, f"{count} posts, {len(self.posts)} came")
        return self.posts


@contextmanager
def web_server(certificate: Path | None = None, port: int = 0) -> Iterator[Inbox]:
    inbox = Inbox()
    inbox.free.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            inbox.free.wait(PATIENCE_S)
            inbox.posts.append(Post(self.path, dict(self.headers.items()), body))
            self.send_response(inbox.status)
            for name, value in inbox.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that distrusts the certificate, or went away, is no news."""

    server = Server(("127.0.0.1", port), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    inbox.url = f"{'http' if certificate is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield inbox
    finally:
        inbox.free.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def certificate_in(folder: Path) -> Path:
    """A folder with cert.pem and key.pem for 127.0.0.1 and localhost, and ca.pem that signed them."""
    return enroll(folder / "ca", "receiver", "server", out=folder / "server", hosts=("127.0.0.1", "localhost"))


@dataclass
class Postbox:
    """Mails that a server took; `refuse` is what it answers instead."""

    mails: list[EmailMessage] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    refuse: str = ""
    port: int = 0

    def wait(self, count: int) -> list[EmailMessage]:
        until(lambda: len(self.mails) >= count, f"{count} mails, {len(self.mails)} came")
        return self.mails

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.refuse:
            return self.refuse
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        mail["X-Rcpt"] = ",".join(envelope.rcpt_tos)
        self.mails.append(mail)
        return "250 taken"


class _Controller(Controller):
    """Its port is known when it listens."""

    def _trigger_server(self) -> None:
        """As the base class does, which connects to port 0."""
        self.port = self.bound
        super()._trigger_server()

    @property
    def bound(self) -> int:
        assert self.server is not None
        return int(self.server.sockets[0].getsockname()[1])


@contextmanager
def mail_server(certificate: Path | None, security: str, login: tuple[str, str] | None = None) -> Iterator[Postbox]:
    box = Postbox()
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")

    def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        box.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=box.logins[-1] == login)

    controller = _Controller(
        box, hostname="127.0.0.1", port=0, ssl_context=context if security == "tls" else None,
        tls_context=context if security == "starttls" else None, require_starttls=security == "starttls",
        authenticator=authenticate if login else None, auth_required=login is not None,
        auth_require_tls=security == "starttls",
    )  # fmt: skip
    controller.start()
    box.port = controller.port
    try:
        yield box
    finally:
        controller.stop()
