"""`gymnast console`: opens the operator's page of a running trainer."""

from __future__ import annotations

import argparse
import webbrowser
from urllib.parse import urlsplit

from rich.console import Console

from gymnast_cli.connect import add_trainer_arguments, emit, trainer
from gymnast_core.wire.address import Address, is_loopback


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_trainer_arguments(parser)
    parser.add_argument("--open", action="store_true", help="open it in this machine's browser")


def run(args: argparse.Namespace, console: Console) -> int:
    """Print where the page is, and a token in your certificate's name."""
    with trainer(args) as there:
        login = there.log_in()
    page, host = urlsplit(login.address), Address.parse(args.trainer).host
    lines = [f"page:  {login.address}", f"token: {login.token} (for {login.valid_for_s // 3600} hours)"]
    if is_loopback(page.hostname or "") and not is_loopback(host):
        lines.append(f"it listens on the trainer's own machine; from here: ssh -L {page.port}:{page.netloc} {host}")
    answer = vars(login)
    emit(args, console, answer, "\n".join(lines))
    if args.open and not webbrowser.open(login.address):
        console.print("no browser is known here; copy the address", style="yellow")
    return 0
