"""Who is at a page: tokens, client certificates, sessions. What they may do is gymnast_core.authority's.

A token is shown once and kept only as a digest. A session is kept here, too: its cookie is a random name for it, so
that it ends when its holder logs out, when its token does, and when the certificate behind it is taken back.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from gymnast_core.authority import ROLES, authorise, may
from gymnast_core.episodes.durable import write_durably
from gymnast_core.errors import ConfigError, GymnastError
from gymnast_core.web.guesses import Guesses
from gymnast_core.wire.identity import Peer

SESSION_S = 12 * 3600
_REMEMBERED_NS = 7 * 86_400 * 10**9
"""How long an expired token is distinguished from an unknown one."""
_MOST_TOKENS, _MOST_OF_ONE = 10_000, 100
"""Kept at once, in all and of one holder. Beyond, those that expire first of whoever has most go, so that neither one
holder nor a hundred who work together push out another's."""


class LoginError(GymnastError):
    """Nobody, or nobody any more: log in."""


@dataclass(frozen=True)
class User(Peer):
    """Who acts, whatever proved it.

    Attributes:
        name: as in the token or certificate.
        role: one of gymnast_core.authority.ROLES.
        tenant: whose data is seen.
        serial: of the certificate behind it, if there is one.
        until_ns: when that runs out; 0 where there is none.
    """

    tenant: str = "default"

    def __post_init__(self) -> None:
        """Refuse unknown roles and blank names."""
        if self.role not in ROLES or not self.name.strip():
            raise ConfigError(f"user {self.name!r} with role {self.role!r}: give a name and one of {ROLES}")

    @staticmethod
    def of(peer: Peer) -> User:
        """Return the user a certificate names."""
        return User(peer.name, peer.role, peer.tenant, peer.serial, peer.until_ns)

    def may(self, action: str) -> bool:
        """Whether the role allows it."""
        return may(self, action)

    def require(self, action: str) -> None:
        """Return if the role allows it.

        Raises:
            NotPermittedError: it does not; the message names the roles that may.
        """
        authorise(self, action)


class HolderRow(TypedDict, total=False):
    """What a token or a session stands for; a session names its token."""

    name: str
    role: str
    tenant: str
    serial: str
    token: str
    expires_ns: int


