"""What every part of the client is: a link, and the calls of one service over it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

from gymnast_client.link import Link
from gymnast_core.errors import ConfigError

_Self = TypeVar("_Self", bound="Client")
_Message = TypeVar("_Message")


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

    def _rows(self, ask: Callable[[Any], Any], request: Callable[..., Any], rows: str, key: str) -> Iterator[Any]:
        """Yield the rows of a list that is asked for page by page, until one is empty.

        Args:
            ask: the method, of a channel.
            request: kind of its message; `after` is the key of the last row of the page before.
            rows: name of the reply's rows.
            key: name of what a row is known by.
        """
        after = ""
        while page := getattr(self._link.call(ask, request(after=after)), rows):
            yield from page
            after = getattr(page[-1], key)


def message(kind: Callable[..., _Message], **fields: Any) -> _Message:
    """Return a message of a kind.

    Raises:
        ConfigError: a value does not fit its field.
    """
    try:
        return kind(**fields)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"a value does not fit into what is asked: {error}") from error


def same_fields(message: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return fields of a message that a view has under the same names; repeated ones as tuples."""
    found = {name: getattr(message, name) for name in names}
    return {
        name: value if isinstance(value, (str, int, float, bytes)) else tuple(value) for name, value in found.items()
    }


def json_object(text: str) -> dict[str, Any]:
    """Return a field that holds a JSON object; an empty one where it is empty."""
    return dict(json.loads(text or "{}"))
