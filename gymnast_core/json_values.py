"""JSON that is carried and not read here: what a robot, a plug-in or a page wrote, on its way to its reader.

What we read has a type of its own, with named fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from typing_extensions import TypeAliasType

from gymnast_core.errors import CorruptError

JsonValue = TypeAliasType(
    "JsonValue", "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
)
JsonObject = Mapping[str, JsonValue]


def texts(value: JsonValue) -> list[str]:
    """Return a list of texts.

    Raises:
        CorruptError: it is something else.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise CorruptError(f"expected a list of texts, got {str(value)[:80]!r}")
    found = [item for item in value if isinstance(item, str)]
    if len(found) < len(value):
        raise CorruptError(f"expected texts in a list, got {str(value)[:80]!r}")
    return found


def whole(value: JsonValue) -> int:
    """Return a whole number.

    Raises:
        CorruptError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise CorruptError(f"expected a whole number, got {str(value)[:80]!r}")
    return value


def number(value: JsonValue) -> float:
    """Return a number.

    Raises:
        CorruptError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CorruptError(f"expected a number, got {str(value)[:80]!r}")
    return float(value)


def json_object(value: JsonValue) -> JsonObject:
    """Return an object.

    Raises:
        CorruptError: it is something else.
    """
    if not isinstance(value, Mapping):
        raise CorruptError(f"expected an object, got {str(value)[:80]!r}")
    return value
