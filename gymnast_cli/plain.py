"""Values of a program as a person reads them: no braces, no quotes, no sixteen digits. `--json` is for machines."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gymnast_core.text import one_line

if TYPE_CHECKING:
    from rich.tree import Tree

MOST_ITEMS = 12
"""Of a list or a mapping that stands in one line."""
MOST_DEEP = 4
"""Levels of a value that are spelled out."""
MOST_CHARACTERS = 300
"""Of one text."""


def plain(value: object, *, deep: int = 0) -> str:
    """Return a JSON value in words, on one line: 'yes', '0.783', 'policy (15 times)', 'lift 0.5, push 0.25'."""
    if value is None or value in ("", [], {}, ()):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, (Mapping, list, tuple)):
        if deep >= MOST_DEEP:
            return f"{len(value)} values"
        parts = list(_entries(value, deep + 1) if isinstance(value, Mapping) else _runs(value, deep + 1))
        more = [f"and {len(parts) - MOST_ITEMS} more"] if len(parts) > MOST_ITEMS else []
        text = ", ".join([*parts[:MOST_ITEMS], *more])
        return f"({text})" if deep and isinstance(value, Mapping) else text
    text = one_line(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."


def branches(tree: Tree, values: Mapping[str, Any], *, deep: int = 0) -> None:
    """Add a mapping to a tree: a line for what is single, a branch for each mapping in it."""
    single = {name: value for name, value in values.items() if not (isinstance(value, Mapping) and value)}
    if single:
        tree.add(", ".join(_entries(single, MOST_DEEP - 1)))
    for name, value in values.items():
        if name not in single and deep < MOST_DEEP:
            branches(tree.add(one_line(name)), value, deep=deep + 1)


def _entries(values: Mapping[str, object], deep: int) -> Iterator[str]:
    return (f"{one_line(name)} {plain(value, deep=deep)}" for name, value in values.items())


def _runs(values: Sequence[Any], deep: int) -> Iterator[str]:
    """What comes several times in a row is counted."""
    for text, same in itertools.groupby(plain(value, deep=deep) for value in values):
        count = sum(1 for _ in same)
        yield f"{text} ({count} times)" if count > 1 else text


def _number(value: float) -> str:
    if math.isnan(value):
        return "not defined"
    if value and abs(value) < 0.001:
        return f"{value:.2g}"
    return f"{value:.3f}".rstrip("0").rstrip(".")
