"""The documentation is about this code: its messages exist, its commands parse, its pages are reachable."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.installing import install
from gymnast_cli.main import COMMANDS, parser_for
from gymnast_core.jobs.registry import KINDS
from gymnast_core.loop_config import CanaryRule, LoopConfig, StopRule
from tests.test_packaging import check_gymnast, check_make, check_pip, check_ray
from tools import docs_hooks

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGES = ("gymnast_core", "gymnast_ros", "cloud_trainer", "gymnast_cli", "gymnast_client")
CHECKS = {"make": check_make, "gymnast": check_gymnast, "pip": check_pip, "ray": check_ray}


def strings(tree: ast.AST) -> Iterator[str]:
    """Every text of a module; an f-string as its fixed parts, in order, with ... between them."""
    inside = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in ast.walk(node)}
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


@pytest.fixture(scope="module")
def texts() -> list[str]:
    files = [path for top in PACKAGES for path in (ROOT / top).rglob("*.py") if "wire/gymnast" not in path.as_posix()]
    return [text for path in files for text in strings(ast.parse(path.read_text()))]


def messages() -> list[str]:
    """The first column of the tables of docs/errors.md."""
    rows = re.findall(r"^\| `(.*?)` \|", (DOCS / "errors.md").read_text(), re.M)
    assert len(rows) > 40
    return rows


@pytest.mark.parametrize("message", messages())
def test_a_documented_message_is_one_of_the_codes(message: str, texts: list[str]) -> None:
    parts = [part for part in message.split("...") if part.strip()]
    pattern = re.compile(".*".join(re.escape(part.strip()) for part in parts), re.S)
    assert any(pattern.search(text) for text in texts), f"no message of the code reads like {message!r}"


def pages() -> str:
    return "\n".join(page.read_text() for page in sorted(DOCS.rglob("*.md")))


def lines() -> list[str]:
    """Every command of ours in a block."""
    blocks = re.findall(r"```sh\n(.*?)```", pages(), re.S)
    found = [re.sub(r"\s+# .*", "", line).strip() for block in blocks for line in block.splitlines()]
    return list(dict.fromkeys(line for line in found if line.partition(" ")[0] in CHECKS))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the examples are installed, whose names some commands use."""
    return str(install(tmp_path_factory.mktemp("examples")))


@pytest.mark.parametrize("line", lines())
def test_a_documented_command_is_accepted(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, examples: str
) -> None:
    monkeypatch.syspath_prepend(examples)
    words = shlex.split(line)
    CHECKS[words[0]](words[1:], capsys)


@pytest.mark.parametrize("line", sorted(set(re.findall(r"`(gymnast [a-z][^`]+)`", pages()))))
def test_a_command_named_in_the_text_exists_with_its_options(line: str) -> None:
    words = line.split()[1:]
    parser, name = parser_for(words), words
    while actions := [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]:
        if not name or not re.fullmatch(r"[a-z-]+", name[0]):
            break
        parser, name = actions[0].choices[name[0]], name[1:]
    known = {option for action in parser._actions for option in action.option_strings}
    assert {word.split("=")[0] for word in name if re.match(r"--[a-z]", word)} <= known


def test_every_picture_is_small_and_shown() -> None:
    text = pages()
    pictures = {path for path in (DOCS / "images").iterdir()}
    assert {path.name for path in pictures if path.stat().st_size > 150_000} == set()
    assert {path.name for path in pictures if f"images/{path.name}" not in text} == set()


def test_what_is_generated_names_every_command_and_every_setting() -> None:
    help_of, settings = docs_hooks.commands(), docs_hooks.configuration()
    assert [name for name in COMMANDS if f"## gymnast {name}\n" not in help_of] == []
    for name, kind in KINDS.items():
        table = settings.partition(f"### {name}\n")[2].partition("\n### ")[0]
        assert [field for field in kind.spec.model_fields if f"| `{field}` |" not in table] == []
    assert "| `config.grpo.epochs` | integer >= 1" in settings
    assert "| `config.judge.base_url` |" in settings
    for part, prefix in ((LoopConfig, ""), (StopRule, "stop."), (CanaryRule, "canary.")):
        assert [field for field in part.model_fields if f"| `{prefix}{field}` |" not in docs_hooks.loop()] == []


def test_every_file_that_a_page_includes_is_there() -> None:
    """mkdocs shows a line that it cannot read as an include as text, and ruff once rewrote some into that."""
    assert re.findall(r"^--8 .*", pages(), re.M) == []
    named = re.findall(r'^ *--8<-- "([^":]+)"$', pages(), re.M)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).is_file()] == []
