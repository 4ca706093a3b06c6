"""What the command line prints on: words of other people are never markup, and cannot steer the terminal."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from gymnast_core.text import printable


class Terminal(Console):
    """A console where a string is what it says: square brackets, :names: and control characters are shown.

    Colour comes from `style=` or from styled(), never from inside a string.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Every string printed passes here: plain ones, cells, titles and labels."""
        return super().render_str(printable(text), **settings)


def styled(style: str, words: str, rest: str = "") -> Text:
    """Return a line whose first words are in a style."""
    return Text.assemble((printable(words), style), printable(rest))


def spell_out_the_unprintable() -> None:
    """Let standard output write out what its encoding lacks (a terminal that is not UTF-8), instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
