"""Which blobs somebody may read: those that rows of their tenant name, and of a robot's those that are its own."""

from __future__ import annotations

import json
import threading
from collections import defaultdict

from cloud_trainer.store.protocols import MetaStore
from gymnast_core.authority import Who
from gymnast_core.records.release import EVERY_ROBOT
from gymnast_core.wire.errors import NotFoundError

_PAGE = 500


class BlobReach:
    """See the module. Releases never change, so each is read once. Threads may share it.

    Args:
        meta: the catalogue.
    """

    def __init__(self, meta: MetaStore) -> None:
        self._meta, self._lock = meta, threading.Lock()
        self._seen: dict[str, int] = defaultdict(int)
        self._robots: dict[tuple[str, str], set[str]] = defaultdict(set)

    def check(self, who: Who, digest: str) -> None:
        """Return if somebody may read a blob.

        Raises:
            NotFoundError: nothing of theirs names it; the words are those for a blob that is not there at all.
        """
        robot = who.name if who.role == "robot" else None
        if not self._released(who.tenant, digest, robot) and not self._meta.names_blob(who.tenant, digest, robot):
            raise NotFoundError(f"there is no blob {digest[:80]}")

    def _released(self, tenant: str, digest: str, robot: str | None) -> bool:
        with self._lock:
            while page := self._meta.releases(tenant, self._seen[tenant], _PAGE):
                for row in page:
                    release = json.loads(row.payload)
                    deltas = (delta["digest"] for delta in release["deltas"])
                    gate = (release.get("gate") or {}).get("digest")
                    blobs = filter(None, [release["weights_digest"], release.get("lineage_digest"), gate, *deltas])
                    for blob in blobs:
                        self._robots[tenant, blob].update(release["robots"])
                self._seen[tenant] = page[-1].sequence
            robots = self._robots.get((tenant, digest), set())
        return bool(robots) and (robot is None or EVERY_ROBOT in robots or robot in robots)
