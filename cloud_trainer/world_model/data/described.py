"""From the description of a dataset (in run.json, or of a command's flags) to its reader."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from cloud_trainer.world_model.data.bridge_raw import BridgeRawSource
from cloud_trainer.world_model.data.files import below
from cloud_trainer.world_model.data.lerobot import LeRobotSource
from cloud_trainer.world_model.data.mcap import McapSource
from cloud_trainer.world_model.data.source import ActionKind, EpisodeSource, Origin, SourceInfo
from cloud_trainer.world_model.data.worldgym import MEASURED_LAG, WorldGymSource
from gymnast_core.errors import ConfigError
from gymnast_core.extensions import DATASETS, extension, installed

KINDS = ("mcap", "worldgym", "bridge_raw", "lerobot")
SETTINGS = (
    "kind", "folder", "name", "size", "actions", "origin", "lag", "robot", "camera", "state", "action", "skip_broken",
    "lag_tolerance",
)  # fmt: skip
_Choice = TypeVar("_Choice", bound=enum.Enum)


def build_source(described: Mapping[str, Any]) -> EpisodeSource:
    """Return the reader a JSON description names.

    Raises:
        ConfigError: a setting is unknown, or not one this kind of dataset has.
    """
    kind, folder = described.get("kind"), Path(described.get("folder", ""))
    others = installed(DATASETS)
    if kind not in (*KINDS, *others):
        raise ConfigError(f"data kind {kind!r} is not one of {(*KINDS, *others)}")
    if not described.get("folder") or not folder.is_dir():
        raise ConfigError(f'dataset {described.get("folder", "")!r}: its "folder" must name an existing folder')
    name, size, camera = str(described.get("name", folder.name)), described.get("size"), described.get("camera")
    _require_known(described, name, str(kind))
    info = SourceInfo(
        name,
        one_of(ActionKind, described.get("actions", ActionKind.EE_DELTA.value), f"dataset {name}: actions"),
        one_of(Origin, described.get("origin", Origin.EXPERT.value), f"dataset {name}: origin"),
        int(described.get("lag", MEASURED_LAG if kind == "worldgym" else 0)),
        str(described.get("robot", "wx250s")),
    )
    if kind in others:
        source: EpisodeSource = extension(DATASETS, str(kind))(folder, info, size)
        return source
    if kind == "mcap":
        return McapSource(info, below(folder, ".mcap"), None if camera is None else [str(camera)], size)
    if kind == "worldgym":
        return WorldGymSource(folder, info, size=size)
    if kind == "bridge_raw":
        return BridgeRawSource(folder, info, _camera_number(camera, name), size, lag_by_date="lag" not in described)
    return LeRobotSource(folder, info, camera, size, described.get("state"), described.get("action"))


def one_of(kind: type[_Choice], value: Any, where: str) -> _Choice:
    """Return the member of an enumeration that a description names.

    Raises:
        ConfigError: lists what there is.
    """
    try:
        return kind(value)
    except ValueError:
        raise ConfigError(f"{where} {value!r} is not one of {[entry.value for entry in kind]}") from None


def _require_known(described: Mapping[str, Any], name: str, kind: str) -> None:
    if unknown := sorted(set(described) - set(SETTINGS)):
        raise ConfigError(f"dataset {name} has no setting {unknown}; there are {list(SETTINGS)}")
    foreign = [key for key in ("state", "action") if described.get(key) is not None and kind != "lerobot"]
    foreign += ["camera"] if described.get("camera") is not None and kind in ("worldgym", *installed(DATASETS)) else []
    if foreign:
        raise ConfigError(f"dataset {name}: {foreign} mean nothing for data of kind {kind}")


def _camera_number(camera: Any, name: str) -> int:
    """1 of 1, "1" or "images1"."""
    digits = str(0 if camera is None else camera).removeprefix("images")
    if not digits.isdecimal():
        raise ConfigError(f"dataset {name}: camera {camera!r} is not a number N of BridgeData's folders images<N>")
    return int(digits)
