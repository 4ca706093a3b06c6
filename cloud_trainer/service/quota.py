"""What each tenant may still store."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from cloud_trainer.service.config import Limits
from cloud_trainer.store.protocols import EpisodeRow, MetaStore, Usage
from gymnast_core.wire.errors import QuotaError

_BELIEVED_S = 1.0


class Quota:
    """A tenant's use against its limits.

    The catalogue's count is believed for a second and counted on from here meanwhile: asking it for every episode
    would make each opening wait for the commit of another.

    Args:
        meta: the catalogue.
        limits: bytes and episodes per tenant.
    """

    def __init__(self, meta: MetaStore, limits: Limits) -> None:
        self._meta, self._limits = meta, limits
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Usage]] = {}

    def check(self, tenant: str, coming: Sequence[int]) -> None:
        """Ask whether more may come.

        Args:
            tenant: the tenant they belong to.
            coming: bytes of each episode under way, the new one included.

        Raises:
            QuotaError: it would be too much.
        """
        usage, limits = self._usage(tenant), self._limits
        episodes, size = usage.episodes + len(coming), usage.bytes + sum(coming)
        if size > limits.tenant_bytes or episodes > limits.tenant_episodes:
            raise QuotaError(
                f"tenant {tenant!r} would have {episodes} episodes of {size} bytes, under way included; the quota is "
                f"{limits.tenant_episodes} and {limits.tenant_bytes}: ask an admin for more"
            )

    def add(self, rows: Sequence[EpisodeRow]) -> None:
        """These were committed."""
        with self._lock:
            for row in rows:
                if row.tenant in self._known:
                    read, usage = self._known[row.tenant]
                    more = replace(usage, episodes=usage.episodes + 1, bytes=usage.bytes + row.size)
                    self._known[row.tenant] = (read, more)

    def _usage(self, tenant: str) -> Usage:
        with self._lock:
            read, usage = self._known.get(tenant, (-_BELIEVED_S, Usage(0, 0)))
            if time.monotonic() - read >= _BELIEVED_S:
                usage = self._meta.usage(tenant)
                self._known[tenant] = (time.monotonic(), usage)
            return usage
