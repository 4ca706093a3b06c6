"""`gymnast enroll`: identities for mutual TLS, on this machine or fetched onto another one with a one-time code."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path

from rich.console import Console

from gymnast_cli.connect import emit
from gymnast_core.errors import ConfigError

ROLES = ("robot", "operator", "trainer", "admin", "server")
MAKE = "\0make"
"""What --code is without a value: on the trainer's machine it makes one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", nargs="?", default="", help="of the robot, person or machine it is for, [A-Za-z0-9_-]; "
                        "the service knows the holder by it (with --remote the code says it)")  # fmt: skip
    parser.add_argument("--role", choices=ROLES, default="robot", help="what the holder may do (default: robot); "
                        "server: serve beside the trainer (gymnast wm serve, gymnast env serve)")  # fmt: skip
    parser.add_argument("--host", action="append", default=[], metavar="NAME", help="name or address that callers "
                        "reach a server by; may be repeated (of --role server)")  # fmt: skip
    parser.add_argument("--tenant", default="default", help="whose data it sees")
    parser.add_argument(
        "--ca", type=Path, default=Path("trainer/ca"), help="folder of the certificate authority; made when missing"
    )
    parser.add_argument("--out", type=Path, help="identity folder to write (default: identities/NAME)")
    parser.add_argument(
        "--revoke", action="store_true", help="take back every certificate of NAME; the service notices within a second"
    )
    parser.add_argument("--days", type=int, default=90, help="validity")
    parser.add_argument("--code", nargs="?", const=MAKE, metavar="CODE", help="without a value: make a one-time code, "
                        "with which another machine fetches this identity; with --remote: that code")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=15.0, help="how long a new code is good (default 15)")
    parser.add_argument("--remote", metavar="HOST:PORT", help="fetch an identity from that trainer with a code; the "
                        "private key is made here (the code is asked for where --code is missing)")  # fmt: skip


def run(args: argparse.Namespace, console: Console) -> int:
    """Issue one identity folder (cert.pem, key.pem, ca.pem, trust.pub), make or use a code, or take certificates back.

    Raises:
        ConfigError: flags that do not go together, or a value that makes no sense.
        IdentityError: the trainer does not know the code, or is not the one that made it.
    """
    if args.remote:
        return _fetch(args, console)
    if not args.name:
        raise ConfigError("give the NAME the identity is for, or --remote HOST:PORT to fetch one with a code")
    if args.revoke:
        return _revoke(args, console)
    if args.code is not None:
        return _make_code(args, console)
    from cloud_trainer.app.people import enroll

    out = args.out or Path("identities") / args.name
    folder = enroll(args.ca, args.name, args.role, tenant=args.tenant, out=out, days=args.days, hosts=args.host)
    text = f"{folder}: {args.role} {args.name}, tenant {args.tenant}, {args.days} days. Keep key.pem to its holder."
    value = {"folder": str(folder), "name": args.name, "role": args.role, "tenant": args.tenant, "days": args.days}
    emit(args, console, value, text)
    return 0


def _fetch(args: argparse.Namespace, console: Console) -> int:
    from gymnast_ros.uplink import fetch_identity

    if args.name or args.revoke or args.host:
        raise ConfigError("with --remote the code says which identity it is; leave NAME, --host and --revoke out")
    code = args.code
    if code in (None, MAKE):
        code = getpass.getpass("code: ") if sys.stdin.isatty() else sys.stdin.readline()
    identity = fetch_identity(args.remote, code, args.out)
    peer, folder = identity.peer, identity.folder
    text = (
        f"{folder}: {peer.role} {peer.name}, tenant {peer.tenant}, of the trainer at {args.remote}. "
        f"The private key was made here and has not left this machine."
    )
    emit(args, console, {"folder": str(folder), "name": peer.name, "role": peer.role, "tenant": peer.tenant}, text)
    return 0


def _revoke(args: argparse.Namespace, console: Console) -> int:
    from cloud_trainer.app.people import take_back

    serials, codes = take_back(args.ca, args.name, tenant=args.tenant)
    text = f"{args.name}, tenant {args.tenant}: {len(serials)} certificates revoked, {codes} codes withdrawn"
    emit(args, console, {"revoked": serials, "codes": codes}, text)
    return 0


def _make_code(args: argparse.Namespace, console: Console) -> int:
    """Print a code and the command that uses it."""
    from cloud_trainer.app.people import one_time_code

    if args.code != MAKE:
        raise ConfigError("a code's value goes with --remote HOST:PORT; to make one, end the line with --code")
    made = one_time_code(
        args.ca, args.name, args.role, tenant=args.tenant, days=args.days, minutes=args.minutes,
        hosts=args.host,
    )  # fmt: skip
    command = f"gymnast enroll --remote {made.trainer} --code {made.code}"
    warning = f"\n({made.warning})" if made.warning else ""
    text = (
        f"for {args.role} {args.name}, tenant {args.tenant}; good for {args.minutes:g} minutes and one machine. "
        f"There:\n\n  {command}\n{warning}"
    )
    value = {"code": made.code, "remote": made.trainer, "command": command, "minutes": args.minutes}
    emit(args, console, value, text)
    return 0
