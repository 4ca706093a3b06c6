"""Which proxy a request goes through: http_proxy, https_proxy, all_proxy and no_proxy of the environment."""

from __future__ import annotations

import urllib.parse
import urllib.request

import httpx

from gymnast_core.errors import ConfigError
from gymnast_core.wire.address import Address
from gymnast_core.wire.proxy import goes_directly


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
    if goes_directly(Address(url.hostname or "", url.port or (443 if url.scheme == "https" else 80))):
        return "", ""
    scheme = url.scheme if found.get(url.scheme) else "all"
    proxy = found.get(scheme, "")
    return f"{scheme}_proxy", proxy if "://" in proxy or not proxy else f"http://{proxy}"
