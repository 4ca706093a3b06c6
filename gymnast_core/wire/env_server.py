"""Serves an environment to one driver at a time: mutual TLS, or a socket that this user alone can open."""

from __future__ import annotations

import os
import secrets
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import grpc

from gymnast_core.errors import ConfigError, OccupiedError
from gymnast_core.wire.env_codec import MESSAGE_OPTIONS, UNIX
from gymnast_core.wire.env_host import EnvHost
from gymnast_core.wire.gymnast.v1 import env_pb2, env_pb2_grpc
from gymnast_core.wire.peers import CertifiedAccess, answered, bound, listen_securely

SILENT_S = 60.0
"""After which a driver that said nothing has lost the environment to the next one."""
ReplyT = TypeVar("ReplyT")


class EnvServicer(env_pb2_grpc.EnvServiceServicer):
    """EnvService over one host."""

    def __init__(self, host: EnvHost, access: CertifiedAccess | None) -> None:
        self._host, self._access = host, access
        self._lock = threading.Lock()
        self._session, self._heard_s = "", 0.0

    def Open(self, request: env_pb2.EnvOpenRequest, context: grpc.ServicerContext) -> env_pb2.EnvOpenReply:
        """Take it."""
        return self._guarded(context, None, self._opened)

    def Reset(self, request: env_pb2.EnvResetRequest, context: grpc.ServicerContext) -> env_pb2.EnvObservation:
        """Begin an episode."""
        return self._guarded(context, request.session, lambda: self._host.reset(request))

    def Step(self, request: env_pb2.EnvStepRequest, context: grpc.ServicerContext) -> env_pb2.EnvStepReply:
        """Go on."""
        return self._guarded(context, request.session, lambda: self._host.step(request))

    def Close(self, request: env_pb2.EnvCloseRequest, context: grpc.ServicerContext) -> env_pb2.EnvCloseReply:
        """Leave it to others."""
        return self._guarded(context, request.session, self._left)

    def _opened(self) -> env_pb2.EnvOpenReply:
        if self._session and time.monotonic() - self._heard_s < SILENT_S:
            raise OccupiedError(f"somebody else drives this environment; try again in {SILENT_S:.0f} s")
        self._session = secrets.token_urlsafe(16)
        return env_pb2.EnvOpenReply(session=self._session, description=self._host.description)

    def _left(self) -> env_pb2.EnvCloseReply:
        self._session = ""
        return env_pb2.EnvCloseReply()

    def _guarded(self, context: grpc.ServicerContext, session: str | None, act: Callable[[], ReplyT]) -> ReplyT:
        """Act for who may, one at a time."""

        def alone() -> ReplyT:
            if self._access is not None:  # else the socket's folder decides
                self._access.require_role(context, "drive this environment")
            with self._lock:
                if session is not None and (not session or session != self._session):
                    raise OccupiedError("this environment was left to another driver; open it again")
                reply = act()
                self._heard_s = time.monotonic()
                return reply

        return answered(context, alone)


class EnvServer:
    """A running server.

    Args:
        host: of the environment.
        where: unix:PATH, or HOST:PORT (port 0 takes a free one).
        access: for HOST:PORT.

    Attributes:
        address: where drivers find it.

    Raises:
        ConfigError: a port without access, a socket where others could open it, or the address is taken.
    """

    def __init__(self, host: EnvHost, where: str, access: CertifiedAccess | None = None) -> None:
        self._host, self._access = host, access
        options: Any = (*MESSAGE_OPTIONS, ("grpc.so_reuseport", 0))
        self._server = grpc.server(ThreadPoolExecutor(4), options=options)
        if where.startswith(UNIX):
            path = _private(Path(where.removeprefix(UNIX)))
            self._access, self.address = None, f"{UNIX}{path}"
            bound(self._server, self.address, grpc.local_server_credentials(grpc.LocalConnectionType.UDS))
        else:
            if access is None:
                raise ConfigError(f"to listen on {where}, give an identity (`gymnast enroll`), or listen on unix:PATH")
            self.address = listen_securely(self._server, where, access.identity)
        env_pb2_grpc.add_EnvServiceServicer_to_server(EnvServicer(host, self._access), self._server)
        self._server.start()
        if self._access is not None:
            self._access.revocations.start()

    def wait(self) -> None:
        """Until it is stopped."""
        self._server.wait_for_termination()

    def close(self) -> None:
        """Stop listening and end the environment."""
        self._server.stop(1.0).wait()
        if self._access is not None:
            self._access.revocations.stop()
        self._host.close()


def _private(path: Path) -> Path:
    """The socket's path, in a folder that nobody else can enter."""
    path = path.absolute()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.parent.stat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(f"others can enter {path.parent}; name a folder of your own with mode 700 for the socket")
    return path
