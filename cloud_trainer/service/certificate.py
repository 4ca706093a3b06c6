"""The server's own certificate: what it is reached by stands in it, and it is renewed while the service runs."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
import psutil

from cloud_trainer.service.enroll import days_left, enroll
from gymnast_core.errors import ConfigError, GymnastError
from gymnast_core.wire.address import ip_of, is_everywhere, plain_host
from gymnast_core.wire.identity import CERTIFICATE, Identity, names_in, peer_of

LOG = logging.getLogger(__name__)
_ALWAYS = ("localhost", "127.0.0.1", "::1")
_RENEW_DAYS = 30.0
_LOOK_S = 2.0
_NAMED_S = 2.0
"""How long a start waits for the name service to give the machine's full name; it is put in later if it is late."""
_MOST_ADDRESSES = 64


class MachineNames:
    """This machine's host name, full name and addresses, as they are now. One thread may ask."""

    def __init__(self) -> None:
        self._known: tuple[object, ...] = ()
        self._full = ""

    def now(self) -> list[str]:
        """Return them; the full name is asked for again when host name or addresses changed."""
        host, addresses = socket.gethostname(), _addresses()
        if (host, addresses) != self._known:
            self._known = (host, addresses)
            asking = threading.Thread(target=self._ask, daemon=True)  # a name service that is away takes its time
            asking.start()
            asking.join(_NAMED_S)
        return [name for name in (self._full, host) if _usable(name)] + list(addresses)

    def _ask(self) -> None:
        self._full = socket.getfqdn()


def _addresses() -> tuple[str, ...]:
    """Of every interface, but those that hold on one cable only (link-local)."""
    found = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
    ips = sorted((ip for text in found if (ip := ip_of(text))), key=lambda ip: (ip.version, int(ip)))
    return tuple(str(ip) for ip in ips if not ip.is_link_local)[:_MOST_ADDRESSES]


def _usable(name: str) -> bool:
    with contextlib.suppress(ConfigError):
        return bool(plain_host(name))
    return False


class ServerCertificate:
    """Issues the server's certificate and keeps it true: all names and addresses, never near its end.

    Args:
        authority: the CA folder.
        folder: gets cert.pem and key.pem; a process that reads them notices that they changed.
        names: names and addresses beside this machine's own.

    Raises:
        ConfigError: one of the names is neither a name nor an address.
    """

    def __init__(self, authority: Path, folder: Path, names: Sequence[str]) -> None:
        self._authority, self.folder = authority, folder
        self._given = [str(ip_of(name) or name) for given in names if not is_everywhere(name := plain_host(given))]
        self._machine = MachineNames()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="certificate", daemon=True)

    def start(self) -> None:
        """Issue it if need be, and begin to look for changes."""
        self.renew()
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def renew(self) -> None:
        """Issue a new one where names changed or a third of its life is left."""
        wanted = list(dict.fromkeys([*self._given, *self._machine.now(), *_ALWAYS]))
        path = self.folder / CERTIFICATE
        pem = path.read_bytes() if path.is_file() else b""
        if peer_of(pem) is not None and set(names_in(pem)) == set(wanted) and days_left(pem) > _RENEW_DAYS:
            return
        enroll(self._authority, "trainer", "server", out=self.folder, hosts=wanted)
        LOG.info("certificate_issued names=%s", ",".join(wanted))

    def credentials(self, client_authorities: Callable[[], bytes]) -> grpc.ServerCredentials:
        """Return credentials that follow the files: each handshake uses what is there then.

        Args:
            client_authorities: PEM of whatever may have issued a client's certificate, as of now.
        """
        used: tuple[bytes, bytes] = (b"", b"")

        def current() -> tuple[grpc.ServerCertificateConfiguration, tuple[bytes, bytes]]:
            identity, clients = Identity.load(self.folder), client_authorities()
            pair = [(identity.key, identity.certificate)]
            return grpc.ssl_server_certificate_configuration(pair, clients), (identity.certificate, clients)

        def changed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal used
            try:
                configuration, found = current()
            except (GymnastError, OSError) as error:
                LOG.error("certificate_not_reloaded error=%s", error)
                return None
            if found == used:
                return None
            used = found
            return configuration

        configuration, used = current()
        return grpc.dynamic_ssl_server_credentials(
            configuration,
            changed,  # type: ignore[arg-type]  # gRPC takes None, too: as before
            require_client_authentication=True,
        )

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_S):
            try:
                self.renew()
            except (GymnastError, OSError) as error:
                LOG.error("certificate_not_renewed error=%s", error)
