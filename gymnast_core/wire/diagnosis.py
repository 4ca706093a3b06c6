"""Why a trainer is not reached: a TLS connection beside gRPC's, whose errors have types where gRPC's have words."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable

from gymnast_core.errors import GymnastError, TransientBridgeError
from gymnast_core.wire.address import Address
from gymnast_core.wire.errors import NotAuthenticatedError
from gymnast_core.wire.identity import CERTIFICATE, KEY, Identity, names_in
from gymnast_core.wire.proxy import Proxy, proxy_for

_WAIT_S, _AGAIN_S = 3.0, 0.3
_LONGEST_HEAD, _MOST_NAMES = 16_384, 20
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG")
_WRONG_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_OUT_OF_DATE = {9: "is not valid yet", 10: "has expired"}  # X509_V_ERR_CERT_NOT_YET_VALID, _HAS_EXPIRED


def diagnose(address: Address, identity: Identity | None) -> GymnastError | None:
    """Return what is wrong between here and a trainer.

    Args:
        address: of the trainer.
        identity: our certificate and key; None where no TLS is spoken.

    Returns:
        A NotAuthenticatedError where one side does not accept the other, a TransientBridgeError where the machine is
        not reached, None where nothing is found to be wrong.
    """
    if identity is None:
        return _attempt(lambda: _speaks_tls(address))
    if reason := identity.out_of_date():
        return NotAuthenticatedError(reason)
    found = _attempt(lambda: _shake_hands(address, identity))
    if not isinstance(found, UnwelcomeError):
        return found
    time.sleep(_AGAIN_S)  # a trainer that is just stopping hangs up on everybody; one look more shows that
    return _attempt(lambda: _shake_hands(address, identity))


class UnwelcomeError(NotAuthenticatedError):
    """The trainer ended the connection as soon as it had seen our certificate."""


def _attempt(look: Callable[[], GymnastError | None]) -> GymnastError | None:
    try:
        return look()
    except TransientBridgeError as error:
        return error
    except OSError:
        return None  # the link broke on the way: no more is known than before


def _reach(address: Address, proxy: Proxy | None) -> socket.socket:
    """Connect, through the proxy if there is one.

    Raises:
        TransientBridgeError: the machine, its name or the proxy is not reached.
    """
    where = proxy.address if proxy else address
    remedy = f"set NO_PROXY={address.host} to go without it" if proxy else "does the trainer run there?"
    shown = str(proxy or address)
    try:
        connection = socket.create_connection((where.host, where.port), _WAIT_S)
    except socket.gaierror as error:
        raise TransientBridgeError(
            f"no address is known for {where.host!r} ({error.strerror}); check the name"
        ) from error
    except OSError as error:
        raise TransientBridgeError(f"{shown} is not reached ({error.strerror or error}); {remedy}") from error
    if proxy is None:
        return connection
    connection.sendall(f"CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n{proxy.authorisation()}\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < _LONGEST_HEAD and (more := connection.recv(4096)):
        answer += more
    status = answer.partition(b"\r\n")[0].decode("latin-1")[:100]
    if " 200" in status:
        return connection
    connection.close()
    raise TransientBridgeError(f"{shown} does not connect to {address} ({status or 'no answer'}); {remedy}")


def _shake_hands(address: Address, identity: Identity) -> GymnastError | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as gRPC: any certificate that is trusted ends the chain
    context.load_verify_locations(cadata=identity.authority.decode())
    context.load_cert_chain(identity.folder / CERTIFICATE, identity.folder / KEY)
    context.set_alpn_protocols(["h2"])
    with _reach(address, proxy_for("https", address)) as connection:
        try:
            with context.wrap_socket(connection, server_hostname=address.host) as channel:
                welcome = channel.recv(1)  # a server that accepts our certificate speaks first, another one hangs up
        except TimeoutError:
            return None
        except ssl.SSLCertVerificationError as error:
            return _distrusted(error, address, identity)
        except ssl.SSLError as error:
            if error.reason in _NO_TLS:
                return NotAuthenticatedError(f"{address} speaks no TLS; is it a trainer, started without --insecure?")
            if "ALERT" not in (error.reason or ""):
                return None
            return _unwelcome(address, identity, str(error.reason))
    return None if welcome else _unwelcome(address, identity, "it hung up")


def _unwelcome(address: Address, identity: Identity, reason: str) -> UnwelcomeError:
    return UnwelcomeError(
        f"{address} does not accept the certificate in {identity.folder} ({identity.peer.name!r}): {reason}. It was "
        f"issued by another trainer's authority, or by one that was made anew since; enroll again"
    )


def _distrusted(error: ssl.SSLCertVerificationError, address: Address, identity: Identity) -> GymnastError:
    if error.verify_code in _WRONG_NAME:
        names = ", ".join(names_in(shown_certificate(address))[:_MOST_NAMES]) or "nothing"
        return NotAuthenticatedError(
            f"{address.host!r} was expected in the trainer's certificate, which names {names}; use one of these, or "
            f"start the trainer with --name {address.host}"
        )
    if error.verify_code in _OUT_OF_DATE:
        return NotAuthenticatedError(
            f"the certificate of {address} {_OUT_OF_DATE[error.verify_code]}; check the clocks of both machines, or "
            f"start the trainer again"
        )
    return NotAuthenticatedError(
        f"the certificate of {address} was not issued by the authority in {identity.folder}: another trainer answers "
        f"there, or somebody in between, or its authority was made anew ({error.verify_message})"
    )


def _speaks_tls(address: Address) -> GymnastError | None:
    if not shown_certificate(address):
        return None
    return NotAuthenticatedError(f"{address} speaks TLS; give --identity instead of --insecure")


def shown_certificate(address: Address) -> bytes:
    """Return PEM of what a server shows, unverified; nothing if it speaks no TLS.

    Raises:
        TransientBridgeError: the machine is not reached.
    """
    try:
        connection = _reach(address, proxy_for("https", address))
        with connection, _unverified().wrap_socket(connection) as channel:
            return ssl.DER_cert_to_PEM_cert(channel.getpeercert(binary_form=True) or b"").encode()
    except (ssl.SSLError, TimeoutError):
        return b""


def _unverified() -> ssl.SSLContext:
    """A context that looks and trusts nothing: no byte of ours is sent over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context
