"""HOST:PORT as people write it: names, IPv4 and IPv6, read and written in one place."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from dataclasses import dataclass

from gymnast_core.errors import ConfigError, GymnastError

_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})")


@dataclass(frozen=True)
class Address:
    """Where somebody listens.

    Attributes:
        host: a name or an address, an IPv6 one without brackets.
        port: 0..65535.
    """

    host: str
    port: int

    @staticmethod
    def parse(text: str) -> Address:
        """Read trainer.lab:50051, 10.0.0.5:50051 or [fd00::5]:50051.

        Raises:
            ConfigError: it is none of these; the message has an example.
        """
        shown, example = repr(text[:200]), "write HOST:PORT, e.g. trainer.lab:50051 or [fd00::5]:50051"
        if "//" in text:
            raise ConfigError(f"{shown} is a URL; {example}")
        host, colon, port = text.strip().rpartition(":")
        if ":" in host and not host.startswith("["):
            raise ConfigError(f"{shown}: an IPv6 address stands in brackets; {example}")
        if not colon or host.count("[") != host.count("]"):
            raise ConfigError(f"{shown} names no port; {example}")
        if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= 65535):
            raise ConfigError(f"{shown}: {port[:20]!r} is no port, 1..65535; {example}")
        return Address(plain_host(host), int(port))

    def __str__(self) -> str:
        """As parse() reads it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def plain_host(text: str) -> str:
    """Return a host name or address without brackets.

    Raises:
        ConfigError: it is neither a name nor an address.
    """
    host = text.strip()
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if ip_of(host) is None and not _NAME.fullmatch(host):
        raise ConfigError(f"{text[:200]!r} is neither a host name nor an address, e.g. trainer.lab, 10.0.0.5, fd00::5")
    return host


def ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address a text is, None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it: localhost, 127.0.0.0/8, ::1."""
    address = ip_of(host)
    return host.lower().split(".")[0] == "localhost" if address is None else address.is_loopback


def check_exposed(host: str, *, tls: bool, proof: bool, remedy: str) -> None:
    """Refuse to serve the network without TLS, or to callers that prove nothing; this machine may be served so.

    Every port of ours that can be opened without one of them asks here first.

    Args:
        host: to listen on.
        tls: whether it speaks TLS.
        proof: whether a caller shows a token, a password or a certificate.
        remedy: what to set, for the message.

    Raises:
        ConfigError: others reach the host, and one of the two is missing.
    """
    missing = [name for name, there in (("TLS", tls), ("a token", proof)) if not there]
    if missing and not is_loopback(host):
        raise ConfigError(
            f"host {host}: others on the network would reach it without {' and '.join(missing)}; {remedy}, or serve on "
            "127.0.0.1"
        )


def is_everywhere(host: str) -> bool:
    """Whether listening on it listens on every address of the machine: 0.0.0.0, ::."""
    address = ip_of(host)
    return address is not None and address.is_unspecified


def listen(host: str, port: int, *, what: str) -> socket.socket:
    """Listen; an IPv6 host that stands for every address takes IPv4 as well.

    Args:
        host: name or address of this machine.
        port: 0 takes a free one.
        what: listens, for the message: "the page".

    Raises:
        ConfigError: the host is none of this machine's, or no address is known for it.
        GymnastError: the port is taken, or reserved for root.
    """
    where = Address(host, port)
    try:
        family, _, _, _, found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        both = family == socket.AF_INET6 and is_everywhere(host) and socket.has_dualstack_ipv6()
        return socket.create_server(found[:2], family=family, backlog=128, dualstack_ipv6=both)
    except socket.gaierror as error:
        raise ConfigError(f"{what} cannot listen on {where}: no address is known for {host!r} ({error})") from error
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(f"{what} cannot listen on {where}: that is no address of this machine") from error
        taken = error.errno == errno.EADDRINUSE
        why = "the port is taken; stop what has it, or choose another" if taken else error.strerror
        raise GymnastError(f"{what} cannot listen on {where}: {why}") from error


def reached_here(host: str) -> str:
    """Return how this machine reaches what listens on a host."""
    if not is_everywhere(host):
        return host
    return "::1" if ":" in host else "127.0.0.1"
