"""Where the files that come with the package are: in a clone, or in share/ of a pip or colcon installation."""

from __future__ import annotations

from pathlib import Path

KINDS = ("policy", "world_model", "judge")
"""Of the shipped checkpoints that a trainer starts with, each a folder of that name."""

BASE_POLICIES = {"tokens": "policy", "flow": "flow_policy"}
"""Folder of the base policy, by what it is made of."""

_CLONE = Path(__file__).resolve().parents[1]
_SHARE = Path("share/gymnast_ros")


def shipped(folder: str) -> Path:
    """Return where a folder of the clone is: checkpoints, config or launch.

    lib/pythonX.Y/site-packages lies beside share/ in a virtual environment, a system and a colcon install folder alike.
    """
    in_clone = _CLONE / folder
    return in_clone if in_clone.is_dir() else Path(__file__).resolve().parents[4] / _SHARE / folder


def shipped_checkpoints() -> Path:
    """Return the folder with policy/, flow_policy/, world_model/ and judge/: where the demo and a trainer start."""
    return shipped("checkpoints")


def settings_file(name: str) -> Path:
    """Return config/NAME of the folder one is in, or where there is none the shipped one."""
    here = Path("config") / name
    return here if here.is_file() else shipped("config") / name
