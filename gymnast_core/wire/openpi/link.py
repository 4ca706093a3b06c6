"""How a robot reaches a server of openpi's protocol: openpi://HOST:PORT, or openpis://HOST:PORT over TLS."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from gymnast_core.errors import ConfigError
from gymnast_core.settings import Positive
from gymnast_core.wire.address import Address, is_loopback
from gymnast_core.wire.openpi.keys import Keys, read_keys
from gymnast_core.wire.token import read_token

PLAIN, SECURED = "openpi://", "openpis://"
MAX_ROWS = 1000
"""Of one chunk; openpi's own have 50 at most."""


class LinkSettings(Keys):
    """The keys of a policy server, and what else a robot has to know of it."""

    where: ClassVar[str] = "openpi"

    horizon: Annotated[int, Field(ge=0, le=MAX_ROWS)] = 0
    """Actions of each chunk that are executed; 0 is all that come, which an observation of black pictures finds out."""
    greet_s: Positive = 120.0
    """Longest wait for the first answer of all: a server may compile its policy over it."""
    token: str = ""
    """File with the token that the server wants."""
    authority: str = ""
    """PEM file of the authority that vouches for an openpis:// server; empty trusts those of this machine."""
    unprotected: bool = False
    """Take openpi:// to another machine, too: whoever is on the way can read the pictures and choose the actions."""


@dataclass(frozen=True)
class OpenpiPlace:
    """A policy server, as checked settings describe it.

    Attributes:
        address: where.
        secured: over TLS.
        settings: see LinkSettings.
    """

    address: Address
    secured: bool
    settings: LinkSettings

    @staticmethod
    def of(url: str, keys: str) -> OpenpiPlace:
        """Read an address and the settings that belong to it.

        Args:
            url: openpi://HOST:PORT or openpis://HOST:PORT.
            keys: a style, or a YAML file of LinkSettings.

        Raises:
            ConfigError: the address or a setting makes no sense, or the link would be open to a network.
        """
        secured = url.startswith(SECURED)
        address = Address.parse(url.removeprefix(SECURED if secured else PLAIN))
        settings = read_keys(keys, LinkSettings)
        if not secured and not is_loopback(address.host):
            if not settings.unprotected:
                raise ConfigError(
                    f"{url} leaves this machine without TLS, and whoever is on the way could choose the actions: use "
                    f"{SECURED}, or a tunnel that ends at 127.0.0.1, or set unprotected: true in a file for the "
                    "argument openpi"
                )
            if settings.token:
                raise ConfigError(f"a token would be read on the way to {url}; use {SECURED}, or leave it out")
        place = OpenpiPlace(address, secured, settings)
        place.secret()
        place.context()
        return place

    def __str__(self) -> str:
        """As in `gymnast up --policy`."""
        return f"{SECURED if self.secured else PLAIN}{self.address}"

    @property
    def uri(self) -> str:
        """For a websocket."""
        return f"{'wss' if self.secured else 'ws'}://{self.address}"

    @property
    def name(self) -> str:
        """What its policies are called, of letters that an id may have."""
        return "openpi-" + re.sub(r"[^A-Za-z0-9_]+", "-", str(self.address)).strip("-")[-46:]

    def secret(self) -> str:
        """The token to show; empty where there is none.

        Raises:
            ConfigError: the file holds none.
        """
        return read_token(Path(self.settings.token)) if self.settings.token else ""

    def context(self) -> ssl.SSLContext | None:
        """What the server's certificate is held against; None without TLS.

        Raises:
            ConfigError: the authority's file holds none.
        """
        if not self.secured:
            return None
        try:
            context = ssl.create_default_context(cafile=self.settings.authority or None)
            # a websocket is read and written in two threads: what is written while the one that reads takes a ticket,
            # which TLS 1.3 sends when it likes, can be lost (2 of 150 connections on a busy machine, 0 of 250 with 1.2)
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            return context
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ConfigError(f"openpi authority {self.settings.authority} is no PEM file: {error}") from error
