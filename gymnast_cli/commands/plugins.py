"""`gymnast plugins`: what installed packages add, each loaded in a process of its own."""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from rich.console import Console

from gymnast_cli.connect import emit
from gymnast_core.extensions import GROUPS, Plugin, plugins
from gymnast_core.text import one_line

BROKEN = 1
"""Exit code when something cannot be loaded."""
LOAD_S = 120.0
"""A plug-in may import torch, on a busy machine."""
_LOAD = "import sys; from gymnast_core.extensions import extension; extension(*sys.argv[1:])"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--no-load", action="store_true", help="list what there is and import none of it")


def run(args: argparse.Namespace, console: Console) -> int:
    """List every kind, what adds to it, and what is wrong with it; 1 when something is."""
    from rich.table import Table

    found = plugins()
    errors = [""] * len(found)
    if not args.no_load:
        with ThreadPoolExecutor(max_workers=2) as pool:
            errors = list(pool.map(_error, found))
    rows = [{**asdict(plugin), "error": error} for plugin, error in zip(found, errors, strict=True)]
    table = Table(title=f"plug-ins: {len(rows)}")
    for column in ("kind", "name", "package", "version", "is", "state"):
        table.add_column(column, no_wrap=column in ("kind", "name"))
    for group in GROUPS:
        kind, of = group.partition(".")[2], [row for row in rows if row["group"] == group]
        for row in of or [{"name": "-", "package": "", "version": "", "value": "", "error": ""}]:
            state = one_line(row["error"]) or ("not loaded" if args.no_load else "loads") if of else ""
            table.add_row(kind, *(one_line(row[name]) for name in ("name", "package", "version", "value")), state)
    emit(args, console, {"groups": list(GROUPS), "plugins": rows}, table)
    return BROKEN if any(errors) else 0


def _error(plugin: Plugin) -> str:
    """Why it cannot be loaded; it may end, crash or hang its process, and prints where nobody looks."""
    command = [sys.executable, "-c", _LOAD, plugin.group, plugin.name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=LOAD_S, check=False)
    except subprocess.TimeoutExpired:
        return f"was not loaded within {LOAD_S:g} s"
    if done.returncode == 0:
        return ""
    last = (done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"])[-1]
    return last.removeprefix("gymnast_core.errors.ConfigError: ")
