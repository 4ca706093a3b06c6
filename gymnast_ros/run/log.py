"""The log that a node hands to what it runs: its own ROS logger, or any of Python's."""

from __future__ import annotations

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
