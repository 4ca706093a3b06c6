"""Which proxy a request goes through: http_proxy, https_proxy, all_proxy and no_proxy of the environment."""

from __future__ import annotations

import ipaddress
import urllib.parse
import urllib.request

import httpx

from gymnast_core.errors import ConfigError


def transport_for(base_url: str) -> httpx.AsyncHTTPTransport:
    """Return a transport to one server, through the proxy the environment names for it, if any.

    Raises:
        ConfigError: the proxy cannot be used; names the variable and what it should look like.
    """
    name, proxy = _proxy_for(base_url)
    if not proxy:
        return httpx.AsyncHTTPTransport()
    try:
        return httpx.AsyncHTTPTransport(proxy=proxy)
    except ImportError as error:
        raise ConfigError(
            f"{name} names a SOCKS proxy, {proxy}: pip install socksio where the trainer runs, name an http:// proxy, "
            f"or put the server of {base_url} into no_proxy"
        ) from error
    except (ValueError, httpx.InvalidURL) as error:
        raise ConfigError(f"{name}={proxy!r} is not a proxy ({error}); write http://HOST:PORT, or unset it") from error


def _proxy_for(base_url: str) -> tuple[str, str]:
    """Variable and value of the proxy for a server; ("", "") for none."""
    found = urllib.request.getproxies_environment()
    url = urllib.parse.urlsplit(base_url)
    if _is_near(url.hostname or "") or _bypassed(url.hostname or "", found.get("no", "")):
        return "", ""
    scheme = url.scheme if found.get(url.scheme) else "all"
    proxy = found.get(scheme, "")
    return f"{scheme}_proxy", proxy if "://" in proxy or not proxy else f"http://{proxy}"


def _is_near(host: str) -> bool:
    """This very machine is never reached through a proxy."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bypassed(host: str, no_proxy: str) -> bool:
    """Whether no_proxy covers a host: names and their subdomains, addresses, networks, or * for all."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    for entry in (part.strip() for part in no_proxy.split(",")):
        if entry == "*":
            return True
        if address is None:
            name = entry.lstrip("*").lstrip(".").lower()
            if name and (host.lower() == name or host.lower().endswith(f".{name}")):
                return True
        elif _holds(entry, address):
            return True
    return False


def _holds(entry: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return address in ipaddress.ip_network(entry.replace("[", "").replace("]", ""), strict=False)
    except (ValueError, TypeError):
        return False
