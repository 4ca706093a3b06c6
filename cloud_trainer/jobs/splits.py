"""Which recorded episode may be used for what: decided by its id alone, so it never changes as others come in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from gymnast_core.types import Episode

SHARES = {"world_model": 0.5, "judge": 0.25, "thresholds": 0.125, "audit": 0.125}
"""The judge learns from dreams of episodes that the world model never saw; thresholds and audit have their own."""


def split_of(episode_id: str) -> str:
    """Return the part an episode belongs to, by the first 8 bytes of its id's SHA-256.

    Not by its start state: episodes run one by one all have the same seed, and would fall into one part.
    """
    position = int.from_bytes(hashlib.sha256(episode_id.encode()).digest()[:8], "big") / 2**64
    for name, share in SHARES.items():
        if position < share:
            return name
        position -= share
    return "audit"


def split(episodes: Sequence[Episode]) -> dict[str, list[Episode]]:
    """Return every part, ordered by id: the order of arrival differs from run to run."""
    parts: dict[str, list[Episode]] = {name: [] for name in SHARES}
    for episode in sorted(episodes, key=lambda episode: episode.episode_id):
        parts[split_of(episode.episode_id)].append(episode)
    return parts
