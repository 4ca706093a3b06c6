"""The trainer's account of itself: the log of actions, where a record comes from, real against imagined success."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cloud_trainer.records.ledger import CalibrationLedger
from cloud_trainer.records.trail import Trails
from cloud_trainer.store.tenants import PerTenant
from gymnast_core.authority import Who, authorise
from gymnast_core.records.journal import Entry
from gymnast_core.records.lineage import Lineage


class LogHandlers:
    """See the module.

    Args:
        trails: of every tenant.
        ledgers: of every tenant.
    """

    def __init__(self, trails: Trails, ledgers: PerTenant[CalibrationLedger]) -> None:
        self._trails, self._ledgers = trails, ledgers

    def entries(self, who: Who) -> tuple[Sequence[Entry], str]:
        """Return the actions of the caller's tenant, oldest first, and the hash that all of the log leads to."""
        authorise(who, "look")
        chain = self._trails.of(who.tenant).log
        mine = [
            entry for entry in chain.entries if entry.data.get("tenant") == who.tenant
        ]  # old ones hold all tenants'
        return mine, chain.head

    def ledger(self, who: Who) -> CalibrationLedger:
        """Return real against imagined success of the caller's tenant."""
        authorise(who, "look")
        return self._ledgers.of(who.tenant)

    def why(self, who: Who, record_id: str, *, verify: bool = False) -> dict[str, Any]:
        """Return where a record comes from; see Trail.explain."""
        authorise(who, "look")
        return self._trails.of(who.tenant).explain(record_id, verify=verify)

    def lineage(self, who: Who, record_id: str) -> Lineage:
        """Return the complete graph above a record."""
        authorise(who, "look")
        return self._trails.of(who.tenant).graph.why(record_id)

    def lineage_json(self, who: Who, record_id: str) -> str:
        """Return the complete graph above a record; see Trail.lineage_json."""
        authorise(who, "look")
        return self._trails.of(who.tenant).lineage_json(record_id)

    def version(self, tenant: str) -> int:
        """Return something that changes with every action."""
        return len(self._trails.of(tenant).log.entries)
