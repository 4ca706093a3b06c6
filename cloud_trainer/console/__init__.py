"""The operator's console of a trainer, in the trainer's own process and on its own stores."""

from __future__ import annotations

import socket
from types import TracebackType

from cloud_trainer.console.app import create_app
from cloud_trainer.console.sources import Sources
from cloud_trainer.service import Service
from gymnast_core.errors import ConfigError
from gymnast_core.web.auth import Gate, User
from gymnast_core.web.server import PageServer
from gymnast_core.wire.address import Address, check_exposed, is_everywhere, is_loopback, plain_host
from gymnast_core.wire.identity import Peer

__all__ = ["DEFAULT_PORT", "Console", "Gate", "User"]

DEFAULT_PORT = 8600


class Console:
    """The pages of one trainer.

    Args:
        service: of the trainer; started before the console and stopped after it.
        host: address to listen on.
        port: 0 takes a free one.
        tls: HTTPS with the service's certificate, where client certificates are logins too; without it, HTTP on this
            machine only.

    Raises:
        ConfigError: plain HTTP on an address others can reach, or TLS for a service without certificates.
    """

    def __init__(
        self,
        service: Service,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: bool = False,
    ) -> None:
        host = plain_host(host)
        check_exposed(host, tls=tls, proof=True, remedy="use TLS")
        if tls and service.config.insecure:
            raise ConfigError(f"a service without certificates cannot serve HTTPS on {host}; use 127.0.0.1")
        folder = service.config.folder
        self.gate = Gate(folder / "console", withdrawn=service.revocations.withdrawn)
        self.sources = Sources(service.handlers, folder)
        identity = folder / "server" if tls else None
        self._app = create_app(self.sources, self.gate, certified=service.revocations.peer)
        self._server = PageServer(self._app, host=host, port=port, identity=identity)
        self._service, self._host, self.address = service, host, ""

    def start(self) -> str:
        """Listen; returns the address of the page.

        Raises:
            GymnastError: the port is taken.
        """
        address = self._server.start()
        scheme, _, where = address.partition("://")
        names = [name for name in self._service.config.names if not is_loopback(name)] or [socket.getfqdn()]
        everywhere = Address(names[0], Address.parse(where).port)
        self.address = f"{scheme}://{everywhere}" if is_everywhere(self._host) else address
        self._service.console.log_in = self._log_in
        return self.address

    def stop(self) -> None:
        """Stop listening."""
        self._service.console.log_in = None
        self._server.stop()

    def __enter__(self) -> Console:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def _log_in(self, peer: Peer, seconds: float) -> tuple[str, str]:
        """Somebody with a certificate wants to look."""
        return self.address, self.gate.issue(User.of(peer), days=seconds / 86_400)
