"""Releases of a trainer as its commands read them: whole, verified, and their checkpoints fetched."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gymnast_cli.connect import peer
from gymnast_core.errors import ConfigError

if TYPE_CHECKING:
    from gymnast_client import CheckpointsClient, RobotWord
    from gymnast_core.records.release import Release
    from gymnast_core.records.signing import SignedDocument


def releases_and_words(weights: CheckpointsClient, args: argparse.Namespace) -> tuple[list[Release], list[RobotWord]]:
    """Return every release, oldest first, and what robots said of their checkpoints."""
    found: list[Release] = []
    words: set[RobotWord] = set()
    while True:
        page, said = weights.releases_and_words(found[-1].sequence if found else 0)
        words |= set(said)
        if not page:
            return found, sorted(words, key=lambda word: (word.at_ns, word.robot, word.checkpoint_id))
        found += [verified(document, args) for document in page]


def verified(document: SignedDocument, args: argparse.Namespace) -> Release:
    """Return the release, if a key of our identity signed it; with --insecure nobody vouches for anything."""
    from gymnast_core.records.release import Release

    _, identity = peer(args)
    return Release.from_bytes(document.payload if identity is None else identity.trusted_keys().verify(document))


def fetched(weights: CheckpointsClient, args: argparse.Namespace, checkpoint_id: str, into: Path) -> Release:
    """Download a released checkpoint into a folder, verified; returns its newest release.

    Raises:
        ConfigError: the folder exists, or the trainer released no such checkpoint.
    """
    from gymnast_core.records.manifest import write_checkpoint

    if into.exists():
        raise ConfigError(f"{into} exists; checkpoints are immutable, name a folder that does not")
    found = [one for one in releases_and_words(weights, args)[0] if one.checkpoint_id == checkpoint_id]
    if not found:
        raise ConfigError(f"the trainer offers no {checkpoint_id!r}; see `gymnast weights list`")
    release = found[-1]
    weights_file = weights.fetch(release, into.with_name(f".{into.name}.download"))
    manifest = weights.manifest(release, into.with_name(f".{into.name}.lineage"))
    fields = {name: getattr(manifest, name) for name in ("parents", "action_space", "normalisation", "lineage")}
    write_checkpoint(
        into, weights_file.read_bytes(), kind=manifest.kind, architecture=manifest.architecture,
        config=manifest.config, **fields,
    )  # fmt: skip
    weights_file.unlink()
    return release
