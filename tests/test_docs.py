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


TOPS = (*PACKAGES, "tests", "config", "docs", "proto", "benchmarks", "examples", "launch", "deploy")


def named_files() -> list[str]:
    """Every file and folder of ours that a page names in back quotes, from the root or from inside a package."""
    quoted = set(re.findall(r"`([\w./*-]+/[\w./*-]*)`", pages()))
    return sorted(name for name in quoted if name.split("/")[0] in TOPS or name.endswith(".py"))


def test_a_file_named_in_the_text_exists() -> None:
    names = named_files()
    assert len(names) > 60
    assert [name for name in names if not any(next((ROOT / top).glob(name), None) for top in ("", *PACKAGES))] == []


IDS = {"gymnast_cli.pretrain"}
"""Names of modules that were, in the ids of shipped checkpoints."""


def is_of(name: str) -> bool:
    """Whether package.module.Name.method stands where it says."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        place, rest = ROOT.joinpath(*parts[:count]), parts[count:]
        source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if source.is_file():
            return all(re.search(rf"\b{word}\b", source.read_text()) for word in rest)
        if place.is_dir():
            return not rest
    return False


def test_a_module_or_class_named_in_a_docstring_or_a_page_exists(texts: list[str]) -> None:
    named = re.findall(rf"\b(?:{'|'.join(PACKAGES)})(?:\.\w+)+", "\n".join([*texts, pages()]))
    assert len(set(named)) > 100
    assert sorted(name for name in set(named) - IDS if not is_of(name)) == []


def test_every_function_and_class_of_the_architecture_is_in_the_code() -> None:
    text = (DOCS / "architecture.md").read_text()
    names = {name for name in re.findall(r"`(\w+(?:\.\w+)?)`", text) if re.search(r"[A-Z]|_", name)}
    code = "\n".join(path.read_text() for top in PACKAGES for path in (ROOT / top).rglob("*.py"))
    assert len(names) > 10
    assert [
        name for name in sorted(names) if not all(re.search(rf"\b{part}\b", code) for part in name.split("."))
    ] == []


def test_the_six_calls_from_the_job_to_the_clipped_loss_are_as_the_architecture_lists_them() -> None:
    row = r"^\| `([\w.]+)` \(`([\w/]+\.py)`\) \| `([\w.]+)` \|"
    rows = re.findall(row, (DOCS / "architecture.md").read_text(), re.M)
    assert [name for name, _, _ in rows[1:]] == [calls for _, _, calls in rows[:-1]]
    assert (rows[0][0], rows[-1][2], len(rows)) == ("improve", "clipped_loss", 6)
    for name, file, calls in rows:
        found = ast.parse((ROOT / "cloud_trainer" / file).read_text())
        body = next(node for node in ast.walk(found)
                    if isinstance(node, ast.FunctionDef) and node.name == name.split(".")[-1])  # fmt: skip
        called = {ast.unparse(node.func).split(".")[-1] for node in ast.walk(body) if isinstance(node, ast.Call)}
        assert calls.split(".")[-1] in called, f"{name} calls {calls} no more"


def test_the_walks_count_the_files_they_list_once() -> None:
    rows = re.findall(r"^\| .* \| \d* \| (\d+) \| (`.*`) \|$", (DOCS / "architecture.md").read_text(), re.M)
    assert len(rows) == 7
    listed = [(int(count), files.split(", ")) for count, files in rows]
    assert [count for count, _ in listed] == [len(set(files)) for _, files in listed]
