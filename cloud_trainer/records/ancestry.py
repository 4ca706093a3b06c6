"""Who was made from whom, by number and in memory: records never change, so what was read once is never stale."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Edges(NamedTuple):
    """Parents of some records, in the records' order.

    Attributes:
        child_E: (E,) index into those records.
        parent_E: (E,) number of the parent.
        role_E: (E,) code of what the parent was to the child.
    """

    child_E: npt.NDArray[np.int64]
    parent_E: npt.NDArray[np.int64]
    role_E: npt.NDArray[np.uint8]


class Ancestry:
    """The shape of a graph; records are numbered 1, 2, ... in the order in which they came.

    A parent's number is below its child's, but where the child named it before it came: the placeholder's is.
    """

    def __init__(self) -> None:
        self._start = np.zeros(2, np.int64)
        self._parents = np.zeros(0, np.int64)
        self._roles = np.zeros(0, np.uint8)
        self._kinds = np.zeros(1, np.int64)
        self._live = np.zeros(1, np.int64)
        self._codes: dict[str, int] = {"": 0}

    @property
    def known(self) -> int:
        """Number of the newest record in it."""
        return self._kinds.size - 1

    def add(self, rows: Sequence[Any], replaced: Sequence[Any] = ()) -> None:
        """Take in records.

        Args:
            rows: (number, kind, parents' numbers as int64 bytes, codes of their roles as uint8 bytes) of every record
                from known + 1 on, in order; one that somebody deleted is left out.
            replaced: (number, number of what replaced it) of placeholders that one of them replaces.
        """
        if not rows:
            return
        known = self.known
        seqs, kinds, parents, roles = zip(*rows, strict=True)
        place = np.array(seqs) - known - 1
        counts = np.zeros(seqs[-1] - known, np.int64)
        counts[place] = [len(blob) // 8 for blob in parents]
        for kind in set(kinds):
            self._codes.setdefault(kind, len(self._codes))
        codes = np.zeros(counts.size, np.int64)
        codes[place] = [self._codes[kind] for kind in kinds]
        held = [
            codes.ljust(len(blob) // 8, b"\0")[: len(blob) // 8] for codes, blob in zip(roles, parents, strict=True)
        ]
        self._start = np.concatenate([self._start, self._start[-1] + np.cumsum(counts)])
        self._parents = np.concatenate([self._parents, np.frombuffer(b"".join(parents), np.int64)])
        self._roles = np.concatenate([self._roles, np.frombuffer(b"".join(held), np.uint8)])
        self._kinds = np.concatenate([self._kinds, codes])
        self._live = np.concatenate([self._live, np.arange(known + 1, seqs[-1] + 1)])
        for placeholder, number in replaced:
            self._live[placeholder] = number

    def live(self, seqs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return for each number that of the record which stands for it now: another one for a placeholder."""
        there = (seqs > 0) & (seqs <= self.known)
        return np.where(there, self._live[np.where(there, seqs, 0)], seqs)

    def above(self, seq: int, *, placeholders: bool = False) -> npt.NDArray[np.int64]:
        """Return the numbers of a record and of all its ancestors, newest first.

        Args:
            seq: of the record.
            placeholders: those that were replaced, too.
        """
        seen = np.zeros(self.known + 1, bool)
        frontier = np.array([seq])
        while frontier.size:
            seen[frontier] = True
            named = self._named(frontier).parent_E
            parents = np.unique(np.concatenate([self.live(named), named]) if placeholders else self.live(named))
            parents = parents[(parents > 0) & (parents <= self.known)]
            frontier = parents[~seen[parents]]
        return np.flatnonzero(seen)[::-1]

    def edges(self, seqs: npt.NDArray[np.int64]) -> Edges:
        """Return the parents of records, as they are known now."""
        found = self._named(seqs)
        return found._replace(parent_E=self.live(found.parent_E))

    def _named(self, seqs: npt.NDArray[np.int64]) -> Edges:
        """The parents of records as these name them."""
        begin, counts = self._start[seqs], self._start[seqs + 1] - self._start[seqs]
        child_E = np.repeat(np.arange(seqs.size), counts)
        at_E = np.arange(child_E.size) + (begin - np.cumsum(counts) + counts)[child_E]
        return Edges(child_E, self._parents[at_E], self._roles[at_E])

    def counts(self, seqs: npt.NDArray[np.int64]) -> dict[str, int]:
        """Return how many records there are of each kind that occurs."""
        found = np.bincount(self._kinds[seqs], minlength=len(self._codes))
        return {kind: int(found[code]) for kind, code in self._codes.items() if kind and found[code]}

    def of_kinds(self, seqs: npt.NDArray[np.int64], kinds: tuple[str, ...]) -> npt.NDArray[np.int64]:
        """Return the numbers of those records that are of one of the kinds."""
        return seqs[np.isin(self._kinds[seqs], [self._codes[kind] for kind in kinds if kind in self._codes])]


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Half a million young tuples make the collector walk them again and again; none of them is garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
