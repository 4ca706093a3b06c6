"""Brings calls for a person to the trainer and their answers back, on a link of its own, for as long as it runs."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

from gymnast_client.waits import Waits
from gymnast_core.errors import GymnastError, TransientBridgeError
from gymnast_core.paging import Acknowledgement
from gymnast_core.wire.gymnast.v1 import pages_pb2, pages_pb2_grpc
from gymnast_core.wire.identity import Identity
from gymnast_ros.outbox import PageOutbox
from gymnast_ros.uplink.link_task import LinkTask

LOG = logging.getLogger(__name__)
LOOK_S = 0.5
"""Between looks into the folder."""
ASK_S = 2.0
"""Between questions after answers."""
MOST_WAIT_S = 30.0
NOT_KEPT_S = 5.0
"""After the trainer kept some of the calls alone: it was sent too many of a kind."""
DEADLINE_S = 10.0
_AT_ONCE = 50


class PageCourier(LinkTask):
    """See the module. What is not at the trainer when it ends stays in the outbox.

    Args:
        address: host:port of the trainer.
        identity: identity folder (or the loaded one); None only with insecure.
        outbox: of the robot.
        insecure: no TLS.
    """

    def __init__(
        self, address: str, identity: Path | Identity | None, outbox: PageOutbox, *, insecure: bool = False
    ) -> None:
        super().__init__("pages", address, identity, insecure=insecure)
        self._outbox, self._asked_s = outbox, 0.0

    def _run(self) -> None:
        waits, wait_s = Waits(LOOK_S, MOST_WAIT_S), 0.0
        while not self._stop.wait(wait_s):
            wait_s = LOOK_S
            try:
                if not self._bring():
                    wait_s = NOT_KEPT_S
                waits.reset()
            except (GymnastError, OSError, ValueError) as error:  # ValueError: gRPC's for a channel closed meanwhile
                wait_s = LOOK_S + waits.next_s()
                LOG.warning("pages_not_brought wait_s=%.1f error=%s: %s", wait_s, type(error).__name__, error)
                if isinstance(error, TransientBridgeError):
                    self._link.reconnect()

    def _bring(self) -> bool:
        """Ship what waits, and ask after what nobody has answered; returns whether the trainer keeps all of it."""
        waiting, unanswered = self._outbox.waiting(_AT_ONCE), self._outbox.unanswered()
        if not waiting and (not unanswered or time.monotonic() - self._asked_s < ASK_S):
            return True
        self._asked_s = time.monotonic()
        rows = [
            pages_pb2.RaisedPage(page_id=page.page_id, kind=page.kind, text=page.text, at_ns=page.at_ns,
                                 detail_json=json.dumps(dict(page.detail)))
            for page in waiting
        ]  # fmt: skip
        resolved = self._outbox.resolved([page.page_id for page in waiting])
        answers = [pages_pb2.PageAnswer(page_id=name, **vars(found)) for name, found in resolved.items()]
        request = pages_pb2.RaisePagesRequest(pages=rows, unanswered=unanswered, resolved=answers)
        reply = self._link.once(
            lambda channel: pages_pb2_grpc.PageServiceStub(channel).Raise, request, timeout_s=DEADLINE_S
        )
        self._outbox.taken(reply.kept)
        self._outbox.settled(reply.resolved)
        self._outbox.lost(reply.unknown)
        for row in reply.answers:
            self._outbox.answered(row.page_id, Acknowledgement(row.by, row.at_ns, row.note))
            LOG.info("page_answered id=%s by=%s note=%s", row.page_id, row.by, row.note)
        return len(reply.kept) == len(waiting)
