"""Bounds of what others write: JSON that can be stored, sent and parsed again everywhere, text that fits its field."""

from __future__ import annotations

import json
import math
from typing import Any

from gymnast_core.errors import CorruptError

MAX_DEPTH = 32
"""Of JSON values inside one another; what is written here uses a handful."""
_MOST_DIGITS = 40
_PLAIN_DIGITS = 18


def parsed_json(text: str, what: str, most: int) -> Any:
    """Parse a JSON document that anybody may have written.

    Args:
        text: the document.
        what: to call it in errors.
        most: characters it may have.

    Raises:
        CorruptError: longer, not JSON, nested deeper than MAX_DEPTH, or with a value that cannot be passed on: NaN, an
            infinity, a number of more than 40 digits, half of a surrogate pair, a zero byte.
    """
    if len(text) > most:
        raise CorruptError(f"{what} of {len(text)} characters; at most {most} are accepted")
    try:
        value = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_refused)
        if "\\u" in text:
            plain = json.dumps(value, ensure_ascii=False)
            plain.encode()
            if "\\u0000" in plain.replace("\\\\", ""):
                raise CorruptError(f"{what} holds a zero byte, which no database keeps")
    except UnicodeEncodeError as error:
        raise CorruptError(f"{what} holds half of a character: {error.reason}") from error
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{what} is not JSON that can be kept: {error}") from error
    if text.count("[") + text.count("{") > MAX_DEPTH and _deeper(value, MAX_DEPTH):
        raise CorruptError(f"{what} is nested deeper than {MAX_DEPTH}")
    return value


def parsed_object(text: str, what: str, most: int) -> dict[str, Any]:
    """As parsed_json(), for a document that is an object.

    Raises:
        CorruptError: as there, or it is something else.
    """
    value = parsed_json(text, what, most)
    if not isinstance(value, dict):
        raise CorruptError(f"{what} must be a JSON object, got {type(value).__name__}")
    return value


def checked_text(value: object, what: str, most: int) -> str:
    """Return text that fits a field, a database and a page.

    Raises:
        CorruptError: no text, longer than `most` characters, or holding a zero byte or half of a surrogate pair.
    """
    if not isinstance(value, str):
        raise CorruptError(f"{what} must be text, got {type(value).__name__}")
    if len(value) > most:
        raise CorruptError(f"{what} of {len(value)} characters; at most {most} are accepted")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise CorruptError(f"{what} holds a character that is none: {value[:40]!a}")
    return value


def whole_number(text: str) -> int | None:
    """Return a number that is written in plain digits, at most eighteen of them; None for anything else.

    str.isdigit() takes digits that int() does not read, and numbers no database holds.
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _PLAIN_DIGITS else None


def _deeper(value: object, most: int) -> bool:
    """Whether containers lie deeper in one another, found without recursion."""
    level = [value]
    for _ in range(most):
        level = [inner for outer in level if isinstance(outer, (dict, list))
                 for inner in (outer.values() if isinstance(outer, dict) else outer)]  # fmt: skip
    return any(isinstance(inner, (dict, list)) for inner in level)


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:40]} is too large for a number")
    return value


def _refused(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")
