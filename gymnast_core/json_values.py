"""JSON that is carried and not read here: what a robot, a plug-in or a page wrote, on its way to its reader.

What we read has a type of its own, with named fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
JsonObject: TypeAlias = Mapping[str, JsonValue]
