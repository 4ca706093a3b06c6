"""Calls for a person in SQL: each kept once, those of one kind together, and what receivers got of them.

A call that comes while an older one of the same robot and kind is open joins it: one answer answers both, and a flood
is one call with a count.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from cloud_trainer.store.database import Database
from cloud_trainer.store.tables import PAGE_MESSAGES, PAGES
from gymnast_core.json_values import JsonObject
from gymnast_core.paging import Acknowledgement, Page, PageDelivery
from gymnast_core.wire.errors import NotFoundError

_OPEN = (PAGES.c.acknowledged_ns == 0) & (PAGES.c.joined == "")
_WAITS = (PAGE_MESSAGES.c.sent_ns == 0) & (PAGES.c.over_ns == 0)
_OF_PAGE = (PAGES.c.tenant == PAGE_MESSAGES.c.tenant) & (PAGES.c.page_id == PAGE_MESSAGES.c.page_id)


@dataclass(frozen=True)
class PageRow:
    """A call, with those that joined it.

    Attributes:
        tenant: whose.
        page_id: of the first one.
        robot: whom it is about; empty where it is about none.
        kind: see gymnast_core.paging.KINDS.
        text: of the newest one.
        detail: of the newest one, JSON values.
        at_ns: wall clock of where the first one was raised.
        received_ns: the trainer's, when the first one came.
        count: how many.
        latest_ns: the trainer's, when the newest one came.
        over_ns: when what it was about had ended by itself; 0 while it has not.
        round: messages of each receiver so far, less the first.
        remind_ns: when the next reminder is due.
        acknowledged_by: the person; empty while it is open.
        acknowledged_ns: when.
        note: of the person.
    """

    tenant: str
    page_id: str
    robot: str
    kind: str
    text: str
    detail: JsonObject
    at_ns: int
    received_ns: int
    count: int
    latest_ns: int
    over_ns: int
    round: int
    remind_ns: int
    acknowledged_by: str
    acknowledged_ns: int
    note: str


_SHOWN = [PAGES.c[name] for name in PageRow.__dataclass_fields__]


class SqlPageStore:
    """Calls and messages, on SQLite or PostgreSQL. Threads and processes may share them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, tenant: str, page: Page, now_ns: int, remind_ns: int, messages: Mapping[str, int]) -> bool:
        """Keep a call, once; returns whether it opens a new one.

        Args:
            tenant: whose.
            page: the call.
            now_ns: wall clock.
            remind_ns: when a reminder is due, if this opens a new one.
            messages: receiver -> when its message of a new one is due.
        """
        values = {
            "tenant": tenant, "page_id": page.page_id, "robot": page.robot, "kind": page.kind, "text": page.text,
            "detail": json.dumps(dict(page.detail)), "at_ns": page.at_ns, "received_ns": now_ns, "joined": "",
            "count": 1, "latest_ns": now_ns, "over_ns": 0, "round": 0, "remind_ns": remind_ns, "acknowledged_by": "",
            "acknowledged_ns": 0, "note": "",
        }  # fmt: skip
        same = (PAGES.c.tenant == tenant) & (PAGES.c.robot == page.robot) & (PAGES.c.kind == page.kind)
        with self._database.transaction() as connection:
            self._database.next_number(connection, "pages", 0)  # one at a time: two may not both find no open one
            head = connection.execute(sa.select(PAGES.c.page_id).where(same & _OPEN)).scalar()
            if not self._database.insert_new(connection, PAGES, values | {"joined": head or ""}):
                return False
            if head is not None:
                newest = {name: values[name] for name in ("text", "detail", "latest_ns", "over_ns")}
                joined = (PAGES.c.tenant == tenant) & (PAGES.c.page_id == head)
                connection.execute(sa.update(PAGES).where(joined).values(**newest, count=PAGES.c.count + 1))
                return False
            self._queue(connection, tenant, page.page_id, page.kind, 0, messages)
            return True

    def remind(self, row: PageRow, remind_ns: int, messages: Mapping[str, int]) -> None:
        """Begin another round for a call, unless somebody has begun it or answered meanwhile.

        Args:
            row: the call as it was found due.
            remind_ns: when the round after it is due.
            messages: receiver -> when its message is due; one that still waits for an earlier one gets no second.
        """
        mine = (PAGES.c.tenant == row.tenant) & (PAGES.c.page_id == row.page_id) & (PAGES.c.round == row.round)
        waiting = sa.select(PAGE_MESSAGES.c.receiver).where(
            (PAGE_MESSAGES.c.tenant == row.tenant)
            & (PAGE_MESSAGES.c.page_id == row.page_id)
            & (PAGE_MESSAGES.c.sent_ns == 0)
        )
        with self._database.transaction() as connection:
            begun = sa.update(PAGES).where(mine & _OPEN).values(round=row.round + 1, remind_ns=remind_ns)
            if connection.execute(begun).rowcount:
                late = set(connection.execute(waiting).scalars())
                fresh = {name: due_ns for name, due_ns in messages.items() if name not in late}
                self._queue(connection, row.tenant, row.page_id, row.kind, row.round + 1, fresh)

    def acknowledge(self, tenant: str, page_id: str, answer: Acknowledgement) -> PageRow:
        """Close a call; one that is closed already stays as it is.

        Raises:
            NotFoundError: the tenant has no such call.
        """
        with self._database.transaction() as connection:
            head = self._head(connection, tenant, page_id)
            mine = (PAGES.c.tenant == tenant) & (PAGES.c.page_id == head)
            closed = {"acknowledged_by": answer.by, "acknowledged_ns": answer.at_ns, "note": answer.note}
            connection.execute(sa.update(PAGES).where(mine & _OPEN).values(**closed))
            return _row(connection.execute(sa.select(*_SHOWN).where(mine)).mappings().one())

    def over(self, tenant: str, robot: str, kind: str, now_ns: int) -> None:
        """Note that what an open call is about has ended by itself: it waits for its answer without reminders."""
        same = (PAGES.c.tenant == tenant) & (PAGES.c.robot == robot) & (PAGES.c.kind == kind) & (PAGES.c.over_ns == 0)
        with self._database.transaction() as connection:
            connection.execute(sa.update(PAGES).where(same & _OPEN).values(over_ns=now_ns))

    def get(self, tenant: str, page_id: str) -> PageRow:
        """Return a call, or the one that it joined.

        Raises:
            NotFoundError: the tenant has no such call.
        """
        with self._database.transaction() as connection:
            head = self._head(connection, tenant, page_id)
            mine = (PAGES.c.tenant == tenant) & (PAGES.c.page_id == head)
            return _row(connection.execute(sa.select(*_SHOWN).where(mine)).mappings().one())

    def answers(self, tenant: str, robot: str, page_ids: Iterable[str]) -> dict[str, Acknowledgement]:
        """Return the answers that calls of a robot have, by id; those without one are left out."""
        head = PAGES.alias("head")
        joined = sa.select(PAGES.c.page_id, head.c.acknowledged_by, head.c.acknowledged_ns, head.c.note).join(
            head,
            (head.c.tenant == PAGES.c.tenant)
            & (head.c.page_id == sa.case((PAGES.c.joined == "", PAGES.c.page_id), else_=PAGES.c.joined)),
        )
        mine = (PAGES.c.tenant == tenant) & (PAGES.c.robot == robot) & PAGES.c.page_id.in_(list(page_ids))
        with self._database.transaction() as connection:
            rows = connection.execute(joined.where(mine & (head.c.acknowledged_ns > 0))).all()
        return {page_id: Acknowledgement(by, at_ns, note) for page_id, by, at_ns, note in rows}

    def known(self, tenant: str, robot: str, page_ids: Iterable[str]) -> set[str]:
        """Return those of some ids that are calls of a robot."""
        mine = (PAGES.c.tenant == tenant) & (PAGES.c.robot == robot) & PAGES.c.page_id.in_(list(page_ids))
        with self._database.transaction() as connection:
            return set(connection.execute(sa.select(PAGES.c.page_id).where(mine)).scalars())

    def calls(self, tenant: str, *, open_only: bool = False, limit: int = 200) -> Sequence[PageRow]:
        """Return a tenant's calls: open ones first, then by the newest."""
        mine = (PAGES.c.tenant == tenant) & (PAGES.c.joined == "")
        query = sa.select(*_SHOWN).where(mine & _OPEN if open_only else mine)
        first = sa.case((PAGES.c.acknowledged_ns == 0, 0), else_=1)
        with self._database.transaction() as connection:
            rows = connection.execute(query.order_by(first, PAGES.c.latest_ns.desc()).limit(limit)).mappings().all()
        return [_row(row) for row in rows]

    def due(self, now_ns: int) -> Sequence[PageRow]:
        """Return the open calls of all tenants whose reminder is due."""
        query = sa.select(*_SHOWN).where(_OPEN & (PAGES.c.over_ns == 0) & (PAGES.c.remind_ns <= now_ns))
        with self._database.transaction() as connection:
            return [_row(row) for row in connection.execute(query.limit(500)).mappings()]

    def waiting(self, receiver: str) -> Sequence[tuple[PageRow, int, int, int]]:
        """Return what a receiver shall get, the longest due first: call, round, attempts that failed, when it is due.

        What was answered meanwhile, or is over, is not sent any more.
        """
        extra = [PAGE_MESSAGES.c[name].label(f"m_{name}") for name in ("round", "attempts", "due_ns")]
        query = sa.select(*_SHOWN, *extra).join(PAGE_MESSAGES, _OF_PAGE)
        query = query.where((PAGE_MESSAGES.c.receiver == receiver) & _WAITS & _OPEN).order_by(PAGE_MESSAGES.c.due_ns)
        with self._database.transaction() as connection:
            rows = [dict(row) for row in connection.execute(query.limit(500)).mappings()]
        return [(_row(row), *(row[f"m_{name}"] for name in ("round", "attempts", "due_ns"))) for row in rows]

    def last_sent_ns(self, receiver: str, kind: str) -> int:
        """Return when a receiver last got a message of a kind; 0 before the first."""
        mine = (PAGE_MESSAGES.c.receiver == receiver) & (PAGE_MESSAGES.c.kind == kind)
        with self._database.transaction() as connection:
            return int(connection.execute(sa.select(sa.func.max(PAGE_MESSAGES.c.sent_ns)).where(mine)).scalar() or 0)

    def sent(self, receiver: str, rows: Sequence[tuple[PageRow, int]], now_ns: int) -> None:
        """Note that a receiver has got some."""
        self._note(receiver, rows, {"sent_ns": now_ns, "error": ""})

    def failed(self, receiver: str, rows: Sequence[tuple[PageRow, int]], due_ns: int, error: str) -> None:
        """Note that a receiver was not reached, and when it is tried again."""
        self._note(receiver, rows, {"due_ns": due_ns, "error": error, "attempts": PAGE_MESSAGES.c.attempts + 1})

    def deliveries(self, tenant: str, page_ids: Sequence[str]) -> dict[str, list[PageDelivery]]:
        """Return what receivers got of some calls, by call, in the order of rounds."""
        shown = [PAGE_MESSAGES.c[name] for name in PageDelivery.__dataclass_fields__]
        mine = (PAGE_MESSAGES.c.tenant == tenant) & PAGE_MESSAGES.c.page_id.in_(page_ids)
        query = sa.select(PAGE_MESSAGES.c.page_id, *shown).where(mine)
        found: dict[str, list[PageDelivery]] = {}
        with self._database.transaction() as connection:
            ordered = query.order_by(PAGE_MESSAGES.c.round, PAGE_MESSAGES.c.receiver)
            for page_id, *values in connection.execute(ordered):
                found.setdefault(page_id, []).append(PageDelivery(*values))
        return found

    def version(self, tenant: str) -> str:
        """Return something that changes with every call, message and answer of a tenant."""
        calls = sa.select(
            sa.func.count(), *(sa.func.max(PAGES.c[name]) for name in ("latest_ns", "acknowledged_ns", "over_ns"))
        )
        messages = sa.select(sa.func.max(PAGE_MESSAGES.c.sent_ns), sa.func.sum(PAGE_MESSAGES.c.attempts))
        with self._database.transaction() as connection:
            found = [*connection.execute(calls.where(PAGES.c.tenant == tenant)).one()]
            found += connection.execute(messages.where(PAGE_MESSAGES.c.tenant == tenant)).one()
        return "-".join(str(value or 0) for value in found)

    def forget_receivers(self, known: Sequence[str]) -> None:
        """Drop what waits for receivers that are no longer configured."""
        gone = (PAGE_MESSAGES.c.sent_ns == 0) & PAGE_MESSAGES.c.receiver.not_in(known)
        with self._database.transaction() as connection:
            connection.execute(sa.delete(PAGE_MESSAGES).where(gone))

    def _queue(
        self, connection: sa.Connection, tenant: str, page_id: str, kind: str, round_: int, due: Mapping[str, int]
    ) -> None:
        fixed = {"tenant": tenant, "page_id": page_id, "kind": kind, "round": round_, "attempts": 0}
        for receiver, due_ns in due.items():
            values = {**fixed, "receiver": receiver, "due_ns": due_ns, "sent_ns": 0, "error": ""}
            self._database.insert_new(connection, PAGE_MESSAGES, values)

    def _note(self, receiver: str, rows: Sequence[tuple[PageRow, int]], values: Mapping[str, Any]) -> None:
        with self._database.transaction() as connection:
            for row, round_ in rows:
                mine = (PAGE_MESSAGES.c.tenant == row.tenant) & (PAGE_MESSAGES.c.page_id == row.page_id)
                mine = mine & (PAGE_MESSAGES.c.receiver == receiver) & (PAGE_MESSAGES.c.round == round_)
                connection.execute(sa.update(PAGE_MESSAGES).where(mine).values(**values))

    @staticmethod
    def _head(connection: sa.Connection, tenant: str, page_id: str) -> str:
        """The call that one is part of."""
        mine = (PAGES.c.tenant == tenant) & (PAGES.c.page_id == page_id)
        joined = connection.execute(sa.select(PAGES.c.joined).where(mine)).scalar()
        if joined is None:
            raise NotFoundError(f"there is no page {page_id[:80]!r}; `gymnast pages list --all` shows them")
        return str(joined) or page_id


def _row(row: Mapping[Any, Any]) -> PageRow:
    values = {name: row[name] for name in PageRow.__dataclass_fields__}
    return PageRow(**values | {"detail": json.loads(row["detail"])})
