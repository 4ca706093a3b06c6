"""`gymnast why`: where a checkpoint comes from, down to every episode."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from gymnast_cli.connect import add_trainer_arguments, emit, trainer
from gymnast_cli.plain import branches
from gymnast_cli.terminal import styled
from gymnast_core.text import one_line

if TYPE_CHECKING:
    from rich.tree import Tree

MOST = 20
"""Rows of a kind that are printed."""
DAMAGED = 3
"""Exit code when something was retracted, or a byte of the chain was changed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("checkpoint", help="id of a checkpoint (or of any other record)")
    add_trainer_arguments(parser)
    parser.add_argument("--verify", action="store_true", help="recompute every hash of the chain")
    parser.add_argument("--graph", type=Path, metavar="FILE", help="write the complete graph here as JSON")


def run(args: argparse.Namespace, console: Console) -> int:
    """Explain; 3 when the chain is tainted or damaged."""
    with trainer(args) as there:
        answer = there.checkpoints.why(args.checkpoint, verify=args.verify)
        if args.graph is not None:
            args.graph.write_bytes(there.checkpoints.lineage_json(args.checkpoint))
    emit(args, console, answer, tree(answer))
    return DAMAGED if answer["retracted"] or answer["damage"] else 0


def tree(answer: Mapping[str, Any]) -> Tree:
    """The answer for people."""
    from rich.tree import Tree

    made_from = answer["made_from"]
    root = Tree(styled("bold", answer["id"], f" ({answer['kind']})"))
    if origin := made_from.get("imported"):
        where = one_line(
            f"imported by {origin['by']} from a folder {origin['name']}; what it was made from is its own word"
        )
        root.add(styled("yellow", where))
    branches(root, made_from.get("lineage", {}))
    known = [row for row in answer["checkpoints"] if row["kind"] != "external"]
    _add(root, "made from", known, lambda branch, row: branch.add(one_line(f"{row['kind']} {row['id']}")))
    _add(root, "audits", answer["audits"], _audit)
    counts = [f"{n} {'made elsewhere' if kind == 'external' else kind}" for kind, n in answer["counts"].items()]
    root.add("counts: " + (", ".join(counts) or "nothing recorded"))
    if answer["labels_by"]:
        root.add(
            "labels by: " + ", ".join(f"{name or 'nobody named'} ({n})" for name, n in answer["labels_by"].items())
        )
    for row in answer["changed_labels"]:
        changed = f"label changed since: {row['was']} -> {row['is']} by {row['by']} ({row['label']})"
        root.add(styled("yellow", one_line(changed)))
    for row in answer["retracted"]:
        gone = f"{row['kind']} {row['id']} was retracted by {row['by']}: {row['reason']}"
        root.add(styled("red", one_line(gone)))
    if answer["damage"] is not None:
        for row in answer["damage"]:
            root.add(styled("red", one_line(f"{row['id']}: {row['what']}")))
        if not answer["damage"]:
            root.add(styled("green", "every hash fits"))
    return root


def _add(
    root: Tree, name: str, rows: Sequence[Mapping[str, object]], show: Callable[[Tree, Mapping[str, object]], object]
) -> None:
    """A branch of rows; nothing where there are none."""
    branch = root.add(name) if rows else root
    for row in rows[:MOST]:
        show(branch, row)
    if len(rows) > MOST:
        branch.add(f"and {len(rows) - MOST} more; --graph FILE has them all")


def _audit(branch: Tree, row: Mapping[str, object]) -> None:
    measured = {name: value for name, value in row.items() if name != "id"}
    branches(branch.add(one_line(row["id"])), measured)
