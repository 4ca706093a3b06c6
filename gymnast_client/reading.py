"""What the trainer sends as JSON, checked before anybody reads it: fields are there as their types declare them.

A newer trainer may send more, which is kept as it came.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from gymnast_core.errors import CorruptError
from gymnast_core.json_values import JsonObject

_T = TypeVar("_T")


def read(kind: type[_T], text: str, what: str) -> _T:
    """Return the JSON object of a message's field, as it came; an empty object where the field is empty.

    Args:
        kind: its type, of gymnast_core.
        text: the field.
        what: to call it in errors.

    Raises:
        CorruptError: it is no JSON object, or a field of it is missing or of another kind; the message names the field.
    """
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"the trainer sent {what} as what is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise CorruptError(f"the trainer sent {what} as {type(value).__name__}, not as a JSON object")
    checked(kind, value, what)
    return cast(_T, value)


def read_object(text: str, what: str) -> JsonObject:
    """Return a JSON object whose fields are not ours to check; raises as read()."""
    return read(JsonObject, text, what)  # type: ignore[type-abstract]  # an alias of Mapping


def checked(kind: object, value: _T, what: str) -> _T:
    """Return a value that is of a type; raises as read()."""
    try:
        _adapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        first, *more = error.errors(include_url=False, include_context=False)
        field = ".".join(map(str, first["loc"]))
        found = f"with {field}={str(first['input'])[:60]!r}" if field else f"as {str(first['input'])[:60]!r}"
        rest = f", and {len(more)} more" if more else ""
        raise CorruptError(
            f"the trainer sent {what} {found}: {first['msg']}{rest}; is its version one that this client knows?"
        ) from error
    return value


@cache
def _adapter(kind: object) -> TypeAdapter[object]:
    return TypeAdapter(kind)  # type: ignore[arg-type]  # a type, which mypy has no name for
