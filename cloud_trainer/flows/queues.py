"""The queues of a trainer's robots: what they hold, who gets a robot next, and how flows take their turns."""

from __future__ import annotations

from collections.abc import Callable

from cloud_trainer.flows.queue_begin import QueueBeginnings
from cloud_trainer.flows.queue_book import QueueBook
from cloud_trainer.flows.queue_dispatch import QueueDispatch
from cloud_trainer.flows.queue_turns import Over, QueueTurns
from cloud_trainer.store.protocols import EpisodeRow, MetaStore
from cloud_trainer.store.sql_queue import SqlQueueStore

LOOKED_AT = 2000
"""Newest episodes of a tenant among which those are looked for that a robot made without answering for them."""


class RobotQueues:
    """See the module.

    Args:
        store: keeps them.
        meta: the catalogue of episodes.
        newest: sequence of a tenant's newest episode.
        over: see Over.
        has_ended: why a flow has ended, see QueueBeginnings.

    Attributes:
        book: what they hold.
        dispatch: who gets a robot next.
        turns: of flows.
        beginnings: of flows that change what robots run.
    """

    def __init__(
        self, store: SqlQueueStore, meta: MetaStore, newest: Callable[[str], int], over: Over, has_ended: Over
    ) -> None:
        def recorded(tenant: str, robot: str, since_ns: int) -> list[EpisodeRow]:
            first = max(0, newest(tenant) - LOOKED_AT)
            rows = meta.episodes(tenant, after=first, limit=LOOKED_AT, states=["valid"], robot=robot)
            return [row for row in rows if row.received_ns >= since_ns]

        self.book = QueueBook(store)
        self.dispatch = QueueDispatch(self.book, recorded)
        self.turns = QueueTurns(self.book, self.dispatch, over)
        self.beginnings = QueueBeginnings(self.book, has_ended)

    def close(self) -> None:
        """Give no robot to anybody from now on; what robots have in hand they keep."""
        self.book.close()
