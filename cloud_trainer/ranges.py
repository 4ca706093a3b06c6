"""What a setting may be: one table per settings class, one message that names value and remedy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from gymnast_core.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """Numbers that a setting may have.

    Attributes:
        low: the least.
        high: the most.
        whole: whether it counts something.
        above: whether it must be above `low`.
        optional: whether None, for none, is one of them.
    """

    low: float
    high: float = math.inf
    whole: bool = False
    above: bool = False
    optional: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them."""
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        finite = isinstance(value, int) or math.isfinite(value)  # a whole number may be too large for a float
        return finite and self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        """In words."""
        what = "a whole number" if self.whole else "a number"
        least = f"above {self.low:,}" if self.above else f"of at least {self.low:,}"
        most = "" if math.isinf(self.high) else f" and at most {self.high:,}"
        return f"{what} {least}{most}{', or none' if self.optional else ''}"


MOST = 1_000_000
"""Of anything that is counted: iterations, rounds, episodes, rows. A job that needs more is a slip of the keyboard."""
COUNT = Range(1, MOST, whole=True)
COUNT_OR_ZERO = Range(0, MOST, whole=True)
SEED = Range(0, 2**63 - 1, whole=True)
POSITIVE = Range(0, above=True)
NOT_NEGATIVE = Range(0)
SHARE = Range(0, 1)


def check_ranges(settings: Any, ranges: Mapping[str, Range], where: str) -> None:
    """Refuse settings out of their ranges, and flags that are neither true nor false.

    Args:
        settings: a dataclass with defaults.
        ranges: by field.
        where: what the settings are of, for the message.

    Raises:
        ConfigError: names the first one, its value, what is allowed and the default.
    """
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        allowed = ranges.get(entry.name)
        flag = allowed is None and isinstance(entry.default, bool)
        if (allowed is not None and not allowed.holds(value)) or (flag and not isinstance(value, bool)):
            raise ConfigError(
                f"{where}: {entry.name} must be {'true or false' if flag else allowed}, got {value!r}; "
                f"the default is {entry.default!r}"
            )
