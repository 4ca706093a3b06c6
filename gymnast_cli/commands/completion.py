"""`gymnast completion`: a completion script for your shell."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import shtab
from rich.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, help='bash: eval "$(gymnast completion bash)"')


def run(args: argparse.Namespace, console: Console) -> int:
    """Print the script."""
    from gymnast_cli.main import whole_parser

    parser = whole_parser()
    for action in _actions(parser):
        if action.type is Path:
            action.complete = shtab.FILE
    print(shtab.complete(parser, shell=args.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[Any]:
    """Arguments of a parser and of those below it; shtab reads an attribute that argparse does not declare."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for nested in action.choices.values():
                yield from _actions(nested)
        else:
            yield action
