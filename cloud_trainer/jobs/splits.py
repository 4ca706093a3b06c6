"""Which recorded episode may be used for what: decided by the episode alone, so it never changes as others come in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from gymnast_core.types import Episode

SHARES = {"world_model": 0.5, "judge": 0.25, "thresholds": 0.125, "audit": 0.125}
"""The judge learns from dreams of episodes that the world model never saw; thresholds and audit have their own."""


def name_of(episode: Episode) -> str:
    """Return what tells an episode apart: the seeded start, where there is one, so that a repeated run splits alike."""
    seed, scene = episode.metadata.get("seed"), episode.metadata.get("scene", "")
    if seed is None:
        return episode.episode_id
    return f"{episode.instruction}|{scene}|{seed}|{next(iter(episode.policy_versions), '')}"


def split_of(name: str) -> str:
    """Return the part a name belongs to, by the first 8 bytes of its SHA-256."""
    position = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    for name, share in SHARES.items():
        if position < share:
            return name
        position -= share
    return "audit"


def split(episodes: Sequence[Episode]) -> dict[str, list[Episode]]:
    """Return every part, ordered by name: the order of arrival differs from run to run."""
    parts: dict[str, list[Episode]] = {name: [] for name in SHARES}
    for episode in sorted(episodes, key=name_of):
        parts[split_of(name_of(episode))].append(episode)
    return parts
