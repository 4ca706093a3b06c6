"""Servers beside the trainer: who may call them, where they listen, and how what goes wrong is answered."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import grpc

from gymnast_core.errors import ConfigError, GymnastError
from gymnast_core.wire.address import Address
from gymnast_core.wire.channel import ERROR_KEY
from gymnast_core.wire.errors import NotPermittedError, ServerFaultError, wire_error
from gymnast_core.wire.identity import Identity
from gymnast_core.wire.revocation import Revocations

LOG = logging.getLogger(__name__)
ROLES = ("trainer", "operator", "admin", "robot")
ReplyT = TypeVar("ReplyT")


def answered(context: grpc.ServicerContext, act: Callable[[], ReplyT]) -> ReplyT:
    """Return what act returns; an error goes out by its name, as the trainer's do, and one of ours without its text."""
    try:
        return act()
    except GymnastError as error:
        _refuse(context, error)
    except Exception:  # gRPC itself would pass on its text, which may name files here
        LOG.exception("call_failed")
        _refuse(context, ServerFaultError("the server failed for a reason of its own; its log has it"))


def _refuse(context: grpc.ServicerContext, error: GymnastError) -> NoReturn:
    name, status, _ = wire_error(error)
    context.set_trailing_metadata(((ERROR_KEY, name),))
    context.abort(grpc.StatusCode[status], str(error)[:1000])


@dataclass(frozen=True)
class CertifiedAccess:
    """What a server on the network lets callers in by.

    Attributes:
        identity: of the server; its certificate names the host.
        revocations: certificates that were taken back.
    """

    identity: Identity
    revocations: Revocations

    def require_role(self, context: grpc.ServicerContext, does: str) -> None:
        """Let those of the server's tenant in, and end their call when their certificate is taken back.

        Args:
            context: of the call.
            does: what they do here, e.g. "drive this environment".

        Raises:
            NotPermittedError: another tenant's, or of no such role.
            RevokedError: the certificate was taken back, or has run out.
            ServerFaultError: which were taken back is not known any more.
        """
        peer, tenant = self.revocations.admit(context), self.identity.peer.tenant
        if peer is None or peer.tenant != tenant or peer.role not in ROLES:
            raise NotPermittedError(f"only {', '.join(ROLES)} of {tenant} {does}")


def require_server(identity: Identity) -> None:
    """Return if callers take an identity for a server's.

    Raises:
        ConfigError: it is a caller's own, which none of them does.
    """
    if (holder := identity.peer).role != "server":
        raise ConfigError(
            f"{identity.folder} is the certificate of {holder.role} {holder.name}, which no caller takes for a "
            "server's; use FOLDER/server of a trainer on its machine, or make one on it: gymnast enroll NAME --role "
            "server --host NAME-OR-ADDRESS (--code fetches it onto another machine)"
        )


def listen_securely(server: grpc.Server, where: str, identity: Identity) -> str:
    """Listen by mutual TLS; returns the address.

    Args:
        server: not started yet.
        where: HOST:PORT; port 0 takes a free one.
        identity: its certificate names the host.

    Raises:
        ConfigError: it is no server's certificate, or the address is none, or not to be had.
    """
    require_server(identity)
    at = Address.parse(where) if not where.endswith(":0") else Address(where.removesuffix(":0"), 0)
    pair = [(identity.key, identity.certificate)]
    tls = grpc.ssl_server_credentials(pair, identity.authority, require_client_auth=True)
    return str(Address(at.host, bound(server, str(at), tls)))


def bound(server: grpc.Server, address: str, credentials: grpc.ServerCredentials) -> int:
    """Bind an address; returns its port.

    Raises:
        ConfigError: it is not to be had.
    """
    try:
        return int(server.add_secure_port(address, credentials))
    except RuntimeError as error:
        raise ConfigError(f"cannot listen on {address}; is the address this machine's, and free?") from error
