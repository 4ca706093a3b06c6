"""Where calls for a person go: one file, named by `gymnast serve --pages`; it names secrets and holds none."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from gymnast_core.errors import ConfigError
from gymnast_core.extensions import NOTIFIERS, extension, installed
from gymnast_core.paging import KINDS
from gymnast_core.settings import NotNegative, Positive, Says, Settings, Texts, did_you_mean, settings_in
from gymnast_core.wire.address import is_loopback

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"), Says("up to 64 letters, digits, _ . and -")]
Secret = Annotated[str, Field(pattern=r"^(@.+|env:[A-Za-z_][A-Za-z0-9_]*)?$"), Says("@FILE or env:VARIABLE")]
"""The file or variable that holds it: a secret is neither in this file nor in a list of processes."""


class _Receiver(Settings):
    """What every receiver has."""

    where: ClassVar[str] = "receiver"

    name: Name
    """Its name, in lists and in the log."""
    kinds: Texts = ()
    """Kinds of calls that it gets; empty gets all."""
    robots: Texts = ()
    """Names of the robots whose calls it gets; empty gets those of all, and of none."""
    tenant: str = "default"
    """Whose calls it gets."""
    after_minutes: NotNegative = 0.0
    """Gets a call only when nobody has answered it for so long: whoever is woken second."""

    @model_validator(mode="after")
    def _known_kinds(self) -> _Receiver:
        for kind in self.kinds:
            if kind not in KINDS:
                raise ConfigError(
                    f"receiver {self.name}: there is no kind {kind!r}{did_you_mean(kind, KINDS)}; there are "
                    f"{', '.join(KINDS)}"
                )
        return self

    def gets(self, tenant: str, kind: str, robot: str) -> bool:
        """Whether a call is for it."""
        return tenant == self.tenant and kind in (self.kinds or (kind,)) and robot in (self.robots or (robot,))


class WebReceiver(_Receiver):
    """Gets an HTTP POST."""

    way: Literal["webhook", "slack", "ntfy"]
    """webhook is our own JSON; slack is what Slack, Mattermost and others take; ntfy is what an ntfy server takes."""
    url: str
    """Where it is sent; @FILE or env:VARIABLE where the address itself is the secret, as with Slack and ntfy."""
    secret: Secret = ""
    """webhook: key of the signature in the header X-Gymnast-Signature."""
    token: Secret = ""
    """Sent as Authorization: Bearer."""
    ca_file: str = ""
    """Certificates that may have signed the receiver's; the system's otherwise."""
    plain: bool = False
    """Send over HTTP, readable by everybody on the way, to another machine."""

    @model_validator(mode="after")
    def _signed_webhooks_only(self) -> WebReceiver:
        if self.secret and self.way != "webhook":
            raise ConfigError(f"receiver {self.name}: secret signs a webhook; {self.way} takes a token, or none")
        return self


class MailReceiver(_Receiver):
    """Gets an e-mail."""

    way: Literal["email"]
    """Over SMTP."""
    host: str
    """Of the SMTP server."""
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    """Of the SMTP server."""
    security: Literal["starttls", "tls", "none"] = "starttls"
    """none is for a server on this machine, or with plain = true."""
    user: str = ""
    """To log in with; empty logs in nowhere."""
    password: Secret = ""
    """Of the user."""
    sender: str
    """Address it comes from."""
    to: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    """Addresses it goes to."""
    ca_file: str = ""
    """Certificates that may have signed the server's; the system's otherwise."""
    plain: bool = False
    """Send readable by everybody on the way, to another machine."""

    @model_validator(mode="after")
    def _sensible(self) -> MailReceiver:
        for address in (self.sender, *self.to):
            if "@" not in address or any(char.isspace() or ord(char) < 32 for char in address):
                raise ConfigError(f"receiver {self.name}: {address[:80]!r} is no e-mail address")
        if self.security == "none" and not (self.plain or is_loopback(self.host)):
            raise ConfigError(
                f'receiver {self.name}: mail to {self.host} would be readable on the way; use security = "starttls" or '
                '"tls", or write plain = true'
            )
        if bool(self.user) != bool(self.password):
            raise ConfigError(f"receiver {self.name}: give user and password, or neither")
        return self


class AddedReceiver(_Receiver):
    """Gets what a notifier of an installed package sends (gymnast_core.extensions), which gets all other settings."""

    model_config = ConfigDict(extra="allow")
    where: ClassVar[str] = "receiver"

    way: str
    """webhook, slack, ntfy, email, or the name under which an installed package adds one."""

    @model_validator(mode="after")
    def _is_installed(self) -> AddedReceiver:
        if self.way not in (others := installed(NOTIFIERS)):
            raise ConfigError(f"receiver {self.name}: way {self.way!r} is not one of {', '.join((*BUILT_IN, *others))}")
        return self

    def notifier(self) -> Callable[[Mapping[str, object]], object]:
        """Make it, its secrets revealed.

        Raises:
            ConfigError: it cannot be imported, does not take these settings, or a secret is missing.
        """
        values = {
            name: revealed(value, self.name) if isinstance(value, str) else value
            for name, value in (self.model_extra or {}).items()
        }
        try:
            made: Callable[[Mapping[str, object]], object] = extension(NOTIFIERS, self.way)(**values)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"receiver {self.name}: {self.way} does not take its settings: {error}") from error
        return made


BUILT_IN = ("webhook", "slack", "ntfy", "email")


def _tag(value: object) -> str:
    way = value.get("way") if isinstance(value, Mapping) else getattr(value, "way", None)
    if way not in BUILT_IN:
        return "added"
    return "email" if way == "email" else "web"


Receiver = Annotated[
    Annotated[WebReceiver, Tag("web")] | Annotated[MailReceiver, Tag("email")] | Annotated[AddedReceiver, Tag("added")],
    Discriminator(_tag),
]


class PagingConfig(Settings):
    """Where calls for a person go, and how often."""

    where: ClassVar[str] = "paging"

    receivers: Annotated[tuple[Receiver, ...], Field(strict=False)] = ()
    """Each gets the calls that its kinds, robots and tenant name."""
    remind_minutes: Positive = 15.0
    """A call that nobody has answered is sent again after so long, then after twice, four and eight times as long."""
    quiet_s: NotNegative = 60.0
    """Least time between two messages of one kind to one receiver; what comes meanwhile is one message with a count."""
    stop_minutes: Positive = 10.0
    """How long an emergency stop may be latched while the robot has work, before it is a call."""
    silent_minutes: Positive = 2.0
    """How long a robot that has work may not report, before it is a call."""
    page_url: str = ""
    """Address of the operator's page, for a link in each message."""

    @model_validator(mode="after")
    def _names_once(self) -> PagingConfig:
        names = [receiver.name for receiver in self.receivers]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"paging: two receivers are called {', '.join(doubled)}; names are unique")
        return self


