"""Calls for a person on their way to the trainer: a folder of small files, which every process of the robot may add to.

A call is on this disk before its caller goes on, and stays until somebody has answered it: neither a cut link nor a
restart of either side loses it. The bridge ships what is here and writes the answers back.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from gymnast_core.bounds import parsed_object
from gymnast_core.episodes.durable import write_durably
from gymnast_core.errors import CorruptError, GymnastError
from gymnast_core.json_values import JsonObject, JsonValue, whole
from gymnast_core.paging import MAX_DETAIL_BYTES, MAX_TEXT, Acknowledgement, Page

LOG = logging.getLogger(__name__)
MOST = 100
"""Unanswered calls at a time; what comes then joins the newest of its kind, which counts it."""
KEPT_S = 24 * 3600.0
"""How long an answered call can still be asked after."""
_FILE_CHARACTERS = 64 * 1024
WAITING, TAKEN, RESOLVED, ANSWERED = "waiting", "taken", "resolved", "answered"
"""Of a call: not at the trainer yet; there; answered at the robot, which the trainer is yet to hear; answered."""


class PageOutbox:
    """A Pager (gymnast_core.paging). Threads and processes may share the folder.

    Args:
        folder: the robot's.
        robot: its name.
    """

    def __init__(self, folder: Path, robot: str) -> None:
        self._folder, self._robot = folder / "pages", robot
        self._lock = threading.Lock()
        self._unwritten: dict[str, Page] = {}

    def page(self, kind: str, text: str, **detail: JsonValue) -> str:
        """Call for a person; returns the page's id. See gymnast_core.paging.Pager."""
        page = Page(kind, self._robot, text[:MAX_TEXT], detail=_small(detail))
        LOG.error("page kind=%s id=%s text=%s", kind, page.page_id, page.text)
        with self._lock:
            try:
                return self._add(page)
            except (GymnastError, OSError, TypeError, ValueError) as error:  # a full disk: it is kept here, tried again
                LOG.error("page_not_written id=%s error=%s", page.page_id, error)
                self._unwritten[page.page_id] = page
                return page.page_id

    def answer(self, page_id: str) -> Acknowledgement | None:
        """Return who looks after a page. See gymnast_core.paging.Pager."""
        self._write_late_ones()
        try:
            answer = self._read(self._folder / f"{page_id}.json").get("answer")
            if not isinstance(answer, Mapping):
                return None
            return Acknowledgement(str(answer["by"]), whole(answer["at_ns"]), str(answer["note"]))
        except (OSError, GymnastError, KeyError):
            return None

    def resolve(self, page_id: str, by: str) -> None:
        """Note that somebody at the robot has answered. See gymnast_core.paging.Pager."""
        answer = Acknowledgement(by, time.time_ns(), "at the robot")
        try:
            for state in (WAITING, TAKEN):
                self._change([page_id], state, {"state": RESOLVED, "answer": vars(answer)})
        except (GymnastError, OSError) as error:
            LOG.error("page_not_resolved id=%s error=%s", page_id, error)

    # the bridge's side ------------------------------------------------------------------------------------------------

    def waiting(self, limit: int) -> list[Page]:
        """Return calls that the trainer does not have, or may not have: the oldest of each kind first."""
        self._write_late_ones()
        found = [_page(values) for values in self._all().values() if values["state"] in (WAITING, RESOLVED)]
        ranks: Counter[str] = Counter()
        ranked = []
        for page in sorted(found, key=lambda page: page.at_ns):
            ranked.append((ranks[page.kind], page.at_ns, page))
            ranks[page.kind] += 1
        return [page for _, _, page in sorted(ranked, key=lambda row: row[:2])[:limit]]

    def unanswered(self) -> list[str]:
        """Return the ids of calls that the trainer has and nobody has answered."""
        return [page_id for page_id, values in self._all().items() if values["state"] == TAKEN]

    def resolved(self, page_ids: Sequence[str]) -> dict[str, Acknowledgement]:
        """Return, of some calls, the answers that were given at the robot and that the trainer is yet to hear."""
        found = {}
        for page_id in page_ids:
            with contextlib.suppress(OSError):
                state = self._read(self._folder / f"{page_id}.json")["state"]
                if state == RESOLVED and (answer := self.answer(page_id)) is not None:
                    found[page_id] = answer
        return found

    def settled(self, page_ids: Sequence[str]) -> None:
        """Note that the trainer has heard of these answers."""
        self._change(page_ids, RESOLVED, {"state": ANSWERED})

    def taken(self, page_ids: Sequence[str]) -> None:
        """Note that the trainer keeps these."""
        self._change(page_ids, WAITING, {"state": TAKEN})

    def lost(self, page_ids: Sequence[str]) -> None:
        """Note that the trainer has these no more (an older backup runs there): they are sent again."""
        self._change(page_ids, TAKEN, {"state": WAITING})

    def answered(self, page_id: str, answer: Acknowledgement) -> None:
        """Write an answer down, for whoever waits for it; answers of yesterday are thrown away."""
        for state in (WAITING, TAKEN):
            self._change([page_id], state, {"state": ANSWERED, "answer": vars(answer)})
        for old_id, values in self._all().items():
            old = values.get("answer")
            if isinstance(old, Mapping) and time.time_ns() - whole(old["at_ns"]) > KEPT_S * 1e9 and old_id != page_id:
                (self._folder / f"{old_id}.json").unlink(missing_ok=True)

    def _add(self, page: Page) -> str:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        unanswered = {name: values for name, values in self._all().items() if values["state"] in (WAITING, TAKEN)}
        if len(unanswered) >= MOST:
            same = [name for name, values in unanswered.items() if values["kind"] == page.kind]
            if same:
                return self._join(max(same, key=lambda name: whole(unanswered[name]["at_ns"])), page)
            crowd = Counter(str(values["kind"]) for values in unanswered.values()).most_common(1)[0][0]
            oldest = min((name for name, values in unanswered.items() if values["kind"] == crowd),
                         key=lambda name: whole(unanswered[name]["at_ns"]))  # fmt: skip
            LOG.error("page_dropped id=%s: %d others of kind %s wait", oldest, len(unanswered), crowd)
            (self._folder / f"{oldest}.json").unlink(missing_ok=True)
        self._write(page.page_id, {**vars(page), "state": WAITING})
        return page.page_id

    def _join(self, page_id: str, page: Page) -> str:
        """Count a call into one of its kind, with its newest words; sent already, it is not sent again."""
        values = dict(self._read(self._folder / f"{page_id}.json"))
        detail = values.get("detail")
        known = dict(detail) if isinstance(detail, Mapping) else {}
        repeated = known.get("repeated", 0)
        known["repeated"] = 1 + (repeated if isinstance(repeated, int) else 0)
        self._write(page_id, {**values, "text": page.text, "detail": known})
        return page_id

    def _write_late_ones(self) -> None:
        with self._lock:
            for page_id, page in list(self._unwritten.items()):
                try:
                    self._add(page)
                except (GymnastError, OSError, TypeError, ValueError):
                    return
                del self._unwritten[page_id]

    def _all(self) -> dict[str, JsonObject]:
        """Every call by id; a file that makes no sense is named once and put aside."""
        found: dict[str, JsonObject] = {}
        for path in sorted(self._folder.glob("page-*.json")):
            try:
                values = self._read(path)
                _page(values)
                found[path.stem] = values
            except FileNotFoundError:
                continue  # answered and thrown away meanwhile
            except (OSError, GymnastError, KeyError, TypeError) as error:
                LOG.error("page_unreadable file=%s error=%s", path, error)
                path.replace(path.with_suffix(".unreadable"))
        return found

    def _change(self, page_ids: Sequence[str], state: str, changes: JsonObject) -> None:
        with self._lock:
            for page_id in page_ids:
                try:
                    values = self._read(self._folder / f"{page_id}.json")
                except FileNotFoundError:
                    continue
                if values["state"] == state:
                    self._write(page_id, {**values, **changes})

    def _read(self, path: Path) -> JsonObject:
        values = parsed_object(path.read_text(encoding="utf-8"), str(path), _FILE_CHARACTERS)
        if values.get("state") not in (WAITING, TAKEN, RESOLVED, ANSWERED):
            raise CorruptError(f"{path} has no state")
        return values

    def _write(self, page_id: str, values: Mapping[str, object]) -> None:
        write_durably(self._folder / f"{page_id}.json", json.dumps(values).encode(), mode=0o600)


def _page(values: JsonObject) -> Page:
    """Read back what was written; raises KeyError or GymnastError for something else."""
    detail = values["detail"]
    if not isinstance(detail, Mapping):
        raise CorruptError("its detail is no object")
    return Page(str(values["kind"]), str(values["robot"]), str(values["text"]), whole(values["at_ns"]), detail,
                str(values["page_id"]))  # fmt: skip


def _small(detail: JsonObject) -> JsonObject:
    """Details that fit into a page; those that do not, or are no JSON, are left out, the call is what matters."""
    try:
        text = json.dumps(dict(detail), allow_nan=False)
    except (TypeError, ValueError) as error:
        return {"left_out": f"details that are no JSON: {error}"[:200]}
    if len(text) > MAX_DETAIL_BYTES:
        return {"left_out": f"{len(text)} characters of details"}
    return dict(detail)
