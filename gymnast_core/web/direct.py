"""Asks a site without a socket: the same routes, guards and messages as a browser meets, for a peer that is known."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from gymnast_core.wire.identity import Peer


def ask(app: Any, peer: Peer, method: str, path: str, form: Mapping[str, str]) -> tuple[int, str, bytes]:
    """Return status, content type and body of one request.

    Args:
        app: from Site.app(); the address must not be one that streams for ever.
        peer: as whom, by a certificate that was verified elsewhere.
        method: GET or POST.
        path: of the site, not quoted.
        form: fields of a POST.
    """
    return asyncio.run(_ask(app, peer, method, path, urlencode(dict(form)).encode()))


async def _ask(app: Any, peer: Peer, method: str, path: str, body: bytes) -> tuple[int, str, bytes]:
    over, asked = asyncio.Event(), [{"type": "http.request", "body": body, "more_body": False}]
    head: dict[str, Any] = {"status": 500, "headers": []}
    pieces: list[bytes] = []

    async def receive() -> dict[str, Any]:
        if asked:
            return asked.pop()
        await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            head.update(message)
            return
        pieces.append(bytes(message.get("body", b"")))
        if not message.get("more_body", False):
            over.set()

    headers = {"accept": "application/json", "content-type": "application/x-www-form-urlencoded", "host": "trainer",
               "content-length": str(len(body))}  # fmt: skip
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "https",
        "path": path, "raw_path": quote(path).encode(), "query_string": b"", "root_path": "", "client": None,
        "server": None, "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "gymnast_peer": peer,
    }  # fmt: skip
    await app(scope, receive, send)
    kinds = [value.decode() for name, value in head["headers"] if name == b"content-type"]
    return int(head["status"]), kinds[0] if kinds else "", b"".join(pieces)
