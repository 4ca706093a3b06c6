"""How a server beside the trainer learns which certificates were revoked: from its folder, or by asking it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gymnast_cli.connect import TRAINER_VARIABLE
from gymnast_core.errors import ConfigError

if TYPE_CHECKING:
    from gymnast_core.wire.identity import Identity
    from gymnast_core.wire.peers import CertifiedAccess

TRUSTED_S = 60.0
"""How old the list may be: a trainer is started anew in less, and a holder who was revoked gains no more by cutting the
link to it."""
_ASK_S = 2.0


def add_revoked_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --ca, --trainer and --trainer-identity."""
    parser.add_argument("--ca", type=Path, metavar="FOLDER", help="ca of the trainer's folder: which certificates were "
                        "revoked (default: ca beside the folder of --identity)")  # fmt: skip
    parser.add_argument("--trainer", default="", metavar="HOST:PORT", help="where that folder is not on this machine: "
                        f"the trainer to ask, every {_ASK_S:g} s (default: ${TRAINER_VARIABLE})")  # fmt: skip
    parser.add_argument("--trainer-identity", type=Path, metavar="FOLDER", help="to ask it with: made by `gymnast "
                        "enroll --role trainer`")  # fmt: skip


def access_of(args: argparse.Namespace, identity: Identity) -> CertifiedAccess:
    """Return what the server lets callers in by; the list was read once.

    Args:
        args: of add_revoked_arguments.
        identity: of the server.

    Raises:
        ConfigError: nothing says which certificates were revoked, or another authority's list was named.
        GymnastError: the list cannot be read, or the trainer does not answer.
    """
    from gymnast_core.wire.peers import CertifiedAccess
    from gymnast_core.wire.revocation import Revocations

    if args.ca is not None and args.trainer:
        raise ConfigError(f"--ca {args.ca} and --trainer {args.trainer} both have the list; give one")
    beside = identity.folder.absolute().parent / "ca"
    address = args.trainer or os.environ.get(TRAINER_VARIABLE, "")
    if args.ca is not None or (not args.trainer and beside.is_dir()):
        read, every_s = _file(args.ca or beside, identity), 0.2
    elif address:
        read, every_s = _asking(address, args.trainer_identity, identity), _ASK_S
    else:
        raise ConfigError(
            "which certificates were revoked? give --ca FOLDER (ca of the trainer's folder), or --trainer HOST:PORT "
            "and --trainer-identity FOLDER"
        )
    read()
    return CertifiedAccess(identity, Revocations(read, every_s=every_s, trusted_s=TRUSTED_S))


def _file(authority: Path, identity: Identity) -> Callable[[], Mapping[str, str]]:
    from gymnast_core.wire.identity import AUTHORITY
    from gymnast_core.wire.revocation import RevokedFile

    if not (authority / AUTHORITY).is_file():
        raise ConfigError(f"{authority} is no folder of a certificate authority; give --ca FOLDER or --trainer")
    if (authority / AUTHORITY).read_bytes() != identity.authority:
        raise ConfigError(f"{authority} is another authority than that of {identity.folder}; give --ca or --trainer")
    return RevokedFile(authority)


def _asking(address: str, folder: Path | None, identity: Identity) -> Callable[[], Mapping[str, str]]:
    from gymnast_client import Trainer

    if folder is None:
        raise ConfigError(f"who asks {address}? give --trainer-identity FOLDER (`gymnast enroll NAME --role trainer`)")
    trainer, tenant = Trainer(address, folder), identity.peer.tenant
    if trainer.identity is None or trainer.identity.peer.tenant != tenant:
        raise ConfigError(f"{folder} is of another tenant than {identity.folder}: {tenant}; enroll it in that one")
    return lambda: dict.fromkeys(trainer.revoked(), "")
