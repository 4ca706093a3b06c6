"""Verdicts remembered by content: an interrupted run asks a paid judge nothing twice, and gets the same answers."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gymnast_core.errors import CorruptError
from gymnast_core.judge import Judge, Verdict
from gymnast_core.types import IntArray, Outcome, RolloutBatch


class CachedJudge:
    """A judge holding a judge. Abstentions are not remembered: an outage passes, and doubt may be asked again.

    Several processes may share the folder: each reads every file in it when it begins and writes its own.

    Attributes:
        inner: asked what is not known yet.
        hits: rows answered from memory so far.
    """

    def __init__(self, inner: Judge, folder: Path) -> None:
        """Remember in a folder.

        Raises:
            CorruptError: a file in it is no judge cache.
        """
        self.inner, self.hits = inner, 0
        self._known: dict[str, Verdict] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.json")):
            self._known |= _read(path)
        self._path = folder / f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.json"

    @property
    def version(self) -> str:
        """The inner judge's."""
        return self.inner.version

    def judge(self, rollouts: RolloutBatch) -> Sequence[Verdict]:
        """Answer known rows from memory and ask for the rest in one batch."""
        keys = [self._key(rollouts, row) for row in range(len(rollouts.instructions))]
        unknown = np.array([row for row, key in enumerate(keys) if key not in self._known], np.int64)
        self.hits += len(keys) - len(unknown)
        fresh = dict(zip(unknown.tolist(), self._ask(rollouts, unknown), strict=True))
        sure = {keys[row]: verdict for row, verdict in fresh.items() if verdict.outcome is not Outcome.ABSTAIN}
        if sure:
            self._known |= sure
            self._save()
        return [fresh[row] if row in fresh else self._known[key] for row, key in enumerate(keys)]

    def _ask(self, rollouts: RolloutBatch, rows: IntArray) -> Sequence[Verdict]:
        if not len(rows):
            return ()
        return self.inner.judge(rollouts.rows(rows))

    def _key(self, rollouts: RolloutBatch, row: int) -> str:
        """Digest of all a judge may look at."""
        digest = hashlib.sha256(f"{self.version}\0{rollouts.instructions[row]}\0".encode())
        digest.update(np.ascontiguousarray(rollouts.frame_steps_F).tobytes())
        digest.update(np.ascontiguousarray(rollouts.frames_BFHWC[row]).tobytes())
        return digest.hexdigest()

    def _save(self) -> None:
        """Write all that is known; atomic."""
        rows = {key: [v.outcome.value, v.score, dict(v.evidence)] for key, v in sorted(self._known.items())}
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(rows), encoding="utf-8")
        partial.replace(self._path)


def _read(path: Path) -> dict[str, Verdict]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {
            key: Verdict(Outcome(outcome), float(score), evidence) for key, (outcome, score, evidence) in rows.items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CorruptError(f"{path} is no judge cache: {error}; delete it, verdicts will be asked again") from error