class Gate:
    """Checks tokens and sessions of one site. Threads may share it.

    Args:
        folder: holds tokens.json and sessions.json, readable by their owner alone.
        withdrawn: whether what somebody holds was taken back; asked at every request.
        wall_ns: wall clock.
    """

    def __init__(
        self,
        folder: Path,
        *,
        withdrawn: Callable[[Peer], bool] = lambda peer: False,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "session.key").unlink(missing_ok=True)  # of sessions that were kept in their cookies
        self._withdrawn, self._wall_ns = withdrawn, wall_ns
        self._tokens, self._sessions = _Table(folder / "tokens.json"), _Table(folder / "sessions.json")
        self._guesses = Guesses()

    def issue(self, user: User, *, days: float = 30.0) -> str:
        """Return a new token; it cannot be shown again. It ends with the certificate behind it at the latest."""
        token, now_ns = secrets.token_urlsafe(24), self._wall_ns()
        expires_ns = min(now_ns + round(days * 86_400e9), user.until_ns or 2**63)
        row: HolderRow = {
            "name": user.name, "role": user.role, "tenant": user.tenant, "serial": user.serial,
            "expires_ns": expires_ns,
        }  # fmt: skip
        self._tokens.add(token, row, now_ns - _REMEMBERED_NS)
        return token

    def user_of_token(self, token: str, *, source: str = "") -> User:
        """Return the user a token stands for.

        Args:
            token: as issued.
            source: where it comes from, if anybody may send some: wrong ones are counted there.

        Raises:
            LoginError: it is unknown, expired, or its holder's certificate was taken back.
            TooManyGuessesError: too many unknown ones came from there lately.
        """
        if source:
            self._guesses.check(source)
        row = self._tokens.find(token.strip())
        if row is None:
            if source:
                self._guesses.wrong(source)
            raise LoginError("this token is not known here; copy it again, or ask for a new one")
        return self._holder(row, "this token has expired; ask for a new one")

    def open_session(self, token: str, *, seconds: float = SESSION_S) -> str:
        """Return a cookie value for the holder of a token; the session ends with the token at the latest.

        Raises:
            LoginError: see user_of_token().
        """
        user = self.user_of_token(token)
        cookie, now_ns = secrets.token_urlsafe(24), self._wall_ns()
        row: HolderRow = {
            "name": user.name, "role": user.role, "tenant": user.tenant, "token": _digest(token.strip()),
            "expires_ns": now_ns + round(seconds * 1e9),
        }  # fmt: skip
        self._sessions.add(cookie, row, now_ns - _REMEMBERED_NS)
        return cookie

    def user_of_session(self, cookie: str) -> User:
        """Return the user a cookie stands for.

        Raises:
            LoginError: it was not made here, was logged out, or has expired.
        """
        row = self._sessions.find(cookie)
        token = None if row is None else self._tokens.row(str(row["token"]))
        if row is None or token is None:
            raise LoginError("log in to go on")
        expired = "your session has expired; log in again, nothing was done"
        if self._wall_ns() >= row["expires_ns"]:
            raise LoginError(expired)
        return self._holder(token, expired)

    def close_session(self, cookie: str) -> None:
        """Log out; the cookie is worth nothing from now on."""
        self._sessions.remove(cookie)

    def _holder(self, row: HolderRow, expired: str) -> User:
        user = User(row["name"], row["role"], row["tenant"], row.get("serial", ""))
        if self._wall_ns() >= row["expires_ns"]:
            raise LoginError(expired)
        return self.still(user)

    def still(self, user: User) -> User:
        """Return a user who was let in before.

        Raises:
            LoginError: what let them in was taken back since.
        """
        if self._withdrawn(user):
            raise LoginError(f"what {user.name!r} held was taken back; ask for a new certificate (`gymnast enroll`)")
        return user


class _Table:
    """Digest of a secret -> what it stands for, in a JSON file that is read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp = (0, 0, 0)
        self._rows: dict[str, HolderRow] = {}

    def find(self, secret: str) -> HolderRow | None:
        return self.row(_digest(secret))

    def row(self, digest: str) -> HolderRow | None:
        with self._lock:
            return self._read().get(digest)

    def add(self, secret: str, row: HolderRow, forget_before_ns: int) -> None:
        with self._lock:
            kept = {name: known for name, known in self._read().items() if known["expires_ns"] > forget_before_ns}
            of_each: dict[tuple[str, ...], list[str]] = {_holder(row): []}
            for name, known in sorted(kept.items(), key=lambda item: int(item[1]["expires_ns"]), reverse=True):
                of_each.setdefault(_holder(known), []).append(name)
            if len(own := of_each[_holder(row)]) >= _MOST_OF_ONE:
                kept.pop(own.pop())
            while len(kept) >= _MOST_TOKENS:
                kept.pop(max(of_each.values(), key=len).pop())
            self._write({**kept, _digest(secret): row})

    def remove(self, secret: str) -> None:
        with self._lock:
            rows = dict(self._read())
            if rows.pop(_digest(secret), None) is not None:
                self._write(rows)

    def _read(self) -> dict[str, HolderRow]:
        if not self._path.exists():
            return {}
        status = self._path.stat()
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        if stamp != self._stamp:
            self._rows, self._stamp = dict(json.loads(self._path.read_text())), stamp
        return self._rows

    def _write(self, rows: dict[str, HolderRow]) -> None:
        write_durably(self._path, json.dumps(rows, indent=1).encode(), mode=0o600)


def _holder(row: HolderRow) -> tuple[str, ...]:
    """Whose a row is; sessions of before had no name of their own."""
    return row.get("tenant", ""), row.get("role", ""), row.get("name", "")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
