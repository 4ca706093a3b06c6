"""Serves a site: a uvicorn server in a thread, with TLS and client certificates where an identity is given."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from gymnast_core.errors import GymnastError
from gymnast_core.wire.address import Address, listen
from gymnast_core.wire.identity import AUTHORITY, CERTIFICATE, KEY, Identity

LOG = logging.getLogger(__name__)
START_S = 15.0
HANDSHAKE_S = REQUEST_S = 5.0
"""How long a connection may take to be set up, and then until its first request is whole."""
CONNECTIONS, PER_ADDRESS = 1024, 256
"""Open at once in all, and from one address; a browser opens six."""


def patient_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop whose servers close connections that are not set up in time."""
    return _PatientLoop()


class _PatientLoop(asyncio.SelectorEventLoop):
    async def create_server(self, *args: Any, ssl: Any = None, **options: Any) -> asyncio.Server:
        timeout_s = HANDSHAKE_S if ssl else None
        return await super().create_server(*args, ssl=ssl, ssl_handshake_timeout=timeout_s, **options)


class PeerProtocol(H11Protocol):
    """HTTP/1.1 that hands the application the verified client certificate of the connection.

    One that sends no request is closed after a while, and sooner where one address, or all together, have
    more than they may: the one that has been silent for longest goes, and the new one only if none is silent.
    """

    def connection_made(  # type: ignore[override]  # uvicorn takes transports alone
        self, transport: asyncio.Transport
    ) -> None:
        """Put the certificate (PEM) into the scope of every request of this connection."""
        super().connection_made(transport)
        self.since_s = time.monotonic()
        self._make_room()
        self.loop.call_later(REQUEST_S, self._end_if_silent)
        channel = transport.get_extra_info("ssl_object")
        der = channel.getpeercert(binary_form=True) if channel is not None else None
        certificate = ssl.DER_cert_to_PEM_cert(der).encode() if der else b""
        inner = self.app

        async def with_certificate(scope: Any, receive: Any, send: Any) -> None:
            await inner({**scope, "gymnast_certificate": certificate}, receive, send)

        self.app = with_certificate

    @property
    def silent(self) -> bool:
        """Whether it never asked for anything."""
        return self.cycle is None

    def _make_room(self) -> None:
        there = [other for other in self.connections if isinstance(other, PeerProtocol)]
        same = [other for other in there if (other.client or ("",))[0] == (self.client or ("",))[0]]
        for crowd, most in ((same, PER_ADDRESS), (there, CONNECTIONS)):
            if len(crowd) > most:
                silent = [other for other in crowd if other.silent and not other.transport.is_closing()]
                oldest = min(silent, key=lambda other: other.since_s, default=self)
                LOG.warning("connection_closed from=%s open=%d of_address=%d", oldest.client, len(there), len(same))
                oldest.transport.abort()
                return

    def _end_if_silent(self) -> None:
        if self.silent and not self.transport.is_closing():
            self.transport.abort()


def following_context(identity: Path) -> ssl.SSLContext:
    """Return a server's TLS settings that follow the folder: each handshake shows the certificate that is there."""
    context, newest = _context(identity), Identity.load(identity).fingerprint()

    def look(channel: ssl.SSLObject, name: str | None, first: ssl.SSLContext) -> None:
        nonlocal context, newest
        try:
            if (found := Identity.load(identity).fingerprint()) != newest:
                context, newest = _context(identity), found
        except (GymnastError, OSError) as error:  # ssl.SSLError is one: key and certificate of two issues
            LOG.error("page_certificate_not_reloaded error=%s", error)
        channel.context = context

    context.sni_callback = look
    return context


def _context(identity: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity / CERTIFICATE, identity / KEY)
    context.load_verify_locations(identity / AUTHORITY)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0  # a client that reads and writes in two threads may lose what it writes while one arrives
    return context


class PageServer:
    """One site on one port.

    Args:
        app: from Site.app(); its state.stopping ends open event streams.
        host: address to listen on.
        port: 0 takes a free one.
        identity: folder with the server's certificate; None serves plain HTTP, for this machine only.
    """

    def __init__(self, app: FastAPI, *, host: str = "127.0.0.1", port: int = 0, identity: Path | None = None) -> None:
        tls = (lambda *_: following_context(identity)) if identity else None
        config = uvicorn.Config(
            app,
            http=PeerProtocol,
            log_level="warning",
            timeout_graceful_shutdown=3,
            ssl_context_factory=tls,
            loop=f"{__name__}:{patient_loop.__name__}",
        )
        self._server, self._stopping = uvicorn.Server(config), app.state.stopping
        self._scheme, self._host, self._port = "https" if tls else "http", host, port
        self._thread: threading.Thread | None = None

    def start(self) -> str:
        """Listen; returns the address of the page.

        Raises:
            ConfigError: the host is none of this machine's.
            GymnastError: the port is taken.
        """
        listener = listen(self._host, self._port, what="the page")
        run = self._server.run
        self._thread = threading.Thread(target=run, args=([listener],), name="page", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise GymnastError("the page did not start; its log says why")
            self._thread.join(0.02)
        return f"{self._scheme}://{Address(*listener.getsockname()[:2])}"

    def stop(self) -> None:
        """Stop listening and wait; safe to call twice."""
        self._stopping.set()
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(START_S)
