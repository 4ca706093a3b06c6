"""Looks over a robot's folder: what waits, what the trainer would not have, what is no episode; and its sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gymnast_core.episodes.spool import Spool
from gymnast_core.errors import ConfigError
from gymnast_core.finding import Finding
from gymnast_ros.sockets import examine_sockets

NAMED = 5


def examine_robot(folder: Path) -> Iterator[Finding]:
    """Look over a robot's folder, beside a running robot or without one; nothing is changed.

    Raises:
        ConfigError: it is no robot's.
    """
    if not (folder / "spool" / "pending").is_dir():
        raise ConfigError(f"{folder} is no robot's folder, it has no spool; name that of `gymnast up --folder`")
    spool = Spool(folder / "spool")
    usage, strays, refused = spool.usage(), spool.strays(), spool.refused()
    yield Finding(
        "spool", "warning" if usage.full else "ok",
        f"{usage.entries} episodes of {usage.bytes} bytes wait for the trainer, {usage.free_bytes} bytes are free",
        "connect the trainer or free space" if usage.full else "",
    )  # fmt: skip
    if strays:
        what = f"{len(strays)} in {strays[0].parent} are no episodes and are never sent: {_named(strays)}"
        remedy = "move them away; an episode's file belongs into recording/ beside it, as <episode id>.mcap"
        yield Finding("spool", "warning", what, remedy)
    if refused:
        yield Finding(
            "spool", "warning", f"the trainer refused {len(refused)} episodes: {_named(refused)}",
            f"read the reasons beside them (*.reason) in {refused[0].parent}",
        )  # fmt: skip
    if (sockets := examine_sockets()) is not None:
        yield sockets


def _named(paths: list[Path]) -> str:
    names = ", ".join(repr(path.name[:80]) for path in paths[:NAMED])
    return names + (", ..." if len(paths) > NAMED else "")
