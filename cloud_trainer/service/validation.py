"""Looks into episodes after they are safe: valid ones may be learned from, others are set aside with a reason."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from cloud_trainer.service import metrics
from cloud_trainer.service.inspector import Inspector
from cloud_trainer.store.protocols import BlobStore, EpisodeRow, MetaStore
from gymnast_core.errors import CorruptError, GymnastError
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.wire.errors import InvalidMessageError, NotFoundError

LOG = logging.getLogger(__name__)
_BATCH = 100
_PAUSE_S = 1.0
_REASON_CHARACTERS = 500
_MOST_ENDS = 2
_Robot = tuple[str, str]


def settled(current: EpisodeRow, checked: EpisodeRow) -> EpisodeRow:
    """Return a row with what validation found, as far as nobody has said something else meanwhile.

    Args:
        current: the row as it is now.
        checked: the row as it was read, with what its file holds.
    """
    if current.state != "committed":  # withdrawn while it was being validated
        return current
    if current.labelled_by:
        return replace(checked, outcome=current.outcome, labelled_by=current.labelled_by)
    return checked


def quarantined(row: EpisodeRow, reason: str) -> EpisodeRow:
    """Return the row set aside; the reason may quote the file, so only what any database takes is kept of it."""
    LOG.warning("episode_quarantined tenant=%s episode=%s reason=%a", row.tenant, row.episode_id, reason[:2000])
    kept = reason.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return replace(row, state="quarantined", reason=kept[:_REASON_CHARACTERS])


class AtHand:
    """Which file is being looked into, in a file of its own: what took the whole service with it is known afterwards.

    Where a child that runs out of memory takes its parent along (a container whose processes are killed together), the
    same file would end the service at every start. One end may be anybody's kill at a bad moment; two are the file's.

    Args:
        path: of the note.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            digest, _, ends = path.read_text().partition(" ")
            self._ends = {digest: int(ends)}
        except (OSError, ValueError):
            self._ends = {}

    @contextmanager
    def note(self, digest: str) -> Iterator[None]:
        """Hold on to what is looked into until it has been.

        Raises:
            CorruptError: the service ended twice while this file was.
        """
        ends = self._ends.pop(digest, 0)
        if ends >= _MOST_ENDS:
            self._path.unlink(missing_ok=True)
            raise CorruptError(f"the service ended {ends} times while it was looked into")
        self._path.write_text(f"{digest} {ends + 1}")
        try:
            yield
        finally:
            self._path.unlink(missing_ok=True)


class Validator:
    """A thread that validates what is committed, also what a former run left. Nothing a file holds can end it.

    Args:
        blobs: where files are.
        meta: the catalogue.
        note: file that remembers what is being looked into.
        spec: limits of the arm.
        inspector: looks into one file.
    """

    def __init__(
        self,
        blobs: BlobStore,
        meta: MetaStore,
        note: Path,
        *,
        spec: RobotSpec = WIDOWX_250S,
        inspector: Inspector | None = None,
    ) -> None:
        self._blobs, self._meta, self._spec = blobs, meta, spec
        self._at_hand = AtHand(note)
        self._inspector = inspector or Inspector()
        self._condition = threading.Condition()
        self._work, self._busy, self._stopped = True, False, False
        self._thread = threading.Thread(target=self._run, name="validate", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """There are new episodes."""
        with self._condition:
            self._work = True
            self._condition.notify_all()

    def settle(self, timeout_s: float) -> bool:
        """Wait until nothing is left to validate; False when the time is over."""
        with self._condition:
            return self._condition.wait_for(lambda: not self._work and not self._busy, timeout_s)

    def stop(self) -> None:
        """End; an episode at hand is looked into at the next start. Safe where it never began."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()
        self._inspector.close()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._busy = False
                self._condition.notify_all()
                self._condition.wait_for(lambda: self._work or self._stopped)
                if self._stopped:
                    return
                self._work, self._busy = False, True
            try:
                again = self._validate_all()
            except Exception:  # whatever it is, what comes after is validated all the same
                LOG.exception("validation_paused")
                again = True
            with self._condition:
                self._work = self._work or again
                if again:
                    self._condition.wait_for(lambda: self._stopped, _PAUSE_S)

    def _validate_all(self) -> bool:
        """Go once through what is committed; returns whether some had to be left for another time.

        Robots take turns by the time their files took, so that one whose files are slow does not hold up the others.
        """
        left: set[int] = set()
        spent_s: dict[_Robot, float] = {}
        while rows := [row for row in self._meta.waiting(_BATCH) if row.sequence not in left]:
            queues: dict[_Robot, list[EpisodeRow]] = {}
            for row in reversed(rows):
                queues.setdefault((row.tenant, row.robot), []).append(row)
            with self._condition:
                self._work = False
            while queues and not self._work:  # woken: somebody else may have come
                if self._stopped:
                    return False
                whose = self._next(queues, spent_s)
                began, row = time.monotonic(), queues[whose].pop()
                if not self._validate(row):
                    left.add(row.sequence)
                spent_s[whose] += time.monotonic() - began
                queues = {name: queue for name, queue in queues.items() if queue}
        return bool(left)

    @staticmethod
    def _next(queues: Mapping[_Robot, list[EpisodeRow]], spent_s: dict[_Robot, float]) -> _Robot:
        """The robot whose files took the least so far; one that has just come begins beside those that wait."""
        least_s = min((spent_s[name] for name in queues if name in spent_s), default=0.0)
        for name in queues:
            spent_s.setdefault(name, least_s)
        return min(queues, key=lambda name: spent_s[name])

    def _validate(self, row: EpisodeRow) -> bool:
        """Look into one episode and write down what it is; False when that cannot be known now."""
        try:
            checked = self._checked(row)
            try:
                self._settle(row, checked)
            except InvalidMessageError as error:
                self._settle(row, quarantined(row, f"its description cannot be stored: {error}"))
        except (GymnastError, OSError) as error:
            LOG.error("episode_not_validated tenant=%s episode=%s error=%s", row.tenant, row.episode_id, error)
            return False
        return True

    def _settle(self, row: EpisodeRow, checked: EpisodeRow) -> None:
        _, now = self._meta.change_episode(row.tenant, row.episode_id, partial(settled, checked=checked))
        metrics.QUARANTINED.inc(now.state == "quarantined")

    def _checked(self, row: EpisodeRow) -> EpisodeRow:
        """Return the row described from the file's content, valid or quarantined with a reason."""
        try:
            path = self._blobs.local_path(row.digest)
            with self._at_hand.note(row.digest):
                found = self._inspector.inspect(path, row.episode_id, self._spec)
        except NotFoundError as error:  # somebody deleted it: that episode's trouble, not the others'
            return quarantined(row, f"NotFoundError: {error}")
        except CorruptError as error:
            return quarantined(row, str(error))
        by = found["labelled_by"]
        return replace(row, **{**found, "labelled_by": by and f"robot:{row.robot}/{by}"}, state="valid")
