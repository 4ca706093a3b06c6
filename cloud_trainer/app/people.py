"""Identities of a trainer: issued on its machine, fetched elsewhere with a one-time code, taken back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cloud_trainer.service import enroll as issue_identity
from cloud_trainer.service import make_code, revoke, withdraw_codes
from cloud_trainer.service.enroll import checked_hosts
from gymnast_core.errors import ConfigError
from gymnast_core.wire.address import Address, is_loopback
from gymnast_core.wire.identity import CERTIFICATE, names_in

__all__ = ["OneTimeCode", "enroll", "one_time_code", "take_back"]


@dataclass(frozen=True)
class OneTimeCode:
    """What somebody on another machine needs to fetch an identity.

    Attributes:
        code: good once.
        trainer: its address, as other machines reach it.
        warning: what keeps them from reaching it; empty where nothing is known to.
    """

    code: str
    trainer: str
    warning: str


def enroll(
    ca: Path, name: str, role: str, *, out: Path, tenant: str = "default", days: int = 90, hosts: Sequence[str] = ()
) -> Path:  # fmt: skip
    """Issue an identity folder; the same call again rotates its certificate and key.

    Args:
        ca: folder of the certificate authority; made when missing.
        name: of the holder.
        role: what the holder may do.
        tenant: whose data the holder sees.
        out: folder to write.
        days: validity of the certificate.
        hosts: what callers reach a server by.

    Returns:
        out.

    Raises:
        ConfigError: a value makes no sense; a server without hosts, or hosts of another role.
    """
    named = checked_hosts(role, hosts)
    return issue_identity(ca, name, role, tenant=tenant, out=out, days=days, hosts=named)


def one_time_code(
    ca: Path, name: str, role: str, *, tenant: str, days: int, minutes: float, hosts: Sequence[str] = ()
) -> OneTimeCode:  # fmt: skip
    """Make a code with which another machine fetches an identity.

    Args:
        ca: folder of the certificate authority.
        name: of the holder.
        role: what the holder may do.
        tenant: whose data the holder sees.
        days: validity of the certificate.
        minutes: validity of the code.
        hosts: what callers reach a server by.
    """
    code = make_code(ca, name, role, tenant=tenant, days=days, minutes=minutes, hosts=hosts)
    return OneTimeCode(code, *_reached(ca))


def take_back(ca: Path, name: str, *, tenant: str) -> tuple[list[str], int]:
    """Revoke every certificate of a name and withdraw its codes.

    Returns:
        Serial numbers of the certificates, and how many codes there were.

    Raises:
        ConfigError: nothing was issued to that name.
    """
    codes = withdraw_codes(ca, name, tenant=tenant)
    try:
        return revoke(ca, name, tenant=tenant), codes
    except ConfigError:
        if not codes:
            raise
        return [], codes


def _reached(authority: Path) -> tuple[str, str]:
    """How other machines reach the trainer whose authority this is, and what keeps them from it."""
    server = authority.parent / "server"
    try:
        listens = json.loads((server / "listens.json").read_bytes())
        host, port = str(listens["host"]), int(listens["port"])
    except (OSError, ValueError, KeyError, TypeError):
        return "HOST:PORT", "the trainer has not been started yet: HOST:PORT is where it will listen"
    names = [name for name in names_in((server / CERTIFICATE).read_bytes()) if not is_loopback(name)]
    if is_loopback(host):
        warning = f"this trainer listens on {host} alone; start it with --host 0.0.0.0 to reach it from there"
        return str(Address(host, port)), warning
    return str(Address(names[0] if names else host, port)), ""
