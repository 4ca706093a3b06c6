"""What mkdocs fills in when it builds the site: every command's help, from the parsers themselves."""

from __future__ import annotations

import argparse
import os
from typing import Any

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the help of every command where a page asks for it."""
    return markdown.replace(MARK, commands()) if MARK in markdown else markdown


def commands() -> str:
    """One section a command, its actions below it."""
    from gymnast_cli.main import COMMANDS, parser_for

    os.environ["COLUMNS"] = "100"
    return "\n".join(section(name, _choice(parser_for([name]), name), 2) for name in COMMANDS)


def section(name: str, parser: argparse.ArgumentParser, depth: int) -> str:
    """Usage and options of one command."""
    help_text = parser.format_help().split("exit codes:")[0].strip()
    below = "".join(section(f"{name} {action}", sub, depth + 1) for action, sub in _actions(parser).items())
    return f"{'#' * depth} gymnast {name}\n\n```text\n{help_text}\n```\n\n{below}"


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found[0].choices) if found else {}


def _choice(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    return _actions(parser)[name]
