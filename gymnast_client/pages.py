"""Calls for a person: seen and answered; robots raise them by gymnast_ros.uplink."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gymnast_client.client import Client, message, same_fields
from gymnast_client.reading import read_object
from gymnast_core.json_values import JsonObject
from gymnast_core.paging import PageDelivery, Tried
from gymnast_core.wire.gymnast.v1 import pages_pb2, pages_pb2_grpc

_TEST_DEADLINE_S = 60.0
_FIELDS = ("page_id", "robot", "kind", "text", "at_ns", "received_ns", "count", "latest_ns", "over_ns", "round",
           "acknowledged_by", "acknowledged_ns", "note")  # fmt: skip


@dataclass(frozen=True)
class PageView:
    """A call for a person, with those of its kind and robot that came before somebody answered.

    Attributes:
        page_id: of the first one.
        robot: whom it is about; empty where it is about none.
        kind: see gymnast_core.paging.KINDS.
        text: of the newest one.
        at_ns: wall clock of where the first one was raised.
        received_ns: the trainer's, when the first one came.
        count: how many came.
        latest_ns: the trainer's, when the newest one came.
        over_ns: when what it is about ended by itself; 0 while it has not.
        round: reminders so far.
        acknowledged_by: the person; empty while it is open.
        acknowledged_ns: when.
        note: of the person.
        detail: of the newest one, JSON values.
        deliveries: what receivers got.
    """

    page_id: str
    robot: str
    kind: str
    text: str
    at_ns: int
    received_ns: int
    count: int
    latest_ns: int
    over_ns: int
    round: int
    acknowledged_by: str
    acknowledged_ns: int
    note: str
    detail: JsonObject
    deliveries: tuple[PageDelivery, ...]


class PagesClient(Client):
    """Calls for a person."""

    def list(self, *, every: bool = False) -> Iterator[PageView]:
        """Open calls, or every one that is kept: open ones first, then by the newest."""
        rows = self._rows(
            lambda channel: pages_pb2_grpc.PageServiceStub(channel).List,
            lambda after: pages_pb2.ListPagesRequest(every=every, after=after),
            lambda reply: reply.pages,
            lambda row: row.page_id,
        )
        return map(_view, rows)

    def acknowledge(self, page_id: str, note: str = "") -> PageView:
        """Answer a call: you look after it. One that is answered already stays as it is.

        Raises:
            NotFoundError: there is no such call.
        """
        request = message(pages_pb2.AcknowledgePageRequest, page_id=page_id, note=note)
        return _view(self._link.call(lambda channel: pages_pb2_grpc.PageServiceStub(channel).Acknowledge, request))

    def test(self) -> tuple[Tried, ...]:
        """Send a message through every receiver, now; returns what became of each.

        Raises:
            NotFoundError: the trainer has none for us.
        """
        reply = self._link.once(
            lambda channel: pages_pb2_grpc.PageServiceStub(channel).Test, pages_pb2.TestPagesRequest(),
            timeout_s=_TEST_DEADLINE_S,
        )  # fmt: skip
        return tuple(Tried(row.receiver, row.way, row.error, row.seconds) for row in reply.receivers)


def _view(row: pages_pb2.CalledPage) -> PageView:
    names = tuple(PageDelivery.__dataclass_fields__)
    deliveries = tuple(PageDelivery(**same_fields(one, names)) for one in row.deliveries)
    return PageView(
        **same_fields(row, _FIELDS),
        detail=read_object(row.detail_json, f"the detail of page {row.page_id}"),
        deliveries=deliveries,
    )
