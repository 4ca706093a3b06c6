"""Turns what a crash left behind into readable episodes marked as truncated."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from gymnast_core.episodes import encoding, messages
from gymnast_core.episodes.durable import PARTIAL_SUFFIX, move_durably
from gymnast_core.episodes.messages import EpisodeEnd, EpisodeHeader
from gymnast_core.episodes.reader import iterate_messages
from gymnast_core.episodes.writer import EPISODE_SUFFIX, EpisodeWriter
from gymnast_core.errors import CorruptError

UNREADABLE_FOLDER = "unreadable"
_REBUILD_FOLDER = ".rebuild"


def recover(folder: Path, *, reason: str = "crash") -> list[Path]:
    """Finish every partial episode in a folder whose writer is gone.

    A partial file that has not even a header is moved to <folder>/unreadable, never deleted.

    Args:
        folder: a recorder's folder.
        reason: truncated_reason of the recovered episodes.

    Returns:
        The recovered files.
    """
    recovered = []
    for partial in sorted(folder.glob(f"*{EPISODE_SUFFIX}{PARTIAL_SUFFIX}")):
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            target = _rebuild(partial, reason)
        except BlockingIOError:
            continue  # somebody is still recording it
        finally:
            os.close(descriptor)
        if target is not None:
            recovered.append(target)
    return recovered


def _rebuild(partial: Path, reason: str) -> Path | None:
    """Copy the readable messages into a finished file; the partial one goes only when that is durable."""
    target = partial.with_name(partial.name.removesuffix(PARTIAL_SUFFIX))
    if target.exists():  # a crash after the rebuild, before the partial file went
        partial.unlink()
        return target
    found = list(iterate_messages(partial, until_cut=True))
    try:
        if not found or found[0][0] != messages.HEADER_TOPIC:
            raise CorruptError("it does not start with a header")
        header = EpisodeHeader.from_json(encoding.decode_string(found[0][2]))
    except CorruptError:
        unreadable = partial.parent / UNREADABLE_FOLDER
        unreadable.mkdir(exist_ok=True)
        move_durably(partial, unreadable / partial.name)
        return None
    staging = partial.parent / _REBUILD_FOLDER
    for stale in staging.glob(f"{header.episode_id}{EPISODE_SUFFIX}*"):
        stale.unlink()
    writer = EpisodeWriter(staging, header)
    try:
        for topic, stamp_ns, data in found:
            if topic != messages.OUTCOME_TOPIC:
                writer.add(topic, stamp_ns, data)
        rebuilt = writer.finish(EpisodeEnd(truncated_reason=reason))
    finally:
        writer.close()
    move_durably(rebuilt, target)
    partial.unlink()
    return target
