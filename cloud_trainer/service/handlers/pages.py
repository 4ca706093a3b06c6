"""Calls for a person: robots raise them, people see and answer them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from cloud_trainer.paging.config import Receiver
from cloud_trainer.paging.desk import PageDesk
from cloud_trainer.records.trail import Trails
from cloud_trainer.service.pace import RobotPace
from cloud_trainer.store.sql_pages import PageRow
from gymnast_core.authority import Who, authorise
from gymnast_core.paging import Acknowledgement, Page, PageDelivery, Tried
from gymnast_core.wire.errors import QuotaError

LOG = logging.getLogger(__name__)


class PageHandlers:
    """See the module.

    Args:
        desk: keeps and delivers them.
        trails: where actions are written down.
        pace: kind of call -> how many a robot may raise; of each its own, so that a flood of one hides no other.
    """

    def __init__(self, desk: PageDesk, trails: Trails, pace: Mapping[str, RobotPace]) -> None:
        self.desk, self._trails, self._pace = desk, trails, pace

    def raise_all(
        self, who: Who, pages: Sequence[Page], unanswered: Sequence[str], resolved: Mapping[str, Acknowledgement]
    ) -> tuple[list[str], dict[str, Acknowledgement], list[str]]:
        """Keep what a robot raises; returns the ids that are kept, answers to those it waits for, and unknown ones.

        What somebody has answered at the robot is answered here, too, in the robot's words and marked as such; each
        before the next call comes in, which would join it otherwise and be taken for answered with it.

        What it raised too many of within the hour is not kept; it brings it again later.
        """
        authorise(who, "report")
        kept = list(self.desk.store.known(who.tenant, who.name, [page.page_id for page in pages]))
        for page in pages:
            if page.page_id not in kept:
                try:
                    self._pace.get(page.kind, self._pace["other"]).take(who)
                except QuotaError as error:
                    LOG.warning("page_not_kept kind=%s robot=%s error=%s", page.kind, who.name, error)
                    continue
                self.desk.raise_page(who.tenant, replace(page, robot=who.name))
                kept.append(page.page_id)
            if page.page_id in resolved:
                self._resolve(who, page.page_id, resolved[page.page_id])
        for page_id in self.desk.store.known(who.tenant, who.name, resolved.keys() - set(kept)):
            self._resolve(who, page_id, resolved[page_id])
        store, known = self.desk.store, self.desk.store.known(who.tenant, who.name, unanswered)
        answers = store.answers(who.tenant, who.name, [*known, *kept])
        return kept, answers, [page_id for page_id in unanswered if page_id not in known]

    def _resolve(self, who: Who, page_id: str, answer: Acknowledgement) -> None:
        """Note that somebody at the robot has answered a call."""
        asked, by = {"page": page_id, "note": answer.note, "at_the_robot": answer.by}, f"robot:{who.name}/{answer.by}"
        with self._trails.of(who.tenant).committing(who, "acknowledge", asked):
            self.desk.acknowledge(who.tenant, page_id, by, answer.note)

    def all(self, who: Who, *, every: bool = True) -> list[PageRow]:
        """Return the tenant's calls, open ones first, then by the newest."""
        authorise(who, "look")
        return list(self.desk.store.calls(who.tenant, open_only=not every))

    def deliveries(self, who: Who, rows: Sequence[PageRow]) -> dict[str, list[PageDelivery]]:
        """Return what receivers got of some calls, by call."""
        authorise(who, "look")
        return self.desk.store.deliveries(who.tenant, [row.page_id for row in rows])

    def receivers(self, who: Who) -> list[Receiver]:
        """Return the receivers of the tenant; their addresses and secrets are shown to nobody."""
        authorise(who, "look")
        return [receiver for receiver in self.desk.config.receivers if receiver.tenant == who.tenant]

    def acknowledge(self, who: Who, page_id: str, note: str) -> PageRow:
        """Answer a call: the caller looks after it. One that is answered already stays as it is.

        Raises:
            NotFoundError: there is no such call.
        """
        authorise(who, "acknowledge")
        row = self.desk.store.get(who.tenant, page_id)
        if row.acknowledged_ns:
            return row
        asked = {"page": row.page_id, "kind": row.kind, "robot": row.robot, "note": note}
        with self._trails.of(who.tenant).committing(who, "acknowledge", asked):
            return self.desk.acknowledge(who.tenant, page_id, who.name, note)

    def test(self, who: Who) -> list[Tried]:
        """Send a message through every receiver of the tenant, now; returns what became of each.

        Raises:
            NotFoundError: it has none.
        """
        authorise(who, "test pages")
        with self._trails.of(who.tenant).acting(who, "test pages", {}):
            return self.desk.test(who.tenant, who.name)

    def version(self, tenant: str) -> str:
        """Return something that changes with every call, message and answer."""
        return self.desk.store.version(tenant)
