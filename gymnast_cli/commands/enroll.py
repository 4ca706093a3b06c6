"""`gymnast enroll`: identities for mutual TLS."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

ROLES = ("robot", "operator", "trainer", "admin")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", help="who it is for, [A-Za-z0-9_-]; the service knows the holder by this name")
    parser.add_argument("--role", choices=ROLES, default="robot", help="what the holder may do (default: robot)")
    parser.add_argument("--tenant", default="default", help="whose data it sees")
    parser.add_argument(
        "--ca", type=Path, default=Path("trainer/ca"), help="folder of the certificate authority; made when missing"
    )
    parser.add_argument("--out", type=Path, help="identity folder to write (default: identities/NAME)")
    parser.add_argument(
        "--revoke", action="store_true", help="take back every certificate of NAME; the service notices within a second"
    )
    parser.add_argument("--days", type=int, default=90, help="validity")


def run(args: argparse.Namespace, console: Console) -> int:
    """Issue one identity folder (cert.pem, key.pem, ca.pem, trust.pub), or take a name's certificates back."""
    from cloud_trainer.service import enroll, revoke

    if args.revoke:
        serials = revoke(args.ca, args.name, tenant=args.tenant)
        console.print(f"{args.name}, tenant {args.tenant}: {len(serials)} certificates revoked")
        return 0
    out = args.out or Path("identities") / args.name
    folder = enroll(args.ca, args.name, args.role, tenant=args.tenant, out=out, days=args.days)
    console.print(
        f"{folder}: {args.role} {args.name}, tenant {args.tenant}, {args.days} days. Keep key.pem to its holder."
    )
    return 0
