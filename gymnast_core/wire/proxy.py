"""Which proxy the environment asks for: https_proxy, http_proxy, all_proxy and no_proxy, in either case.

As curl and Go read them: never for this machine itself, never http_proxy for a link that is encrypted; no_proxy takes
names, domains, addresses of both kinds (an IPv6 one with or without brackets), networks and ports.
"""

from __future__ import annotations

import base64
import ipaddress
import logging
import os
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from gymnast_core.wire.address import Address, ip_of, is_loopback

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy.

    Attributes:
        url: with a scheme; may hold a password, so never shown.
        variable: that names it.
        address: where it listens.
    """

    url: str
    variable: str
    address: Address

    def __str__(self) -> str:
        """For messages."""
        return f"the proxy {self.address} (from {self.variable})"

    def authorisation(self) -> str:
        """The header line of its user and password; empty without."""
        parts = urlsplit(self.url)
        if parts.username is None:
            return ""
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return f"Proxy-Authorization: Basic {base64.b64encode(secret.encode()).decode()}\r\n"


def proxy_for(scheme: str, address: Address) -> Proxy | None:
    """Return the proxy to go through, None to go directly.

    A proxy of another kind than HTTP (socks) is named in the log, and not used.

    Args:
        scheme: https for whatever is encrypted, else http.
        address: to reach.
    """
    if goes_directly(address):
        return None
    for name in (f"{scheme}_proxy", "all_proxy"):
        for variable in (name, name.upper()):
            if value := os.environ.get(variable, "").strip():
                return _read(value, variable)
    return None


def _read(value: str, variable: str) -> Proxy | None:
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        if parts.scheme == "http" and parts.hostname:
            return Proxy(parts.geturl(), variable, Address(parts.hostname, parts.port or 80))
    except ValueError:
        pass
    LOG.warning("proxy_not_used variable=%s: it is no http://HOST:PORT", variable)  # its value may hold a password
    return None


def goes_directly(address: Address) -> bool:
    """Whether no proxy is to be asked for, whatever the environment names: this machine, and what no_proxy covers."""
    if is_loopback(address.host):
        return True
    entries = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    return any(_covers(entry.strip().lower(), address) for entry in entries.split(",") if entry.strip())


def _covers(entry: str, address: Address) -> bool:
    """Whether one entry of no_proxy stands for an address."""
    if entry == "*":
        return True
    name, colon, port = entry.rpartition(":")
    if colon and port.isdigit() and _network(entry) is None:
        return port == str(address.port) and _names(name, address)
    return _names(entry, address)


def _names(entry: str, address: Address) -> bool:
    """Whether a name, domain, address or network stands for a host."""
    host, found, network = address.host.lower().rstrip("."), ip_of(address.host), _network(entry)
    if network is not None:
        return found is not None and found.version == network.version and found in network
    name = entry.removeprefix("*").strip(".")
    return found is None and bool(name) and (host == name or host.endswith(f".{name}"))


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """An address or network; None for anything else."""
    try:
        bare = entry[1:-1] if entry.startswith("[") and entry.endswith("]") else entry
        return ipaddress.ip_network(bare, strict=False)
    except ValueError:
        return None
