"""Takes calls for a person, and sees to it that one comes: a thread for each receiver, one for reminders.

A call is durable before its caller goes on; nobody waits for a receiver. What cannot be delivered is tried again, later
each time, until the call is answered or over; a message may come twice (its X-Gymnast-Delivery is then the same), never
not at all.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from cloud_trainer.paging.config import PagingConfig, Receiver
from cloud_trainer.paging.message import Notice
from cloud_trainer.paging.sending import NotDeliveredError, send
from cloud_trainer.store.database import Database
from cloud_trainer.store.sql_pages import PageRow, SqlPageStore
from gymnast_core.errors import GymnastError
from gymnast_core.paging import KINDS, MAX_TEXT, Acknowledgement, Page, Tried
from gymnast_core.wire.errors import NotFoundError

LOG = logging.getLogger(__name__)
_S, _MINUTE = 1_000_000_000, 60_000_000_000
_LONGEST_SLEEP_S = 30.0
"""Until the clock is looked at again: the wall clock may be set."""
RETRY_S, MOST_RETRY_S = 5.0, 300.0
"""Between tries: at first, and at most."""
_SLOWEST = 3
"""Reminders come after 1, 2, 4 and from then on 8 times as long."""


class PageDesk:
    """See the module. Threads may share it.

    Args:
        database: of the trainer.
        config: who is called.
        clock_ns: wall clock.
    """

    def __init__(self, database: Database, config: PagingConfig, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.config, self._clock_ns = config, clock_ns
        self.store = SqlPageStore(database)
        self._stop = threading.Event()
        self._wakes = {receiver.name: threading.Event() for receiver in config.receivers}
        self._plan = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Deliver what waits, also from before a restart."""
        self.store.forget_receivers(list(self._wakes))
        works: list[tuple[str, Callable[[], float], threading.Event]] = [
            (receiver.name, lambda receiver=receiver: self._deliver(receiver), self._wakes[receiver.name])  # type: ignore[misc]
            for receiver in self.config.receivers
        ]
        for name, work, wake in [*works, ("reminders", self._remind, self._plan)]:
            thread = threading.Thread(target=self._run, args=(work, wake), name=f"pages-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, timeout_s: float = 2.0) -> None:
        """End; what was not delivered waits for the next start. A receiver that hangs is left to the process's end."""
        self._stop.set()
        self._wake()
        deadline_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def raise_page(self, tenant: str, page: Page) -> None:
        """Keep a call, and begin to deliver it; the same one again changes nothing.

        Raises:
            StorageError: the database failed; nothing was kept.
        """
        if page.kind not in KINDS:
            page = replace(page, kind="other", text=f"{page.kind[:40]}: {page.text}")
        page, now_ns = replace(page, text=page.text[:MAX_TEXT]), self._clock_ns()
        remind_ns = now_ns + round(self.config.remind_minutes * _MINUTE)
        due = self._due(tenant, page.kind, page.robot, now_ns)
        if self.store.add(tenant, page, now_ns, remind_ns, due):
            LOG.warning("page kind=%s robot=%s id=%s receivers=%d", page.kind, page.robot, page.page_id, len(due))
            if not due:
                LOG.error("page_without_receiver kind=%s robot=%s: only the page and `gymnast pages list` show it",
                          page.kind, page.robot)  # fmt: skip
        self._wake()

    def over(self, tenant: str, robot: str, kind: str) -> None:
        """What a call is about has ended by itself: no more reminders; it stays open for its answer."""
        self.store.over(tenant, robot, kind, self._clock_ns())

    def acknowledge(self, tenant: str, page_id: str, by: str, note: str) -> PageRow:
        """Close a call: somebody looks after it. One that is closed stays as it was.

        Raises:
            NotFoundError: there is no such call.
        """
        return self.store.acknowledge(tenant, page_id, Acknowledgement(by, self._clock_ns(), note[:MAX_TEXT]))

    def test(self, tenant: str, by: str) -> list[Tried]:
        """Send a message through every receiver of a tenant, now; returns what became of each.

        Raises:
            NotFoundError: the tenant has no receiver.
        """
        receivers = [receiver for receiver in self.config.receivers if receiver.tenant == tenant]
        if not receivers:
            raise NotFoundError("no receiver is configured; name some in a file: gymnast serve --pages pages.toml")
        now_ns, page = self._clock_ns(), Page("test", "", f"{by} tries who is called; nothing has happened")
        row = PageRow(tenant, page.page_id, "", page.kind, page.text, {}, now_ns, now_ns, 1, now_ns, 0, 0, 0, "", 0, "")
        with ThreadPoolExecutor(max_workers=8, thread_name_prefix="pages-test") as pool:
            return list(pool.map(lambda receiver: self._tried(receiver, row), receivers))

    def _tried(self, receiver: Receiver, row: PageRow) -> Tried:
        began_s, error = time.monotonic(), ""
        try:
            send(receiver, Notice([row], 0, self._clock_ns(), self.config.page_url))
        except NotDeliveredError as failure:
            error = str(failure)
        return Tried(receiver.name, receiver.way, error, time.monotonic() - began_s)

    def _due(self, tenant: str, kind: str, robot: str, now_ns: int, open_ns: int = 0) -> Mapping[str, int]:
        """Receiver -> when it shall be called; one that waits for others to answer counts from the beginning."""
        began_ns = now_ns - open_ns
        return {
            receiver.name: max(now_ns, began_ns + round(receiver.after_minutes * _MINUTE))
            for receiver in self.config.receivers
            if receiver.gets(tenant, kind, robot)
        }

    def _wake(self) -> None:
        for event in (self._plan, *self._wakes.values()):
            event.set()

    def _run(self, work: Callable[[], float], wake: threading.Event) -> None:
        """Work, and sleep for as long as it says or until there is news."""
        while not self._stop.is_set():
            wake.clear()
            try:
                sleep_s = work()
            except GymnastError as error:  # the database: it is tried again
                LOG.error("pages_failed thread=%s error=%s", threading.current_thread().name, error)
                sleep_s = RETRY_S
            except Exception:  # a bug in one message must not silence all others
                LOG.exception("pages_failed thread=%s", threading.current_thread().name)
                sleep_s = _LONGEST_SLEEP_S
            wake.wait(min(sleep_s, _LONGEST_SLEEP_S))

    def _remind(self) -> float:
        """Begin another round for every call that nobody has answered in time; returns when to look again."""
        for row in self.store.due(now_ns := self._clock_ns()):
            later = self.config.remind_minutes * 2 ** min(row.round + 1, _SLOWEST)
            due = self._due(row.tenant, row.kind, row.robot, now_ns, now_ns - row.received_ns)
            self.store.remind(row, now_ns + round(later * _MINUTE), due)
            LOG.warning("page_unanswered kind=%s robot=%s id=%s", row.kind, row.robot, row.page_id)
            for wake in self._wakes.values():
                wake.set()
        return min(_LONGEST_SLEEP_S, self.config.remind_minutes * 60 / 4)

    def _deliver(self, receiver: Receiver) -> float:
        """Send what a receiver shall get now; returns in how many seconds there may be more."""
        now_ns, sleep_ns = self._clock_ns(), round(_LONGEST_SLEEP_S * _S)
        kinds: dict[tuple[str, str], list[tuple[PageRow, int, int]]] = {}
        for row, round_, attempts, due_ns in self.store.waiting(receiver.name):
            if due_ns <= now_ns:
                kinds.setdefault((row.tenant, row.kind), []).append((row, round_, attempts))
            else:
                sleep_ns = min(sleep_ns, due_ns - now_ns)
        for (_, kind), waiting in kinds.items():
            if self._stop.is_set():
                break
            quiet_ns = self.store.last_sent_ns(receiver.name, kind) + round(self.config.quiet_s * _S) - now_ns
            wait_ns = quiet_ns if quiet_ns > 0 else self._send(receiver, waiting)
            sleep_ns = min(sleep_ns, wait_ns)
        return sleep_ns / _S

    def _send(self, receiver: Receiver, waiting: Sequence[tuple[PageRow, int, int]]) -> int:
        """One message for calls of one kind; returns in how many nanoseconds it is tried again."""
        rows = [(row, round_) for row, round_, _ in waiting]
        now_ns = self._clock_ns()
        notice = Notice([row for row, _ in rows], max(round_ for _, round_ in rows), now_ns, self.config.page_url)
        try:
            send(receiver, notice)
        except NotDeliveredError as error:
            tries = min(attempts for _, _, attempts in waiting)
            wait_s = min(MOST_RETRY_S, RETRY_S * 2.0 ** min(tries, 10))
            LOG.warning("page_not_delivered receiver=%s kind=%s wait_s=%.0f error=%s",
                        receiver.name, notice.kind, wait_s, error)  # fmt: skip
            self.store.failed(receiver.name, rows, now_ns + round(wait_s * _S), str(error))
            return round(wait_s * _S)
        self.store.sent(receiver.name, rows, self._clock_ns())
        LOG.info("page_delivered receiver=%s kind=%s calls=%d", receiver.name, notice.kind, notice.count)
        return round(_LONGEST_SLEEP_S * _S)
