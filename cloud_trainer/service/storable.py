"""Text that every store can keep: PostgreSQL takes no zero byte, and a path ends at one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from gymnast_core.wire.errors import InvalidMessageError

_Request = TypeVar("_Request")


def storable(request: _Request) -> _Request:
    """Return a message whose text can be stored.

    Raises:
        InvalidMessageError: a field of text holds a zero byte; the message names it.
    """
    if isinstance(request, Message) and (name := _with_zero_byte(request)):
        raise InvalidMessageError(f"{name} holds a zero byte, which no database keeps; leave it out")
    return request


def _with_zero_byte(message: Message) -> str:
    """The name of the first such field, also inside others; empty where there is none."""
    for field, value in message.ListFields():
        if field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE):
            continue
        for part in _parts(value):
            if isinstance(part, str) and "\0" in part:
                return str(field.name)
            if isinstance(part, Message) and (name := _with_zero_byte(part)):
                return name
    return ""


def _parts(value: object) -> Iterable[object]:
    """A value, the values of a list, or keys and values of a map."""
    if isinstance(value, (str, Message)):
        return (value,)
    if hasattr(value, "items"):
        return (part for pair in value.items() for part in pair)
    return value if isinstance(value, Iterable) else ()
