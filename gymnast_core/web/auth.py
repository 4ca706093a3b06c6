"""Who is at a page: tokens, client certificates, sessions, roles.

A token is shown once and kept only as a digest. A session is a signed cookie that expires. A client certificate issued
by the service's own authority carries name, role and tenant, as on the wire.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gymnast_core.errors import ConfigError, GymnastError
from gymnast_core.manifest import canonical_json

ROLES = ("robot", "trainer", "operator", "admin")
SESSION_S = 12 * 3600
_REMEMBERED_NS = 7 * 86_400 * 10**9
"""How long an expired token is told apart from an unknown one."""
MAY: Mapping[str, frozenset[str]] = {
    "look": frozenset({"trainer", "operator", "admin"}),
    "stop": frozenset({"trainer", "operator", "admin"}),
    "re-arm": frozenset({"operator", "admin"}),
    "label": frozenset({"operator", "admin"}),
    "adapt": frozenset({"operator", "admin"}),
    "follow": frozenset({"robot", "trainer", "operator", "admin"}),
    "try": frozenset({"operator", "admin"}),
    "cancel": frozenset({"operator", "admin"}),
    "retract": frozenset({"operator", "admin"}),
    "publish": frozenset({"admin"}),
    "promote": frozenset({"admin"}),
    "roll back": frozenset({"admin"}),
}
"""action -> roles that may do it; anything else is refused."""


class LoginError(GymnastError):
    """Nobody, or nobody any more: log in."""


class ForbiddenError(GymnastError):
    """Somebody, but not with this role."""


@dataclass(frozen=True)
class User:
    """Who acts.

    Attributes:
        name: as in the token or certificate.
        role: one of ROLES.
        tenant: whose data is seen.
    """

    name: str
    role: str
    tenant: str = "default"

    def __post_init__(self) -> None:
        """Refuse unknown roles and blank names."""
        if self.role not in ROLES or not self.name.strip():
            raise ConfigError(f"user {self.name!r} with role {self.role!r}: give a name and one of {ROLES}")

    def may(self, action: str) -> bool:
        """Whether the role allows it."""
        return self.role in MAY.get(action, frozenset())

    def require(self, action: str) -> None:
        """Return if the role allows it.

        Raises:
            ForbiddenError: it does not; the message says who may.
        """
        if not self.may(action):
            allowed = " or ".join(role for role in ROLES if role in MAY.get(action, frozenset()))
            raise ForbiddenError(f"{self.name} ({self.role}) may not {action}; ask an {allowed or 'administrator'}")


class Gate:
    """Checks tokens and sessions of one site.

    Args:
        folder: holds tokens.json and session.key, readable by their owner alone.
        wall_ns: wall clock.
    """

    def __init__(self, folder: Path, *, wall_ns: Callable[[], int] = time.time_ns) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._tokens, self._wall_ns = folder / "tokens.json", wall_ns
        key = folder / "session.key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(secrets.token_bytes(32))
        self._key = key.read_bytes()
        self._issuing = threading.Lock()

    def issue(self, user: User, *, days: float = 30.0) -> str:
        """Return a new token; it cannot be shown again."""
        token, now_ns = secrets.token_urlsafe(24), self._wall_ns()
        with self._issuing:
            known = {name: row for name, row in self._read().items() if row["expires_ns"] > now_ns - _REMEMBERED_NS}
            known[_digest(token)] = {**asdict(user), "expires_ns": now_ns + round(days * 86_400e9)}
            staging = self._tokens.with_suffix(".partial")
            staging.touch(mode=0o600)
            staging.write_text(json.dumps(known, indent=1))
            staging.rename(self._tokens)
        return token

    def user_of_token(self, token: str) -> User:
        """Return who a token stands for.

        Raises:
            LoginError: it is unknown or expired.
        """
        found = self._read().get(_digest(token.strip()))
        if found is None:
            raise LoginError("this token is not known here; copy it again, or ask for a new one")
        expires_ns = found.pop("expires_ns")
        if self._wall_ns() >= expires_ns:
            raise LoginError("this token has expired; ask for a new one")
        return User(**found)

    def open_session(self, user: User, *, seconds: float = SESSION_S) -> str:
        """Return a cookie value."""
        body = canonical_json({**asdict(user), "until_ns": self._wall_ns() + round(seconds * 1e9)})
        return f"{base64.urlsafe_b64encode(body).decode()}.{self._sign(body)}"

    def user_of_session(self, cookie: str) -> User:
        """Return who a cookie stands for.

        Raises:
            LoginError: it was not made here, was changed, or has expired.
        """
        encoded, _, signature = cookie.partition(".")
        try:
            body = base64.urlsafe_b64decode(encoded.encode())
        except (binascii.Error, ValueError) as error:
            raise LoginError("log in to go on") from error
        if not hmac.compare_digest(self._sign(body), signature):
            raise LoginError("log in to go on")
        fields = json.loads(body)
        if self._wall_ns() >= fields.pop("until_ns"):
            raise LoginError("your session has expired; log in again, nothing was done")
        return User(**fields)

    def _sign(self, body: bytes) -> str:
        return hmac.new(self._key, body, hashlib.sha256).hexdigest()

    def _read(self) -> dict[str, dict[str, Any]]:
        return dict(json.loads(self._tokens.read_text())) if self._tokens.exists() else {}


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