def read_paging(path: Path) -> PagingConfig:
    """Read the file, and check that every secret it names is there.

    Raises:
        ConfigError: unreadable, a setting that makes no sense, or a secret that is missing; the message names it.
    """
    values = dict(settings_in(path, "the receivers of pages in"))
    config = PagingConfig.model_validate(_beside(values, path.parent.resolve()))
    for receiver in config.receivers:
        if isinstance(receiver, AddedReceiver):
            receiver.notifier()
            continue
        if isinstance(receiver, WebReceiver):
            web_address(receiver)
            revealed(receiver.secret, receiver.name), revealed(receiver.token, receiver.name)
        else:
            revealed(receiver.password, receiver.name)
        if receiver.ca_file and not Path(receiver.ca_file).is_file():
            raise ConfigError(f"receiver {receiver.name}: there is no file {receiver.ca_file}")
    return config


def revealed(named: str, whose: str) -> str:
    """Return the secret that @FILE or env:VARIABLE names; anything else as it is.

    Raises:
        ConfigError: there is none.
    """
    if named.startswith("env:"):
        if not (found := os.environ.get(named[4:], "")):
            raise ConfigError(f"receiver {whose}: the variable {named[4:]} is not set")
        return found
    if not named.startswith("@"):
        return named
    try:
        found = Path(named[1:]).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"receiver {whose}: {named[1:]!r} cannot be read: {error}") from error
    if not found:
        raise ConfigError(f"receiver {whose}: {named[1:]!r} is empty")
    return found


def web_address(receiver: WebReceiver) -> SplitResult:
    """Return where a receiver is, with its secret part; nothing that a call says has a part in it.

    Raises:
        ConfigError: no address, or one that others on the way could read.
    """
    whose = receiver.name
    try:
        parts = urlsplit(revealed(receiver.url, whose))
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ConfigError(f"receiver {whose}: its url is none: {error}") from error
    if parts.scheme not in ("https", "http") or not host or port == 0:
        raise ConfigError(f"receiver {whose}: its url must begin with https:// and name a host")
    if parts.username or parts.password or parts.fragment:
        raise ConfigError(f"receiver {whose}: its url must hold neither a user nor a fragment; use token")
    if parts.scheme == "http" and not (receiver.plain or is_loopback(host)):
        raise ConfigError(f"receiver {whose}: http://{host} is readable on the way; use https, or write plain = true")
    if receiver.way == "ntfy" and not parts.path.strip("/"):
        raise ConfigError(f"receiver {whose}: the url of ntfy ends with the topic, e.g. https://ntfy.sh/my-lab")
    return parts


def _beside(values: dict[str, object], folder: Path) -> dict[str, object]:
    """Files are named from the folder of the file that names them."""

    def placed(name: str, value: object) -> object:
        if not isinstance(value, str) or not value:
            return value
        if name == "ca_file":
            return str(folder / value)
        return f"@{folder / value[1:]}" if value.startswith("@") else value

    receivers = values.get("receivers")
    if isinstance(receivers, list):
        values["receivers"] = [
            {name: placed(name, value) for name, value in receiver.items()} if isinstance(receiver, dict) else receiver
            for receiver in receivers
        ]
    return values
