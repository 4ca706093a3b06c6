"""The order in which a trial's two checkpoints run: drawn from a secret, and checked by anyone once that is out."""

from __future__ import annotations

import hashlib
import hmac


def commitment_of(secret: bytes) -> str:
    """Return the hash that binds a trial to its order without revealing it."""
    return hashlib.sha256(b"gymnast trial order\0" + secret).hexdigest()


def candidate_first(secret: bytes, pair: int, attempt: int) -> bool:
    """Return whether the candidate runs first in this pair; anyone can check it once the secret is out."""
    digest = hmac.new(secret, f"{pair}/{attempt}".encode(), hashlib.sha256).digest()
    return bool(digest[0] & 1)
