"""Docstrings are about this code: the arguments, attributes and errors that they describe exist."""

from __future__ import annotations

import ast
import builtins
import functools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("gymnast_core", "gymnast_client", "gymnast_ros", "cloud_trainer", "gymnast_cli")
FILES = [path for top in PACKAGES for path in (ROOT / top).rglob("*.py") if "wire/gymnast" not in path.as_posix()]
Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def defined_in(body: list[ast.stmt]) -> Iterator[Documented]:
    """Functions and classes, and those in classes."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node
        if isinstance(node, ast.ClassDef):
            yield from defined_in(node.body)


@functools.cache
def documented() -> list[tuple[str, Documented, str]]:
    """Where, what, and its docstring."""
    found = [(path, node) for path in FILES for node in defined_in(ast.parse(path.read_text()).body)]
    named = [(f"{path.relative_to(ROOT)}:{node.name}", node, ast.get_docstring(node) or "") for path, node in found]
    return [row for row in named if row[2]]


def described(docstring: str, section: str) -> list[str]:
    """The names that a section describes, at its own indentation."""
    lines = docstring.partition(f"\n{section}:\n")[2].split("\n\n")[0].splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip()) if lines else 0
    heads = [re.match(" " * indent + r"(\*{0,2}\w+(?:, \*{0,2}\w+)*): ", line) for line in lines]
    return [name.strip(" *") for head in heads if head for name in head[1].split(",")]


def arguments(node: Documented) -> set[str] | None:
    """The names of a function's arguments, or of a class's constructor; None where that is generated."""
    if isinstance(node, ast.ClassDef):
        made = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
        return arguments(made[0]) if made else None
    given = node.args
    starred = [one for one in (given.vararg, given.kwarg) if one]
    return {one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, *starred)}


def test_a_described_argument_is_one() -> None:
    rows = [(where, described(text, "Args"), arguments(node)) for where, node, text in documented()]
    assert sum(len(names) for _, names, _ in rows) > 1000
    assert {where: sorted(set(names) - known) for where, names, known in rows if known and set(names) - known} == {}


def test_a_described_attribute_stands_in_its_class() -> None:
    rows = [(where, names, node) for where, node, text in documented() if (names := described(text, "Attributes"))]
    assert sum(len(names) for _, names, _ in rows) > 500
    code = {where: "\n".join(map(ast.unparse, node.body[1:])) for where, _, node in rows}
    lost = {where: [name for name in names if not re.search(rf"\b{name}\b", code[where])] for where, names, _ in rows}
    assert {where: names for where, names in lost.items() if names} == {}


def test_a_named_error_is_defined() -> None:
    defined = {name for path in FILES for name in re.findall(r"^class (\w+)", path.read_text(), re.M)} | set(
        dir(builtins)
    )
    rows = {where: set(re.findall(r"(?<![.\w])[A-Z]\w*Error\b", text)) - defined for where, _, text in documented()}
    assert {where: names for where, names in rows.items() if names} == {}
