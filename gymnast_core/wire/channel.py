"""gRPC channels: mutual TLS by default, keepalive that frees a dead peer within 30 s, limits on every message."""

from __future__ import annotations

import logging
from collections.abc import Callable

import grpc

from gymnast_core.errors import ConfigError, GymnastError, RejectedBridgeError, TransientBridgeError
from gymnast_core.wire.address import Address
from gymnast_core.wire.codec import MAX_MESSAGE_BYTES
from gymnast_core.wire.errors import IdentityError, error_from_wire
from gymnast_core.wire.identity import Identity
from gymnast_core.wire.proxy import proxy_for

LOG = logging.getLogger(__name__)
KEEPALIVE_TIME_MS = 10_000
KEEPALIVE_TIMEOUT_MS = 10_000
ERROR_KEY = "gymnast-error"
FIELDS_KEY = "gymnast-error-fields"
REQUEST_ID_KEY = "gymnast-request-id"
UNARY_DEADLINE_S = 10.0
USER_AGENT = "gymnast/0.2"
"""Says which version speaks: one of before 0.2 cannot read a release that names a gate record."""
LOOKAHEAD_BYTES = 16 * 1024 * 1024
"""Where HTTP/2's window starts: 320 MB/s at 50 ms; growing it from less costs round trips."""
_TRANSIENT = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DATA_LOSS,
    }
)
CLIENT_OPTIONS = (
    ("grpc.primary_user_agent", USER_AGENT),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),  # of gRPC's own probes, which keepalive waits for
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.enable_retries", 0),  # resuming is ours: gRPC's retry stops silently above 256 KiB
    ("grpc.use_local_subchannel_pool", 1),
)


def open_channel(
    address: str, identity: Identity | None, *, insecure: bool = False, more: tuple[tuple[str, int], ...] = ()
) -> grpc.Channel:
    """Open a channel.

    Args:
        address: host:port of the trainer.
        identity: our certificate and key; required unless insecure.
        insecure: no TLS at all: only for a link that is secured by other means.
        more: options of this channel alone, over CLIENT_OPTIONS.

    Raises:
        ConfigError: no identity and not explicitly insecure, or no address.
    """
    where = Address.parse(address)
    if insecure:
        LOG.warning("insecure_channel address=%s", where)
        return grpc.insecure_channel(str(where), options=(*CLIENT_OPTIONS, ("grpc.enable_http_proxy", 0)))
    if identity is None:
        raise ConfigError(f"an identity is needed to reach {address}; make one with `gymnast enroll`")
    credentials = grpc.ssl_channel_credentials(
        root_certificates=identity.authority, private_key=identity.key, certificate_chain=identity.certificate
    )
    proxy = proxy_for("https", where)  # not gRPC's own choice: that one takes http_proxy, too, and for this machine
    through = ("grpc.http_proxy", proxy.url) if proxy else ("grpc.enable_http_proxy", 0)
    return grpc.secure_channel(str(where), credentials, options=(*CLIENT_OPTIONS, *more, through))


def domain_error(error: grpc.RpcError) -> GymnastError:
    """Turn a failed call into an error of ours: by the name in its metadata, else by its status."""
    code = error.code() if callable(getattr(error, "code", None)) else grpc.StatusCode.UNKNOWN
    details = error.details() if callable(getattr(error, "details", None)) else str(error)
    trailing = error.trailing_metadata() if callable(getattr(error, "trailing_metadata", None)) else None
    retry, metadata = code in _TRANSIENT, {entry.key: entry.value for entry in trailing or ()}
    if ERROR_KEY in metadata:
        fields = str(metadata.get(FIELDS_KEY, ""))
        return error_from_wire(str(metadata[ERROR_KEY]), str(details), retry=retry, fields=fields)
    kind = TransientBridgeError if retry else RejectedBridgeError
    return kind(f"{code.name}: {details}")


def ended_error(error: grpc.RpcError, ask: Callable[[], object]) -> GymnastError:
    """Turn a failed call into an error of ours; why a server ended one under way, it says when it is called again.

    A call whose caller's certificate is taken back meanwhile is cancelled by the server, which gives no reason.

    Args:
        error: of the call.
        ask: calls the server for something that changes nothing.
    """
    found = domain_error(error)
    if error.code() is not grpc.StatusCode.CANCELLED:
        return found
    try:
        ask()
    except grpc.RpcError as failure:
        refused = domain_error(failure)
        return refused if isinstance(refused, IdentityError) else found
    except ValueError:  # gRPC's word for a channel that was closed: we ended the call ourselves
        return found
    return found
