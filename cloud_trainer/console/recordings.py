"""An episode's file over HTTP: for whoever is logged in, and for a viewer that a link of theirs opens.

A viewer has no session. The link holds a ticket instead: for one recording, one person, a few minutes, signed with a
key that lives as long as the page. It goes to the program on the reader's own machine, not to a web site.

Source:
    Foxglove's documentation, "Shareable links" (foxglove://open?ds=...&ds.url=...) and "Live data": a remote file is
    served with CORS and ranges.
"""

import hmac
import json
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import Annotated
from urllib.parse import quote, urlencode

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import FileResponse, RedirectResponse

from cloud_trainer.console.sources import Sources
from gymnast_core.errors import NotPossibleError
from gymnast_core.web.auth import LoginError, User
from gymnast_core.web.site import Site

TICKET_S = 600
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "Range",
    "Access-Control-Expose-Headers": "Accept-Ranges, Content-Length, Content-Range, ETag",
    "Access-Control-Allow-Private-Network": "true",
}
"""Any site's script may read what it has a ticket of: that says more than an origin does."""


class Tickets:
    """Makes and reads tickets.

    Args:
        wall_s: wall clock.
    """

    def __init__(self, wall_s: Callable[[], float] = time.time) -> None:
        self._key, self._wall_s = secrets.token_bytes(32), wall_s

    def issue(self, user: User, episode_id: str) -> str:
        """Return a ticket for one recording, as the user sees it."""
        said = [user.name, user.role, user.tenant, user.serial, episode_id, int(self._wall_s()) + TICKET_S]
        body = urlsafe_b64encode(json.dumps(said).encode()).decode()
        return f"{body}.{self._seal(body)}"

    def user(self, ticket: str, episode_id: str) -> User:
        """Return the user whose ticket it is.

        Raises:
            LoginError: it is none of this page, for another recording, or too old.
        """
        body, _, seal = ticket.partition(".")
        if not hmac.compare_digest(seal.encode(), self._seal(body).encode()):
            raise LoginError("this link is none of this page; open the recording from its page again")
        name, role, tenant, serial, named, until_s = json.loads(urlsafe_b64decode(body))
        if named != episode_id or self._wall_s() > until_s:
            raise LoginError(f"this link was for another recording, or is older than {TICKET_S // 60} minutes")
        return User(name, role, tenant, serial)

    def _seal(self, body: str) -> str:
        return hmac.digest(self._key, body.encode(), "sha256").hex()


def add_recordings(app: FastAPI, site: Site, sources: Sources) -> None:
    """Add the file of an episode, and the link that opens it in Foxglove."""
    tickets = Tickets()
    address = "/episodes/{episode_id}/recording.mcap"

    def recording(request: Request, episode_id: str, ticket: str = "") -> Response:
        user = site.gate.still(tickets.user(ticket, episode_id)) if ticket else site.user_of(request)
        user.require("look")
        row = sources.ask.episodes.find(user, episode_id)
        if not row.digest:
            raise NotPossibleError(f"{episode_id} is a run of a trial that is not decided; its file names its policy")
        path = sources.ask.episodes.files(user).recording(row)
        return FileResponse(
            path, media_type="application/x-mcap", filename=f"{episode_id}.mcap", headers=_CORS if ticket else {}
        )

    app.get(address)(recording)
    app.head(address)(recording)

    def preflight(episode_id: str) -> Response:
        return Response(status_code=204, headers={**_CORS, "Access-Control-Allow-Methods": "GET, HEAD"})

    app.options(address)(preflight)

    @app.get("/episodes/{episode_id}/foxglove")
    def foxglove(request: Request, episode_id: str, user: Annotated[User, Depends(site.user_of)]) -> Response:
        user.require("look")
        sources.ask.episodes.find(user, episode_id)
        there = f"{str(request.base_url).rstrip('/')}/episodes/{quote(episode_id, safe='')}/recording.mcap"
        url = f"{there}?ticket={tickets.issue(user, episode_id)}"
        return RedirectResponse(f"foxglove://open?{urlencode({'ds': 'remote-file', 'ds.url': url})}", 303)
