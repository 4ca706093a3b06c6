"""ConsoleService: the way from a certificate to the operator's page."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from cloud_trainer.service.guard import VERSION
from gymnast_core.errors import ConfigError
from gymnast_core.wire.gymnast.v1 import console_pb2
from gymnast_core.wire.identity import Peer

TOKEN_S = 12 * 3600
LogIn = Callable[[Peer, float], tuple[str, str]]
"""Gets the caller and for how long [s]; returns the page's address and a token."""


class ConsoleServicer:
    """Logins.

    Attributes:
        log_in: of the page; None while this trainer serves none.
    """

    def __init__(self) -> None:
        self.log_in: LogIn | None = None

    def LogIn(
        self, request: console_pb2.LogInRequest, peer: Peer, context: grpc.ServicerContext
    ) -> console_pb2.LogInReply:
        """Give the caller a token for its own name and role."""
        if self.log_in is None:
            raise ConfigError("this trainer serves no page; start it without --no-console")
        address, token = self.log_in(peer, TOKEN_S)
        return console_pb2.LogInReply(address=address, token=token, valid_for_s=TOKEN_S, trainer_version=VERSION)
