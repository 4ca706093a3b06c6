"""Where the files that come with the package are: in a clone, or in share/ of a pip or colcon installation."""

from __future__ import annotations

from pathlib import Path

KINDS = ("policy", "world_model", "judge")
"""Of the shipped checkpoints, each a folder of that name."""

_CLONE = Path(__file__).resolve().parents[1]
_SHARE = Path("share/gymnast_ros")


def shipped_checkpoints() -> Path:
    """Return the folder with policy/, world_model/ and judge/: the base of the demo, and what a trainer starts from.

    lib/pythonX.Y/site-packages lies beside share/ in a virtual environment, a system and a colcon install folder alike.
    """
    in_clone = _CLONE / "checkpoints"
    return in_clone if in_clone.is_dir() else Path(__file__).resolve().parents[4] / _SHARE / "checkpoints"
