"""`gymnast doctor`: what is wrong with a trainer's or a robot's folder, and what to do about it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from gymnast_cli.terminal import styled
from gymnast_core.finding import Finding

FAULTY = 3
"""Exit code when something is damaged or lost."""
_STYLES = {"ok": "green", "warning": "yellow", "fault": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--folder", type=Path, default=Path("trainer"), help="the trainer's (default: trainer)")
    parser.add_argument("--robot", type=Path, metavar="FOLDER", help="look over a robot's folder instead")
    parser.add_argument("--database-url", help="where the trainer's database is not in its folder")
    parser.add_argument("--blob-url", help="where its files are not in its folder: s3://bucket/prefix")
    parser.add_argument("--deep", action="store_true", help="read every stored file and compare it with its digest")


def run(args: argparse.Namespace, console: Console) -> int:
    """Look, and print each finding as it comes; 3 when something is damaged or lost.

    Raises:
        OccupiedError: --deep, on a folder that a trainer runs on.
    """
    worst = 0
    for finding in _findings(args):
        worst = FAULTY if finding.state == "fault" else worst
        if args.json:
            print(json.dumps(asdict(finding)))
        else:
            remedy = f" -> {finding.remedy}" if finding.remedy else ""
            console.print(styled(_STYLES[finding.state], finding.state, f" {finding.check}: {finding.what}{remedy}"))
    return worst


def _findings(args: argparse.Namespace) -> Iterator[Finding]:
    if args.robot is not None:
        from gymnast_ros.doctor import examine_robot

        yield from examine_robot(args.robot)
        return
    from cloud_trainer.app.health import examine_folder

    yield from examine_folder(args.folder, database_url=args.database_url, blob_url=args.blob_url, deep=args.deep)
