"""Which columns of a LeRobot feature are read, declared by the user or found by their names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cloud_trainer.world_model.capabilities import CAMERA_DIM, ActionKind
from cloud_trainer.world_model.data.source import SchemaError, SourceInfo
from cloud_trainer.world_model.data.units import check_names
from gymnast_core.types import FloatArray

NONE = "none"
"""What a user declares to read a dataset without this feature."""
POSE = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True)
class Columns:
    """Where seven numbers of a frame are found, or six of a moving camera's.

    Attributes:
        feature: key of the dataset.
        indices: into the feature's numbers, in our order.
        names: of these columns; empty when the dataset gives none.
    """

    feature: str
    indices: tuple[int, ...]
    names: tuple[str, ...] = ()

    def of(self, stored_TD: FloatArray) -> FloatArray:
        """(T, 7), or (T, 6), of the (T, D) numbers stored."""
        return stored_TD[:, list(self.indices)]


def choose(
    features: Mapping[str, Any], info: SourceInfo, option: str, default: str, declared: str | None
) -> Columns | None:
    """Return the columns to read; None when the dataset has no such feature, or is declared to have none.

    Args:
        features: of meta/info.json.
        info: of the dataset.
        option: name of the setting, for messages: "state" or "action".
        default: feature that is read when none is declared.
        declared: FEATURE, COLUMNS, FEATURE:COLUMNS or "none"; columns are names or numbers, as in x,y,z or 0-5,7.

    Raises:
        SchemaError: there is no such feature or column, or the width is not 7 and names do not help.
        UnitsError: names contradict the units.
    """
    camera = info.actions is ActionKind.CAMERA
    if declared == NONE or (camera and option == "state"):
        return None
    wanted_names = POSE[:CAMERA_DIM] if camera else POSE
    feature, wanted = _split(declared, features, default)
    if feature not in features:
        if declared is None:
            return None
        numeric = [key for key, found in features.items() if found.get("dtype") not in ("video", "image", "string")]
        raise SchemaError(f"dataset {info.name} has no feature {feature!r} for --{option}; it has {numeric}")
    width, names = _width(features[feature]), _names(features[feature])
    indices = (
        _declared(info, option, wanted, names, width, len(wanted_names))
        if wanted
        else _by_name(names, width, wanted_names)
    )
    if indices is None:
        if not info.actions.has_numbers:
            return None
        raise SchemaError(
            f"dataset {info.name}: {feature} has {width} columns{f' {list(names)}' if names else ''}; "
            f"{len(wanted_names)} are read ({' '.join(wanted_names)}{'' if camera else ', or joints and gripper'}). "
            "Declare them by name or number, as in "
            f"--{option} 0-5,{width - 1}, or {f'--{option} {NONE}' if option == 'state' else '--actions none'}"
        )
    chosen = tuple(names[index] for index in indices) if names else ()
    check_names(info, feature, chosen)
    return Columns(feature, indices, chosen)


def _split(declared: str | None, features: Mapping[str, object], default: str) -> tuple[str, str]:
    """Feature and columns of a declaration."""
    if declared is None:
        return default, ""
    feature, colon, columns = declared.partition(":")
    if colon:
        return feature, columns
    return (declared, "") if declared in features or "." in declared else (default, declared)


def _declared(
    info: SourceInfo, option: str, wanted: str, names: tuple[str, ...], width: int, needed: int
) -> tuple[int, ...]:
    indices: list[int] = []
    for word in (word.strip() for word in wanted.split(",")):
        if word in names:
            indices.append(names.index(word))
        elif match := _RANGE.fullmatch(word):
            indices.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
        else:
            raise SchemaError(f"dataset {info.name}: --{option} {word!r} is none of the columns {list(names) or width}")
    if len(indices) != needed or max(indices) >= width:
        raise SchemaError(
            f"dataset {info.name}: --{option} {wanted} is {len(indices)} columns of 0..{width - 1}; {needed} are needed"
        )
    return tuple(indices)


def _by_name(names: tuple[str, ...], width: int, wanted: tuple[str, ...]) -> tuple[int, ...] | None:
    """Columns called x y z roll pitch yaw gripper, each once; else all when there are as many."""
    short = [re.sub(r"^(d|delta_?)(?=(x|y|z|roll|pitch|yaw)$)", "", n.lower().rpartition(".")[2]) for n in names]
    if all(short.count(name) == 1 for name in wanted):
        return tuple(short.index(name) for name in wanted)
    return tuple(range(width)) if width == len(wanted) else None


def _width(feature: Mapping[str, Any]) -> int:
    return math.prod(int(side) for side in feature.get("shape", ()))


def _names(feature: Mapping[str, object]) -> tuple[str, ...]:
    """Names of the columns, however they are nested; empty when their number is not that of the columns."""
    flat: list[str] = []

    def collect(found: object) -> None:
        if isinstance(found, str):
            flat.append(found)
        elif isinstance(found, (list, tuple)):
            for entry in found:
                collect(entry)
        elif isinstance(found, Mapping):
            for entry in found.values():
                collect(entry)

    collect(feature.get("names"))
    return tuple(flat) if len(flat) == _width(feature) else ()


def gripper_bounds(statistics: Mapping[str, object], columns: Columns) -> tuple[float, float] | None:
    """Least and largest gripper of meta/stats.json; None when it does not say."""
    found = statistics.get(columns.feature)
    if not isinstance(found, Mapping):
        return None
    bounds = []
    for name in ("min", "max"):
        values = np.asarray(found.get(name, ()), np.float64).ravel()
        if len(values) <= columns.indices[6] or not np.isfinite(values[columns.indices[6]]):
            return None
        bounds.append(float(values[columns.indices[6]]))
    return bounds[0], bounds[1]
