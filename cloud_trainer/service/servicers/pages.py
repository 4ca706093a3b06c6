"""PageService: calls for a person."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from cloud_trainer.service.config import Limits
from cloud_trainer.service.handlers import PageHandlers
from cloud_trainer.service.servicers.messages import (
    MOST_CHARACTERS,
    bounded,
    fitting,
    json_field,
    json_text,
    page_after,
)
from cloud_trainer.store.sql_pages import PageRow
from gymnast_core.errors import ContractError
from gymnast_core.paging import MAX_DETAIL_BYTES, Acknowledgement, Page, PageDelivery
from gymnast_core.wire.errors import InvalidMessageError
from gymnast_core.wire.gymnast.v1 import pages_pb2
from gymnast_core.wire.identity import Peer

_MOST_RAISED, _MOST_UNANSWERED, _NAME = 100, 500, 80
_FIELDS = ("page_id", "robot", "kind", "text", "at_ns", "received_ns", "count", "latest_ns", "over_ns", "round",
           "acknowledged_by", "acknowledged_ns", "note")  # fmt: skip


class PageServicer:
    """Calls for a person."""

    def __init__(self, pages: PageHandlers, limits: Limits) -> None:
        self._pages, self._limits = pages, limits

    def Raise(
        self, request: pages_pb2.RaisePagesRequest, peer: Peer, context: grpc.ServicerContext
    ) -> pages_pb2.RaisePagesReply:
        """A robot's; its name is the certificate's."""
        raised = [self._page(one) for one in bounded("pages", request.pages, _MOST_RAISED)]
        unanswered = bounded("unanswered pages", request.unanswered, _MOST_UNANSWERED)
        resolved = {row.page_id: _answer(row) for row in bounded("answers", request.resolved, _MOST_RAISED)}
        kept, answers, unknown = self._pages.raise_all(peer, raised, unanswered, resolved)
        return pages_pb2.RaisePagesReply(
            kept=kept,
            unknown=unknown,
            resolved=list(resolved),
            answers=[pages_pb2.PageAnswer(page_id=name, **vars(found)) for name, found in answers.items()],
        )

    def List(
        self, request: pages_pb2.ListPagesRequest, peer: Peer, context: grpc.ServicerContext
    ) -> pages_pb2.ListPagesReply:
        """A page of them."""
        known = self._pages.all(peer, every=request.every)
        rows = page_after(known, lambda row: row.page_id, request.after, request.limit)
        if request.after and rows and rows[0] is known[0]:
            rows = []  # the row before is gone from the list: nothing follows it
        deliveries = self._pages.deliveries(peer, rows)
        return pages_pb2.ListPagesReply(pages=fitting(_called(row, deliveries.get(row.page_id, ())) for row in rows))

    def Acknowledge(
        self, request: pages_pb2.AcknowledgePageRequest, peer: Peer, context: grpc.ServicerContext
    ) -> pages_pb2.CalledPage:
        """Answer one."""
        bounded("characters of a note", request.note, MOST_CHARACTERS)
        row = self._pages.acknowledge(peer, request.page_id, request.note)
        return _called(row, self._pages.deliveries(peer, [row]).get(row.page_id, ()))

    def Test(
        self, request: pages_pb2.TestPagesRequest, peer: Peer, context: grpc.ServicerContext
    ) -> pages_pb2.TestPagesReply:
        """Try every receiver."""
        return pages_pb2.TestPagesReply(
            receivers=[pages_pb2.TriedReceiver(**vars(tried)) for tried in self._pages.test(peer)]
        )

    def _page(self, message: pages_pb2.RaisedPage) -> Page:
        detail = {} if len(message.detail_json) > MAX_DETAIL_BYTES else json_field(message.detail_json, self._limits)
        try:
            return Page(message.kind[:80], "", message.text, message.at_ns, detail, message.page_id)
        except ContractError as error:
            raise InvalidMessageError(str(error)) from error


def _answer(message: pages_pb2.PageAnswer) -> Acknowledgement:
    return Acknowledgement(message.by[:_NAME], message.at_ns, message.note[:MOST_CHARACTERS])


def _called(row: PageRow, deliveries: Sequence[PageDelivery]) -> pages_pb2.CalledPage:
    values = {name: getattr(row, name) for name in _FIELDS}
    return pages_pb2.CalledPage(
        **values, detail_json=json_text(row.detail),
        deliveries=[pages_pb2.PageDelivery(**vars(one)) for one in deliveries],
    )  # fmt: skip
