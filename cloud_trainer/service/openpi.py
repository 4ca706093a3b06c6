"""A policy for openpi's clients: its websocket protocol on a port of its own, over what answers robots' requests.

The event loop never computes: a request is unpacked, asked and packed in one thread of its own, so that pings and the
health page are answered meanwhile. What cannot be answered gets its error's name and words as a text, and then, as in
openpi, the connection is closed with code 1011. There is never a traceback in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from gymnast_core.episodes.writer import encode_jpeg
from gymnast_core.errors import ConfigError, GymnastError
from gymnast_core.types import ACTION_DIM
from gymnast_core.web.server import following_context
from gymnast_core.wire.address import Address, check_exposed, listen, plain_host
from gymnast_core.wire.errors import InvalidMessageError, error_from_wire
from gymnast_core.wire.gymnast.v1 import policy_pb2
from gymnast_core.wire.inference import Answer
from gymnast_core.wire.openpi.codec import MAX_BYTES, Message, Value, pack, unpack
from gymnast_core.wire.openpi.exchange import observed, reply
from gymnast_core.wire.openpi.keys import Keys
from gymnast_core.wire.token import proven, read_token

LOG = logging.getLogger(__name__)
CONNECTIONS = 16
"""Open at once; each may have two requests of MAX_BYTES in memory."""
SILENT_S = 60.0
"""Whoever has asked nothing for as long gives up their place when all are taken."""
PING_S = 20.0
"""Between two pings; who answers none for as long is gone."""
SETUP_S = START_S = 15.0
"""How long a connection may take to be set up, and the port to open."""
_WORDS = 500
_QUIET = logging.getLogger(f"{__name__}.frames")
_QUIET.setLevel(logging.CRITICAL)  # what a stranger sends is no news; what matters is logged here


@dataclass(frozen=True)
class OpenpiConfig:
    """Where openpi's clients are served, and what their keys are.

    Attributes:
        port: 0 takes a free one.
        host: any but this machine's own needs TLS, which comes with the service's certificate, and a token.
        keys: of the clients.
        token: file with what clients must show (Authorization: Api-Key ...); None asks for nothing.
    """

    port: int
    keys: Keys
    host: str = "127.0.0.1"
    token: Path | None = None

    def __post_init__(self) -> None:
        """Refuse hosts that are none, and to serve the network without a secret."""
        object.__setattr__(self, "host", plain_host(self.host))
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"openpi_port must be 0..65535, got {self.port}")
        proof = self.token is not None
        check_exposed(self.host, tls=True, proof=proof, remedy="name a file with --openpi-token")


class OpenpiServer:
    """Serves one policy to openpi's clients.

    Args:
        answer: gives the reply to a request; called in one thread.
        config: see OpenpiConfig.
        identity: folder with the certificate to serve TLS with; None serves without.

    Attributes:
        address: ws:// or wss:// and where, once started.

    Raises:
        ConfigError: the network would be served without TLS, or the token file holds none.
    """

    def __init__(self, answer: Answer, config: OpenpiConfig, identity: Path | None = None) -> None:
        check_exposed(config.host, tls=identity is not None, proof=True, remedy="leave out --insecure")
        self._answer, self._config, self._identity = answer, config, identity
        self._token = read_token(config.token) if config.token is not None else ""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="openpi-policy")
        self._thread: threading.Thread | None = None
        self._ready, self._end = threading.Event(), asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Server | None = None
        self._asked_s: dict[ServerConnection, float] = {}
        self._leaving: set[asyncio.Future[None]] = set()
        self.address = ""

    def start(self) -> str:
        """Listen; returns the address.

        Raises:
            ConfigError: the host is none of this machine's.
            GymnastError: the port is taken, or the policy does not answer.
        """
        hello = self._asked(policy_pb2.InferRequest())
        self._greeting: Message = {
            "policy_version": hello.policy_version, "chunk_length": int(hello.chunk_length),
            "action_names": list(self._config.keys.actions), "keys": self._config.keys.top,
        }  # fmt: skip
        listener = listen(self._config.host, self._config.port, what="openpi's port")
        where = Address(*listener.getsockname()[:2])
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(listener)), name="openpi", daemon=True)
        self._thread.start()
        if not self._ready.wait(START_S):
            raise GymnastError("openpi's port did not open; the log says why")
        self.address = f"{'ws' if self._identity is None else 'wss'}://{where}"
        LOG.info("serving_openpi address=%s policy=%s", self.address, hello.policy_version)
        return self.address

    def stop(self) -> None:
        """Hang up on everybody and stop listening; safe to call twice."""
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop ended meanwhile
                self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(START_S)
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, listener: object) -> None:
        self._loop = asyncio.get_running_loop()
        tls = None if self._identity is None else following_context(self._identity)
        handshake_s = None if tls is None else SETUP_S
        async with serve(
            self._converse, sock=listener, ssl=tls, compression=None, max_size=MAX_BYTES, max_queue=1,
            open_timeout=SETUP_S, ping_interval=PING_S, ping_timeout=PING_S, server_header=None,
            process_request=self._admit, logger=_QUIET, ssl_handshake_timeout=handshake_s,
        ) as self._server:  # fmt: skip
            self._ready.set()
            await self._end.wait()

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer the health page; refuse pages of other sites, clients without the token, and crowds."""
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if request.headers.get("Origin") is not None:  # a browser: any page it shows could ask
            return connection.respond(http.HTTPStatus.FORBIDDEN, "web pages are not served here\n")
        if self._token and not proven(request.headers.get("Authorization", ""), self._token):
            LOG.warning("openpi_not_admitted from=%s", connection.remote_address)
            return connection.respond(
                http.HTTPStatus.UNAUTHORIZED, "send the token as header Authorization: Api-Key TOKEN\n"
            )
        if self._server is not None and len(self._server.connections) >= CONNECTIONS and not self._made_room():
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, f"{CONNECTIONS} clients are connected\n")
        return None

    def _made_room(self) -> bool:
        """Whether somebody who has asked nothing for long enough gives up their place."""
        silent = min(self._asked_s, key=lambda one: self._asked_s[one], default=None)
        if silent is None or time.monotonic() - self._asked_s[silent] < SILENT_S:
            return False
        del self._asked_s[silent]
        leaving = asyncio.ensure_future(silent.close(CloseCode.TRY_AGAIN_LATER, "others wait for this place"))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        return True

    async def _converse(self, connection: ServerConnection) -> None:
        """Greet, then one reply per request, until the client leaves or asks for what cannot be answered."""
        try:
            await self._replies(connection)
        finally:
            self._asked_s.pop(connection, None)

    async def _replies(self, connection: ServerConnection) -> None:
        loop, before_ms = asyncio.get_running_loop(), 0.0
        self._asked_s[connection] = time.monotonic()
        LOG.info("openpi_client from=%s", connection.remote_address)
        with contextlib.suppress(ConnectionClosed):
            await connection.send(pack(self._greeting))
            async for data in connection:
                started = self._asked_s[connection] = time.monotonic()
                try:
                    answered = await loop.run_in_executor(self._pool, self._reply_to, data, before_ms)
                except Exception as error:
                    if not isinstance(error, GymnastError):
                        LOG.exception("openpi_fault from=%s", connection.remote_address)
                    await connection.send(_words(error))
                    await connection.close(CloseCode.INTERNAL_ERROR, "the text before says why")
                    return
                await connection.send(answered)
                before_ms = 1000 * (time.monotonic() - started)

    def _reply_to(self, data: str | bytes, before_ms: float) -> bytes:
        """The packed reply to a packed request."""
        if isinstance(data, str):
            raise InvalidMessageError("a request is one binary message, got a text")
        keys = self._config.keys
        started = time.monotonic()
        frames, proprio_P, instruction = observed(keys, unpack(data))
        request = policy_pb2.InferRequest(
            instructions=[instruction], proprio=proprio_P.tolist(), time_ns=[time.monotonic_ns()],
            cameras=[policy_pb2.Camera(name=name, jpeg=[encode_jpeg(frame)]) for name, frame in frames.items()],
        )  # fmt: skip
        asked = time.monotonic()
        inferred = self._asked(request)
        now = time.monotonic()
        actions_KA = np.array(inferred.actions, np.float32).reshape(-1, ACTION_DIM)
        timing: dict[str, Value] = {"infer_ms": 1000 * (now - started)}
        return pack({
            "actions": reply(keys, actions_KA), "policy_timing": {"infer_ms": 1000 * (now - asked)},
            "server_timing": timing | ({"prev_total_ms": before_ms} if before_ms else {}),
        })  # fmt: skip

    def _asked(self, request: policy_pb2.InferRequest) -> policy_pb2.InferReply:
        inferred = self._answer(request)
        if inferred.error:
            raise error_from_wire(inferred.error, inferred.message, retry=False)
        return inferred


def _words(error: Exception) -> str:
    """One line for the other side: an error of ours in its words, of any other nothing but that it was one."""
    if not isinstance(error, GymnastError):
        return "ServerFaultError: the server failed for a reason of its own; its log has it"
    LOG.warning("openpi_refused error=%s message=%s", type(error).__name__, str(error)[:_WORDS])
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_WORDS]}"
