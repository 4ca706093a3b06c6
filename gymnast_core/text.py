"""Words of other people, made safe to print: no control character reaches a terminal or a log."""

from __future__ import annotations

import re
import unicodedata

_DIGEST = re.compile(r"[0-9a-f]{64}")
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that make what follows run the other way, so that a line reads as another one."""


def printable(text: str, *, lines: bool = True) -> str:
    r"""Return the text with every control character, direction mark and lone surrogate written out, as in \x1b.

    Args:
        text: anybody's words; letters of every script stay as they are.
        lines: keep line breaks and tabs; else they are written out too, so that the text stays one line.
    """
    if text.isascii() and text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(char if char in kept or not _hidden(char) else _written_out(char) for char in text)


def is_digest(text: str) -> bool:
    """Whether a text is a SHA-256 or BLAKE3 as both are written here: 64 lower-case hex digits, safe as a file name."""
    return _DIGEST.fullmatch(text) is not None


def one_line(text: object) -> str:
    """Return a value as one line that is safe to print."""
    return printable(str(text), lines=False)


def table_cell(value: object) -> str:
    """Return a value as one line that stays in its cell of a Markdown table and is no markup there."""
    return one_line(value).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def _hidden(char: str) -> bool:
    return char in _BIDI or unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")


def _written_out(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
