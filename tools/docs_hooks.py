"""What mkdocs fills in when it builds the site: help of every command, settings of every job, from the code itself."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

SHOWN = 60
"""Characters of a default that are shown."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put in what a page asks for by a mark."""
    for mark, make in MARKS.items():
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    return markdown


def commands() -> str:
    """One section a command, its actions below it."""
    from gymnast_cli.main import COMMANDS, parser_for

    os.environ["COLUMNS"] = "100"
    return "\n".join(_command(name, _actions(parser_for([name]))[name], 2) for name in COMMANDS)


def configuration() -> str:
    """One table a kind of job."""
    from gymnast_core.jobs.registry import KINDS

    return "\n".join(_kind(name, kind.spec.summary, kind.spec.model_json_schema()) for name, kind in KINDS.items())


def service() -> str:
    """The table of what `gymnast serve` can be set to; its flags are made from the same."""
    from cloud_trainer.service.config import ServiceConfig

    return _table(ServiceConfig.model_json_schema())


def world_model() -> str:
    """The table of run.json."""
    from cloud_trainer.world_model.dit.run_config import RunConfig

    return _table(RunConfig.model_json_schema())


def loop() -> str:
    """The table of a loop's settings; those of its job stand with improve's."""
    from gymnast_core.loop_config import LoopConfig

    schema = LoopConfig.model_json_schema()
    schema["properties"]["job"] = {"type": "object", "description": schema["properties"]["job"]["description"]}
    return _table(schema)


def _command(name: str, parser: argparse.ArgumentParser, depth: int) -> str:
    help_text = parser.format_help().split("exit codes:")[0].strip()
    below = "".join(_command(f"{name} {action}", sub, depth + 1) for action, sub in _actions(parser).items())
    return f"{'#' * depth} gymnast {name}\n\n```text\n{help_text}\n```\n\n{below}"


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found[0].choices) if found else {}


def _kind(name: str, summary: str, schema: Mapping[str, Any]) -> str:
    return "\n".join([f"### {name}", "", f"{summary[:1].upper()}{summary[1:]}.", "", _table(schema)])


def _table(schema: Mapping[str, Any]) -> str:
    rows = [f"| `{setting}` | {allowed} | {default} | {text} |" for setting, allowed, default, text in _rows(schema)]
    head = ["| Setting | Allowed | Default | Meaning |", "|---|---|---|---|"]
    return "\n".join([*head, *rows, ""])


def _rows(schema: Mapping[str, Any], prefix: str = "", known: Mapping[str, Any] | None = None) -> Iterator[list[str]]:
    """Setting, what it may be, its default and what it is for; those inside others follow them."""
    known = schema.get("$defs", {}) if known is None else known
    for name, field in schema.get("properties", {}).items():
        inner = [known[part["$ref"].rpartition("/")[2]] for part in _parts(field) if "$ref" in part]
        needed = "required" if name in schema.get("required", ()) else ""
        default = needed or ("" if inner and inner[0].get("properties") else _short(field.get("default")))
        allowed = " or ".join(dict.fromkeys(_allowed(part, known) for part in _parts(field)))
        yield [prefix + name, *(_cell(text) for text in (allowed, default, field.get("description", "")))]
        for part in inner:
            yield from _rows(part, f"{prefix}{name}.", known)


def _parts(field: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a field may be, each alone; a choice inside a choice is one of them."""
    for key in ("anyOf", "oneOf", "allOf"):
        if key in field:
            return [part for inner in field[key] for part in _parts(inner)]
    return [field]


def _allowed(part: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    if "$ref" in part:
        of = known[part["$ref"].rpartition("/")[2]]
        return "a table" if of.get("properties") else _allowed(of, known)
    if "enum" in part or "const" in part:
        return ", ".join(f"`{value}`" for value in part.get("enum", [part.get("const")]))
    kind = str(part.get("type", "anything")).replace("object", "a table").replace("null", "nothing")
    if kind == "array":
        return f"list of {_allowed(part.get('items', {}), known)}"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {part[key]}" for key, sign in signs.items() if key in part]
    return " ".join([kind, ", ".join(limits)]).strip()


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return f"`{text[:SHOWN]}`" if text not in ("nothing", '""') else text.replace('""', "empty")


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


MARKS: Mapping[str, Callable[[], str]] = {
    "<!-- commands -->": commands, "<!-- configuration -->": configuration, "<!-- loop -->": loop,
    "<!-- service -->": service, "<!-- world model -->": world_model,
}  # fmt: skip
