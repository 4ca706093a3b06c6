"""The operator's console of a trainer, in the trainer's own process and on its own stores."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Protocol

from cloud_trainer.console.app import create_app
from cloud_trainer.console.desk import Desk
from cloud_trainer.flows.adaptation_engine import AdaptationEngine
from cloud_trainer.flows.loop_parts import LoopEngine
from cloud_trainer.flows.loops import Loops
from cloud_trainer.flows.scene_adaptation import Adaptations
from cloud_trainer.flows.trials import TrialEngine, Trials
from cloud_trainer.service import Service
from gymnast_core.errors import ConfigError
from gymnast_core.web import direct
from gymnast_core.web.auth import Gate, User
from gymnast_core.web.server import PageServer
from gymnast_core.wire.address import Address, is_everywhere, is_loopback, plain_host
from gymnast_core.wire.errors import NotFoundError
from gymnast_core.wire.identity import Peer

__all__ = ["DEFAULT_PORT", "Console", "Gate", "User"]

DEFAULT_PORT = 8600


class ArmEngine(AdaptationEngine, TrialEngine, Protocol):
    """Whatever computes and moves arms behind the pages."""


class Console:
    """The pages of one trainer.

    Args:
        service: of the trainer; started before the console and stopped after it.
        engine_of: tenant -> what adapts its robots to scenes and tries checkpoints on them; None shows what was done
            before only.
        host: address to listen on.
        port: 0 takes a free one.
        tls: HTTPS with the service's certificate, where client certificates are logins too; without it, HTTP on this
            machine only.
        loop_engine_of: tenant and the trainer's trials -> what computes and moves arms in its loops; None shows old
            ones only.

    Raises:
        ConfigError: plain HTTP on an address others can reach, or TLS for a service without certificates.
    """

    def __init__(
        self,
        service: Service,
        *,
        engine_of: Callable[[str], ArmEngine] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: bool = False,
        loop_engine_of: Callable[[str, Trials], LoopEngine] | None = None,
    ) -> None:
        host = plain_host(host)
        if not tls and not is_loopback(host):
            raise ConfigError(f"HTTP would show tokens to the network on {host}; use TLS, or 127.0.0.1")
        if tls and service.config.insecure:
            raise ConfigError(f"a service without certificates cannot serve HTTPS on {host}; use 127.0.0.1")
        folder = service.config.folder / "console"
        self.gate = Gate(folder, withdrawn=service.revocations.withdrawn)
        adaptations, trials = Adaptations(folder / "adaptations", engine_of), Trials(folder / "trials", engine_of)
        engines = None if loop_engine_of is None else partial(_with, loop_engine_of, trials)
        self.desk = Desk(service, adaptations=adaptations, trials=trials, loops=Loops(folder / "loops", engines))
        service.blinded = self.desk.blinded
        identity = service.config.folder / "server" if tls else None
        self._app = create_app(self.desk, self.gate, certified=service.revocations.peer)
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
        self._service.console.log_in, self._service.console.ask = self._log_in, self._ask
        return self.address

    def stop(self) -> None:
        """Stop listening and let adaptations rest between two steps."""
        self._service.console.log_in = self._service.console.ask = None
        self._server.stop()
        self.desk.close()

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

    def _ask(self, peer: Peer, method: str, path: str, form: Mapping[str, str]) -> tuple[int, str, bytes]:
        """Somebody with a certificate asks over the service's own connection."""
        asked = (method == "GET" and path.startswith("/api/")) or (method == "GET" and path.endswith(".webp"))
        if not asked and (method != "POST" or path in ("/login", "/logout")):
            raise NotFoundError(f"{method[:8]} {path[:80]!r} is no part of the page that programs are answered")
        return direct.ask(self._app, peer, method, path, form)


def _with(engine_of: Callable[[str, Trials], LoopEngine], trials: Trials, tenant: str) -> LoopEngine:
    return engine_of(tenant, trials)
