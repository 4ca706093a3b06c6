"""The secret a client proves itself with: one line in a file, so that it stands in no list of processes."""

from __future__ import annotations

import hmac
from pathlib import Path

from gymnast_core.errors import ConfigError

LEAST = 24
"""Characters: nobody guesses one of so many."""
API_KEY, BEARER = "Api-Key", "Bearer"
"""Schemes of the Authorization header: openpi's clients name the first, everybody else the second (RFC 6750)."""


def read_token(path: Path) -> str:
    """Return the token in a file.

    Raises:
        ConfigError: it cannot be read, or what it holds is none.
    """
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"the token file {path} cannot be read: {error}") from error
    if not LEAST <= len(token) <= 256 or not token.isprintable() or " " in token:
        raise ConfigError(
            f"the token in {path} must be one word of {LEAST} to 256 characters; make one with: "
            f"python3 -c 'import secrets; print(secrets.token_urlsafe(32))' > {path}"
        )
    return token


def header(token: str, scheme: str = API_KEY) -> str:
    """Return the value of the Authorization header."""
    return f"{scheme} {token}"


def proven(authorization: str, token: str, scheme: str = API_KEY) -> bool:
    """Whether a header's value shows the token; takes as long for any wrong one."""
    return hmac.compare_digest(authorization.encode(errors="surrogateescape"), header(token, scheme).encode())
