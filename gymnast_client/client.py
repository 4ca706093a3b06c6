"""What every part of the client is: a link, and the calls of one service over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import grpc
from google.protobuf.message import Message

from gymnast_client.link import Link
from gymnast_core.errors import ConfigError

_Self = TypeVar("_Self", bound="Client")
_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")
_Row = TypeVar("_Row")
_Kind = TypeVar("_Kind", bound=Message)
_Fields = ParamSpec("_Fields")


class Client:
    """Calls over a link that it does not own alone.

    Args:
        link: to the trainer.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    def close(self) -> None:
        """Hang up; a later call connects again."""
        self._link.close()

    def __enter__(self: _Self) -> _Self:
        """Use as a context."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hang up."""
        self.close()

    def _rows(
        self,
        ask: Callable[[grpc.Channel], grpc.UnaryUnaryMultiCallable[_Request, _Reply]],
        request: Callable[[str], _Request],
        rows: Callable[[_Reply], Sequence[_Row]],
        key: Callable[[_Row], str],
    ) -> Iterator[_Row]:
        """Yield the rows of a list that is asked for page by page, until one is empty.

        Args:
            ask: the method, of a channel.
            request: makes its message from the key of the last row of the page before.
            rows: of a reply.
            key: what a row is known by.
        """
        after = ""
        while page := rows(self._link.call(ask, request(after))):
            yield from page
            after = key(page[-1])


def message(kind: Callable[_Fields, _Kind], *values: _Fields.args, **fields: _Fields.kwargs) -> _Kind:
    """Return a message of a kind.

    Raises:
        ConfigError: a value does not fit its field.
    """
    try:
        return kind(*values, **fields)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"a value does not fit into what is asked: {error}") from error


def same_fields(message: Message, names: Sequence[str]) -> dict[str, Any]:
    """Return fields of a message that a view has under the same names; repeated ones as tuples."""
    found = {name: getattr(message, name) for name in names}
    return {
        name: value if isinstance(value, (str, int, float, bytes)) else tuple(value) for name, value in found.items()
    }
