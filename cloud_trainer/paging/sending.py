"""One message to one receiver: over HTTP or SMTP, to the address in the settings and no other, by a deadline."""

from __future__ import annotations

import hashlib
import hmac
import json
import smtplib
import ssl
import time

import httpx

from cloud_trainer.paging.config import AddedReceiver, MailReceiver, Receiver, WebReceiver, revealed, web_address
from cloud_trainer.paging.message import Notice
from gymnast_core.errors import BridgeError, ConfigError

TIMEOUT_S = 10.0
"""Of connecting, and of each answer."""
_SHOWN = 200
SIGNATURE, TIMESTAMP, DELIVERY = "X-Gymnast-Signature", "X-Gymnast-Timestamp", "X-Gymnast-Delivery"


class NotDeliveredError(BridgeError):
    """A receiver did not take a message; the text names the reason and no secret."""


def send(receiver: Receiver, notice: Notice, *, timeout_s: float = TIMEOUT_S) -> None:
    """Deliver a message.

    Raises:
        NotDeliveredError: it was not reached, or refused.
    """
    try:
        if isinstance(receiver, MailReceiver):
            _mail(receiver, notice, timeout_s)
        elif isinstance(receiver, AddedReceiver):
            _notify(receiver, notice)
        else:
            _post(receiver, notice, timeout_s)
    except ConfigError as error:
        raise NotDeliveredError(str(error)) from error


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return what SIGNATURE holds: HMAC-SHA-256 of timestamp, a dot and the body, in hex."""
    return "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def _post(receiver: WebReceiver, notice: Notice, timeout_s: float) -> None:
    """Redirects are refused and proxies, .netrc and cookies are not looked at: the settings alone say where."""
    where = web_address(receiver)
    url, payload = where.geturl(), notice.to_json()
    if receiver.way == "slack":
        payload = notice.to_slack()
    elif receiver.way == "ntfy":
        before, _, topic = where.path.rstrip("/").rpartition("/")
        url, payload = where._replace(path=before or "/", query="").geturl(), notice.to_ntfy(topic)
    body = json.dumps(payload).encode()
    headers = {"Content-Type": "application/json", DELIVERY: notice.delivery, "User-Agent": "gymnast"}
    if receiver.secret:
        headers[TIMESTAMP] = str(int(time.time()))
        headers[SIGNATURE] = signature(revealed(receiver.secret, receiver.name), headers[TIMESTAMP], body)
    if receiver.token:
        headers["Authorization"] = f"Bearer {revealed(receiver.token, receiver.name)}"
    try:
        with (
            httpx.Client(
                verify=_trust(receiver.ca_file), timeout=timeout_s, follow_redirects=False, trust_env=False
            ) as client,
            client.stream("POST", url, content=body, headers=headers) as answer,
        ):  # its text is not read
            status = answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError, ValueError) as error:
        raise NotDeliveredError(f"{where.hostname}: {type(error).__name__}: {_without(str(error), url)}") from error
    if not 200 <= status < 300:
        why = "; redirects are not followed, name the new address" if 300 <= status < 400 else ""
        raise NotDeliveredError(f"{where.hostname} answered {status}{why}")


def _notify(receiver: AddedReceiver, notice: Notice) -> None:
    """A package's own way; what it raises is its reason. One that hangs holds up nobody but its own receiver."""
    send_it = receiver.notifier()
    try:
        send_it(notice.to_json())
    except Exception as error:  # somebody else's code may raise anything
        raise NotDeliveredError(f"{receiver.way}: {type(error).__name__}: {str(error)[:_SHOWN]}") from error


def _mail(receiver: MailReceiver, notice: Notice, timeout_s: float) -> None:
    trust = _trust(receiver.ca_file)
    try:
        if receiver.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(receiver.host, receiver.port, timeout=timeout_s, context=trust)
        else:
            server = smtplib.SMTP(receiver.host, receiver.port, timeout=timeout_s)
        with server:
            if receiver.security == "starttls":
                server.starttls(context=trust)  # raises where the server offers none
            if receiver.user:
                server.login(receiver.user, revealed(receiver.password, receiver.name))
            refused = server.send_message(notice.to_mail(receiver.sender, receiver.to), receiver.sender, receiver.to)
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raise NotDeliveredError(f"{receiver.host}: {type(error).__name__}: {str(error)[:_SHOWN]}") from error
    if refused:
        raise NotDeliveredError(f"{receiver.host} refused {', '.join(sorted(refused))}")


def _trust(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{ca_file} holds no certificates: {error}") from error


def _without(text: str, secret: str) -> str:
    return text.replace(secret, "the url")[:_SHOWN]
