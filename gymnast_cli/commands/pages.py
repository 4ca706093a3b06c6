"""`gymnast pages`: calls for a person, and the receivers of their messages."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Console

from gymnast_cli.connect import add_trainer_arguments, emit, trainer
from gymnast_core.text import one_line

if TYPE_CHECKING:
    from gymnast_client import PagesClient, PageView

NOT_DELIVERED = 1
"""Exit code when a receiver did not take the test message."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare list, ack and test."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="calls that nobody has answered")
    listing.add_argument("--all", action="store_true", dest="every", help="answered ones, too")
    ack = actions.add_parser("ack", help="answer calls: you look after it, and the robot hears so")
    ack.add_argument("page_id", nargs="+")
    ack.add_argument("--note", default="", metavar="TEXT", help="what you found, for whoever looks later")
    test = actions.add_parser("test", help="send a message through every receiver, and report each result")
    for action in (listing, ack, test):
        add_trainer_arguments(action)


def run(args: argparse.Namespace, console: Console) -> int:
    """Do it; testing returns 1 when a receiver was not reached."""
    with trainer(args) as there:
        return {"list": _list, "ack": _acknowledge, "test": _test}[args.action](there.pages, args, console)


def _list(pages: PagesClient, args: argparse.Namespace, console: Console) -> int:
    from rich.table import Table

    found = list(pages.list(every=args.every))
    table = Table(title=f"{'calls' if args.every else 'open calls'} for a person: {len(found)}")
    for column in ("page", "since", "robot", "kind", "what", "sent to", "answered by"):
        table.add_column(column, no_wrap=column in ("page", "since", "kind"))
    for page in found:
        what = one_line(page.text) + (f" ({page.count} times)" if page.count > 1 else "")
        answered = one_line(page.acknowledged_by) or ("over by itself" if page.over_ns else "")
        table.add_row(page.page_id, _when(page.received_ns), one_line(page.robot), page.kind, what, _reached(page),
                      f"{answered}: {one_line(page.note)}" if page.note else answered)  # fmt: skip
    emit(args, console, {"pages": [asdict(page) for page in found]}, table)
    return 0


def _acknowledge(pages: PagesClient, args: argparse.Namespace, console: Console) -> int:
    for page_id in args.page_id:
        page = pages.acknowledge(page_id, args.note)
        what = f"{page.kind.replace('_', ' ')}{f' on {page.robot}' if page.robot else ''}"
        emit(args, console, asdict(page), f"{page.page_id} ({one_line(what)}) is answered by {page.acknowledged_by}")
    return 0


def _test(pages: PagesClient, args: argparse.Namespace, console: Console) -> int:
    from rich.table import Table

    tried = pages.test()
    table = Table(title="receivers")
    for column in ("receiver", "way", "seconds", "result"):
        table.add_column(column)
    for row in tried:
        table.add_row(row.receiver, row.way, f"{row.seconds:.1f}", one_line(row.error) or "delivered")
    emit(args, console, {"receivers": [asdict(row) for row in tried]}, table)
    return NOT_DELIVERED if any(row.error for row in tried) else 0


def _when(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns / 1e9).strftime("%Y-%m-%d %H:%M")


def _reached(page: PageView) -> str:
    """Receivers that were reached, and those that were not yet, with the reason."""
    reached = {one.receiver for one in page.deliveries if one.sent_ns}
    late = {one.receiver: one.error for one in page.deliveries if not one.sent_ns and one.receiver not in reached}
    parts = sorted(reached)
    parts += [f"not {name}{f' ({one_line(error)})' if error else ''}" for name, error in late.items()]
    return ", ".join(parts) or "nobody"
