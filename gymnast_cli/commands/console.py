"""`gymnast console`: the operator's page of a trainer, beside its running service."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

from rich.console import Console

from gymnast_core.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--folder", type=Path, default=Path("trainer"), help="as given to `gymnast serve`")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8600, help="0 takes a free one (default 8600)")
    parser.add_argument(
        "--token",
        metavar="NAME:ROLE",
        help="only issue a token for somebody (robot, trainer, operator, admin), print it once, and end",
    )
    parser.add_argument("--loop", type=Path, action="append", default=[], metavar="FOLDER",
                        help="folder of a `gymnast loop` whose history is shown; may be repeated")  # fmt: skip
    parser.add_argument("--days", type=float, default=30.0, help="life of the token (default 30)")
    parser.add_argument(
        "--plain", action="store_true", help="HTTP instead of HTTPS with client certificates: this machine only"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    """Issue a token, or serve the pages until SIGTERM or Ctrl-C."""
    from cloud_trainer import console as pages

    if not (args.folder / "store.db").is_file():
        raise ConfigError(f"{args.folder} is no trainer's folder (no store.db); start `gymnast serve` on it first")
    if args.token:
        name, _, role = args.token.partition(":")
        token = pages.Gate(args.folder / "console").issue(pages.User(name, role or "operator"), days=args.days)
        print(token)
        return 0
    if args.plain and args.host not in ("127.0.0.1", "localhost", "::1"):
        raise ConfigError(f"--plain would show tokens to the network on {args.host}; leave it out, or use 127.0.0.1")
    identity = None if args.plain else args.folder / "server"
    if identity is not None and not (identity / "cert.pem").is_file():
        raise ConfigError(
            f"{identity} has no certificate; start `gymnast serve` without --insecure once, or use --plain"
        )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    served = pages.Console(args.folder, host=args.host, port=args.port, identity=identity, loops=args.loop)
    console.print(f"console at {served.start()}; Ctrl-C stops it")
    stop.wait()
    served.stop()
    return 0
