"""Servers beside the trainer: who may call them, where they listen, and how what goes wrong is answered."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NoReturn, TypeVar

import grpc

from gymnast_core.errors import ConfigError, GymnastError
from gymnast_core.wire.address import Address
from gymnast_core.wire.channel import ERROR_KEY
from gymnast_core.wire.errors import NotPermittedError, ServerFaultError, wire_error
from gymnast_core.wire.identity import Identity, peer_of

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


def require_role(context: grpc.ServicerContext, identity: Identity, does: str) -> None:
    """Let those of the server's tenant in.

    Args:
        context: of the call.
        identity: of the server.
        does: what they do here, e.g. "drive this environment".

    Raises:
        NotPermittedError: another tenant's, or of no such role.
    """
    shown = context.auth_context().get("x509_pem_cert", ())
    peer = peer_of(bytes(next(iter(shown)))) if shown else None
    if peer is None or peer.tenant != identity.peer.tenant or peer.role not in ROLES:
        raise NotPermittedError(f"only {', '.join(ROLES)} of {identity.peer.tenant} {does}")


def listen_securely(server: grpc.Server, where: str, identity: Identity) -> str:
    """Listen by mutual TLS; returns the address.

    Args:
        server: not started yet.
        where: HOST:PORT; port 0 takes a free one.
        identity: its certificate names the host.

    Raises:
        ConfigError: the address is none, or not to be had.
    """
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
