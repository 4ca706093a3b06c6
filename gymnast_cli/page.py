"""The operator's page for commands: the same addresses and actions as in a browser, answered as JSON."""

from __future__ import annotations

import argparse
import http.client
import json
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from gymnast_cli.connect import peer
from gymnast_core.errors import ConfigError, GymnastError, TransientBridgeError

TIMEOUT_S = 60.0


class PageClient:
    """One login at a trainer's page.

    Args:
        address: of the page, http:// or https://.
        token: from `gymnast console`.
        authority: PEM of who signed the trainer's certificate; needed for https.
    """

    def __init__(self, address: str, token: str, authority: bytes | None = None) -> None:
        self._address, self._url, self._token = address, urlsplit(address), token
        self._context = ssl.create_default_context(cadata=authority.decode()) if authority else None

    def get(self, path: str) -> dict[str, Any]:
        """Read what a page shows.

        Raises:
            TransientBridgeError: the page is not reached.
            GymnastError: it refuses; the message is the page's own.
        """
        return self._ask("GET", path, None)

    def post(self, path: str, values: Mapping[str, str]) -> dict[str, Any]:
        """Do what a form of the page does; returns {said, go}.

        Raises:
            TransientBridgeError: the page is not reached.
            GymnastError: it refuses; the message is the page's own.
        """
        return self._ask("POST", path, urlencode(values))

    def _ask(self, method: str, path: str, body: str | None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection = self._connection()
        try:
            connection.request(method, quote(path), body, headers)
            reply = connection.getresponse()
            status, text = reply.status, reply.read()
        except OSError as error:
            raise TransientBridgeError(
                f"the page at {self._address} is not reached ({error}); a page on the trainer's own machine needs "
                "`ssh -L`, see `gymnast console`"
            ) from error
        finally:
            connection.close()
        try:
            answer = dict(json.loads(text))
        except ValueError as error:
            raise GymnastError(f"the page answered {path} with status {status} and no JSON") from error
        if status == 422:
            raise ConfigError(str(answer.get("error") or answer))
        if status >= 400:
            raise GymnastError(str(answer.get("error") or answer))
        return answer

    def _connection(self) -> http.client.HTTPConnection:
        host = self._url.hostname or ""
        if self._url.scheme == "https":
            return http.client.HTTPSConnection(host, self._url.port, timeout=TIMEOUT_S, context=self._context)
        return http.client.HTTPConnection(host, self._url.port, timeout=TIMEOUT_S)


def page_of(args: argparse.Namespace) -> PageClient:
    """Log in with the certificate that the flags name.

    Raises:
        ConfigError: no address or identity.
        GymnastError: this trainer serves no page.
    """
    from gymnast_ros.uplink import ConsoleClient

    address, identity = peer(args)
    with ConsoleClient(address, identity, insecure=args.insecure) as client:
        login = client.log_in()
    return PageClient(login.address, login.token, identity.authority if identity else None)
