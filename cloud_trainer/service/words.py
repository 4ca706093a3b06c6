"""What robots said of the checkpoints they were given, with the time each word was heard first.

A word is an entry of the log of actions, so it outlives this process and the robot; a robot's newest words replace the
ones before.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from cloud_trainer.records.trail import Trails
from gymnast_core.authority import Who
from gymnast_core.json_values import JsonObject, whole
from gymnast_core.robot_status import WeightsStatus

LOG = logging.getLogger(__name__)
RUNS, RAN, REFUSED = "runs", "ran", "refused"
KINDS = (RUNS, RAN, REFUSED)
_NOTES_PER_HOUR = 240
"""Of one robot in the log: one that changes its mind with every report does not fill the disk."""


@dataclass(frozen=True)
class Word:
    """One thing a robot said.

    Attributes:
        robot: its name.
        checkpoint_id: about which.
        word: "runs" (it is in force from the next episode on), "ran" (an episode ended with it) or "refused".
        reason: of a refusal.
        release: sequence of the promotion or rollback it acted on; 0 for none.
        at_ns: the trainer's wall clock, when it was heard first.
    """

    robot: str
    checkpoint_id: str
    word: str
    reason: str = ""
    release: int = 0
    at_ns: int = 0


class RobotWords:
    """See the module. Threads may share it.

    Args:
        trails: of the service; each tenant's log is read once and written to.
    """

    def __init__(self, trails: Trails) -> None:
        self._trails, self._lock = trails, threading.Lock()
        self._said: dict[tuple[str, str], dict[tuple[str, str], Word]] = {}
        self._noted_s: dict[tuple[str, str], deque[float]] = {}
        self._recalled: set[str] = set()

    def _recall(self, tenant: str) -> None:
        """What was said before this process began; under the lock."""
        if tenant in self._recalled:
            return
        self._recalled.add(tenant)
        for entry in self._trails.of(tenant).log.entries:
            data = entry.data
            if entry.kind in KINDS and data.get("role") == "robot" and data.get("tenant") == tenant:
                by = str(data["by"])
                _put(self._said.setdefault((tenant, by), {}), _word(by, entry.kind, data, whole(data["at_ns"])))

    def heard(self, who: Who, weights: WeightsStatus) -> None:
        """Take in what a robot's report says of its checkpoints; what is new goes into the log."""
        key, now_ns = (who.tenant, who.name), time.time_ns()
        found = [_word(who.name, kind, data, now_ns) for kind, data in _words_of(weights)]
        with self._lock:
            self._recall(who.tenant)
            before = self._said.get(key, {})
            said: dict[tuple[str, str], Word] = {}
            for word in found:
                same = before.get(_place(word))
                _put(said, same if same is not None and _same(same, word) else word)
            fresh = [word for place, word in said.items() if before.get(place) is not word]
            self._said[key] = said
            fresh = [word for word in fresh if self._may_note(key)]
        for word in fresh:
            fields = {"checkpoint": word.checkpoint_id, "release": word.release, "reason": word.reason}
            data = {name: value for name, value in fields.items() if value}
            with self._trails.of(who.tenant).committing(who, word.word, data):
                continue  # it was said; there is nothing else to do

    def of(self, tenant: str, *, robot: str = "", checkpoint_ids: Sequence[str] | None = None) -> list[Word]:
        """Return the newest words of a tenant's robots, oldest first."""
        with self._lock:
            self._recall(tenant)
            words = [word for (owner, _), said in self._said.items() if owner == tenant for word in said.values()]
        wanted = None if checkpoint_ids is None else set(checkpoint_ids)
        words = [
            word for word in words if robot in ("", word.robot) and (wanted is None or word.checkpoint_id in wanted)
        ]
        return sorted(words, key=lambda word: (word.at_ns, word.robot, word.checkpoint_id))

    def in_force_on(self, tenant: str, checkpoint_id: str) -> set[str]:
        """Return the robots that ever said that they run a checkpoint, and did not turn it down afterwards."""
        found = set[str]()
        for entry in self._trails.of(tenant).log.entries:
            data = entry.data
            if data.get("role") != "robot" or data.get("tenant") != tenant or data.get("checkpoint") != checkpoint_id:
                continue
            if entry.kind == RUNS:
                found.add(str(data["by"]))
            elif entry.kind == REFUSED:
                found.discard(str(data["by"]))
        return found

    def version(self, tenant: str) -> int:
        """Return something that changes with every new word of a tenant's robots."""
        return sum(word.at_ns for word in self.of(tenant)) % 1_000_000_007

    def _may_note(self, key: tuple[str, str]) -> bool:
        noted, now_s = self._noted_s.setdefault(key, deque(maxlen=_NOTES_PER_HOUR)), time.monotonic()
        if len(noted) == _NOTES_PER_HOUR and now_s - noted[0] < 3600.0:
            LOG.warning("word_not_logged robot=%s: more than %d an hour", key[1], _NOTES_PER_HOUR)
            return False
        noted.append(now_s)
        return True


def _words_of(weights: WeightsStatus) -> list[tuple[str, JsonObject]]:
    found: list[tuple[str, JsonObject]] = []
    if weights["current"]:
        found.append((RUNS, {"checkpoint": weights["current"], "release": weights["obeyed"]}))
    if weights["ran"]:
        found.append((RAN, {"checkpoint": weights["ran"]}))
    found += [(REFUSED, {"checkpoint": name, "reason": reason}) for name, reason in weights["refused"].items()]
    return found


def _word(robot: str, kind: str, data: JsonObject, at_ns: int) -> Word:
    reason, release = str(data.get("reason", "")), whole(data.get("release", 0))
    return Word(robot, str(data["checkpoint"]), kind, at_ns=at_ns, reason=reason, release=release)


def _place(word: Word) -> tuple[str, str]:
    """A robot runs one, and its newest episode ran one; it may refuse many."""
    return word.word, word.checkpoint_id if word.word == REFUSED else ""


def _put(said: dict[tuple[str, str], Word], word: Word) -> None:
    said[_place(word)] = word


def _same(one: Word, other: Word) -> bool:
    return (one.checkpoint_id, one.reason, one.release) == (other.checkpoint_id, other.reason, other.release)
