"""Gives every robot that reports what it shall do next, and takes in what it has done.

A portion is written down before it is given, so that a trainer that was killed goes on hearing of it; it is repeated
until its end was heard, and bears its own name, by which a robot that was started again goes on where it was.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from cloud_trainer.flows.queue_book import (
    FRESH_S,
    REASON_CHARACTERS,
    QueueBook,
    RobotKey,
    Setback,
    ended,
    order_id_of,
    order_of,
    portion_seeds,
)
from cloud_trainer.flows.queue_rules import next_range, task_named
from cloud_trainer.store.protocols import EpisodeRow
from cloud_trainer.store.sql_queue import PortionRow, QueuePause, QueueRow, StartRow, new_portion_id
from gymnast_core.authority import Who
from gymnast_core.evaluation.attempts import is_first_attempt
from gymnast_core.json_values import JsonObject
from gymnast_core.orders import EpisodeAnswer, EvaluationAnswer, Order, OrderError, OrderNews, answer_of
from gymnast_core.queue import StartsSpec
from gymnast_core.robot_status import RobotStatus, SpoolStatus, WeightsStatus

LOG = logging.getLogger(__name__)
EPISODE_S = 900.0
"""Longest an episode may take on a robot, its label by a person included."""
AGAIN_S = (5.0, 20.0)
"""Until a robot that failed at an entry tries it again; after the third time in a row it does not."""
PRACTISE = "practise"
Recorded = Callable[[str, str, int], list[EpisodeRow]]
"""Given tenant, robot and a wall clock: the episodes of this robot that came since, for those whose answer was lost."""


class QueueDispatch:
    """See the module. Threads may share it.

    Args:
        book: of the trainer.
        recorded: see Recorded.
    """

    def __init__(self, book: QueueBook, recorded: Recorded = lambda tenant, robot, since_ns: []) -> None:
        self._book, self._recorded = book, recorded

    def heard(self, who: Who, news: OrderNews | None, status: RobotStatus) -> Order | None:
        """Take in a robot's report; returns what it shall be doing now."""
        key, book = (who.tenant, who.name), self._book
        with book.changed:
            self.seen(who, status)
            portion = book.portions.get(key)
            known = portion is not None and news is not None and news.order_id == order_id_of(portion)
            if portion is not None and news is not None and known:
                if not news.done:
                    return self._order(portion)
                self._take_in(portion, news)
            elif news is not None and not news.done:
                return None  # what nobody asks for any more: it is ended first
            book.changed.notify_all()
            if not self._free(key, idle=known or status.get("state") == "idle"):
                return None
            return self._next_order(key)

    def seen(self, who: Who, status: RobotStatus) -> None:
        """Note that a robot speaks, also one that does something for a flow."""
        with self._book.changed:
            now = self._book.robot((who.tenant, who.name))
            now.status, now.heard_s = status, self._book.clock_s()

    def _next_order(self, key: RobotKey) -> Order | None:
        """What a free robot does next: the portion it has in hand, if there is one, or a new one."""
        book = self._book
        portion = book.portions.get(key)
        row = None if portion is None else book.entries.get(portion.entry_id)
        if portion is not None and (row is None or row.paused):
            self._harvest(portion)
            book.drop_portion(key)
            portion = None
        if portion is None:
            self._look_for_the_gone(key[0])
            portion = self._give(key)
        elif book.setbacks.get((portion.entry_id, key[1]), Setback()).until_s > book.clock_s():
            return None
        return None if portion is None else self._order(portion)

    def _order(self, portion: PortionRow) -> Order:
        return order_of(portion, _by(self._book.entries[portion.entry_id]))

    def _free(self, key: RobotKey, *, idle: bool) -> bool:
        """Whether a robot may begin something now."""
        now = self._book.robot(key)
        stopped = now.status.get("estop") or now.status.get("spool", SpoolStatus()).get("full")
        allowed = bool(now.status.get("takes_orders")) and key not in self._book.pauses
        return idle and allowed and not stopped and not now.holder

    def withdraw(self, entry_id: str) -> None:
        """Take an entry's portions out of its robots' hands, which end them when they next report."""
        with self._book.changed:
            for key in [key for key, portion in self._book.portions.items() if portion.entry_id == entry_id]:
                self._harvest(self._book.portions[key])
                self._book.drop_portion(key)

    def first(self, key: RobotKey) -> QueueRow | None:
        """Return the entry whose turn it is on a robot that is free; None where none may go."""
        book = self._book
        if key in book.pauses or book.closing:
            return None
        return next((row for row in book.open_of(key[0]) if key[1] in row.robots and self._may_go(row, key)), None)

    def _may_go(self, row: QueueRow, key: RobotKey) -> bool:
        book, now_s = self._book, self._book.clock_s()
        if row.paused:
            return False
        if row.flow:
            return book.wanting.get(row.entry_id, 0.0) > now_s
        setback = book.setbacks.get((row.entry_id, key[1]), Setback())
        if setback.times > len(AGAIN_S) or setback.until_s > now_s:
            return False
        if row.kind == "practice":
            return not any(portion.entry_id == row.entry_id for portion in book.portions.values())
        spec, status = StartsSpec.model_validate(row.spec), book.robot(key).status
        return self.holds(status, spec.checkpoint) and self._left(row, spec) > 0

    @staticmethod
    def holds(status: RobotStatus, checkpoint: str) -> bool:
        """Whether a robot can run a checkpoint now."""
        held = status.get("weights", WeightsStatus()).get("held", ())
        return checkpoint in (status.get("policy_version"), *held)

    def _left(self, row: QueueRow, spec: StartsSpec) -> int:
        return spec.episodes - len(self._book.starts(row.entry_id).keys() | self._book.in_hand(row.entry_id))

    def _give(self, key: RobotKey) -> PortionRow | None:
        """Give a free robot its next portion; None where there is none for it."""
        book, (tenant, name) = self._book, key
        row = self.first(key)
        if row is None or row.flow:  # a flow takes the robot in its own thread
            return None
        kind, spec = (PRACTISE, {**row.spec}) if row.kind == "practice" else ("evaluate", self._portion(row, name))
        portion = PortionRow(new_portion_id(), tenant, name, row.entry_id, 1, kind, {}, time.time_ns())
        portion = replace(portion, spec={**spec, "resume": portion.portion_id})
        with book.store.transaction():
            book.store.give(portion)
            book.put(replace(row, state="running", since_ns=time.time_ns(), reason=""))
        book.portions[key] = portion
        return portion

    def _portion(self, row: QueueRow, robot: str) -> JsonObject:
        book, spec = self._book, StartsSpec.model_validate(row.spec)
        taken = book.starts(row.entry_id).keys() | book.in_hand(row.entry_id)
        alive = [name for name in row.robots if name == robot or book.silent_s((row.tenant, name)) < FRESH_S]
        part = next_range(spec, taken, len(alive))
        assert part is not None  # _may_go
        return {
            "tasks": list(part.tasks), "seed_start": part.seed_start, "seed_count": part.seed_count,
            "checkpoints": [spec.checkpoint], "scene": spec.scene, "temperature_seed": spec.temperature_seed,
            "record": spec.record, "purpose": "collect" if row.kind == "episode" else "evaluate",
            "retry": None if spec.retry is None else spec.retry.model_dump(),
            **({} if spec.temperature is None else {"temperature": spec.temperature}),  # an older robot knows none
            "timeout_s": EPISODE_S * len(part.keys) * (1 if spec.retry is None else spec.retry.max),
        }  # fmt: skip

    def _take_in(self, portion: PortionRow, news: OrderNews) -> None:
        """A robot reports the end of what it had in hand."""
        book, key = self._book, (portion.tenant, portion.robot)
        row = book.entries.get(portion.entry_id)
        if row is None:
            book.drop_portion(key)
            return
        try:
            starts = [] if portion.kind == PRACTISE or news.error else self._starts(row, portion, news)
        except OrderError as error:
            self._failed(row, portion, str(error))
            return
        if news.error:
            self._failed(row, portion, news.error, occupied=news.occupied)
            return
        book.drop_portion(key)
        book.setbacks.pop((row.entry_id, portion.robot), None)
        if portion.kind == PRACTISE:
            book.put(replace(ended(row, "done", ""), result=news.result))
            return
        book.note(row, starts)
        if missing := portion_starts(portion).episodes - len(starts):
            why = f"{missing} episodes of {row.entry_id} were cut short at the robot; resume it when it may go on"
            self._pause(key, why)

    def _starts(self, row: QueueRow, portion: PortionRow, news: OrderNews) -> list[StartRow]:
        answer = answer_of(EvaluationAnswer, portion.robot, portion.kind, news.result)
        spec, seeds = portion_starts(portion), portion_seeds(portion)
        found = []
        for one in answer.episodes:
            task = task_named(spec, one.task, one.instruction)
            if task is None or one.seed not in seeds:
                raise OrderError(
                    f"{portion.robot} answered {row.entry_id} with an episode that was not asked for: task "
                    f"{one.task[:80]!r}, seed {one.seed}"
                )
            found.append(_start(task, one, portion.robot))
        return found

    def _failed(self, row: QueueRow, portion: PortionRow, error: str, *, occupied: bool = False) -> None:
        """A robot could not do its portion: it tries again later, and after the third time others do.

        One that is occupied by people at it has not failed, and tries again for as long as that lasts.
        """
        book, key = self._book, (portion.tenant, portion.robot)
        setback = book.setbacks.setdefault((row.entry_id, portion.robot), Setback())
        setback.times += not occupied
        LOG.warning("portion_failed entry=%s robot=%s times=%d error=%s", row.entry_id, key[1], setback.times, error)
        reason = f"{portion.robot}: {error}"[:REASON_CHARACTERS]
        if setback.times <= len(AGAIN_S):
            setback.until_s = book.clock_s() + AGAIN_S[max(0, setback.times - 1)]
            again = replace(portion, attempt=portion.attempt + 1)
            with book.store.transaction():
                book.store.give(again)
                book.put(replace(row, reason=reason))
            book.portions[key] = again
            return
        self._harvest(portion)
        book.drop_portion(key)
        row = book.entries.get(row.entry_id, row)
        others = [name for name in row.robots if book.setbacks.get((row.entry_id, name), Setback()).times <= 2]
        if not row.ended:
            gone = "" if others else "; it rests, resume it when that is mended"
            book.put(replace(row, reason=f"{reason}{gone}"[:REASON_CHARACTERS], paused=row.paused or not others))

    def _pause(self, key: RobotKey, why: str) -> None:
        pause = QueuePause(*key, key[1], why, time.time_ns())
        self._book.store.pause(pause)
        self._book.pauses[key] = pause
        self._book.touch(key[0])

    def _look_for_the_gone(self, tenant: str) -> None:
        """Take back what robots have in hand that are silent, where another one that speaks may do it."""
        book = self._book
        for key, portion in list(book.portions.items()):
            row = book.entries.get(portion.entry_id)
            if key[0] != tenant or row is None or book.silent_s(key) < book.gone_s:
                continue
            if any(book.silent_s((tenant, name)) < FRESH_S for name in row.robots if name != key[1]):
                LOG.warning("portion_given_back entry=%s robot=%s", row.entry_id, key[1])
                self._harvest(portion)
                book.drop_portion(key)

    def _harvest(self, portion: PortionRow) -> None:
        """Take in the episodes of a portion that are here although nobody answered for them."""
        row = self._book.entries.get(portion.entry_id)
        if row is None or portion.kind == PRACTISE:
            return
        spec, seeds, found = portion_starts(portion), portion_seeds(portion), []
        for episode in self._recorded(portion.tenant, portion.robot, portion.given_ns):
            if episode.metadata.get("resume") != portion.portion_id or not is_first_attempt(episode.metadata):
                continue
            seed, won = episode.metadata.get("seed"), {"success": True, "failure": False}.get(episode.outcome)
            task = task_named(spec, str(episode.metadata.get("task", "")), episode.instruction)
            if won is not None and task is not None and isinstance(seed, int) and seed in seeds:
                found.append(StartRow(task, seed, portion.robot, won, episode.episode_id, episode.labelled_by, "",
                                      episode.received_ns))  # fmt: skip
        if found:
            self._book.note(row, found)


def portion_starts(portion: PortionRow) -> StartsSpec:
    """Return the episodes that a portion is made of."""
    return StartsSpec.model_validate({name: portion.spec[name] for name in ("tasks", "seed_start", "seed_count")})


def _by(row: QueueRow) -> str:
    """As robots show it to whoever finds them busy, see gymnast_core.orders.Order."""
    return f"{row.asked_by} via {row.entry_id}, which `gymnast queue cancel {row.entry_id}` ends"


def _start(task: str, row: EpisodeAnswer, robot: str) -> StartRow:
    by = f"robot:{robot}/{row.labelled_by}" if row.labelled_by else ""
    return StartRow(task, row.seed, robot, row.success, row.episode_id, by, row.truncated_reason, time.time_ns())
