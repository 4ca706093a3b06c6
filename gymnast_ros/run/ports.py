"""What a node hands to what it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Log(Protocol):
    """What rclpy's loggers and logging.Logger have in common."""

    def info(self, message: str, /) -> Any:
        """Write an ordinary line."""
        ...

    def warning(self, message: str, /) -> Any:
        """Write a line that somebody should read."""
        ...

    def error(self, message: str, /) -> Any:
        """Write a line about a failure."""
        ...


class Values(Protocol):
    """A node's parameters by name, as they are now."""

    def __getitem__(self, name: str, /) -> Any:
        """The present value."""
        ...


class Publish(Protocol):
    """Sends a JSON object on a topic."""

    def __call__(self, value: Mapping[str, object], /) -> None:
        """Send."""
        ...
