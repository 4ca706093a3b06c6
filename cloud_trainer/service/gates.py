"""Which gate record goes out with a release, and which robots would refuse it for want of one."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from cloud_trainer.records.gates import GateBook, GateGap
from cloud_trainer.service.robots import RobotBoard
from gymnast_core.authority import Who
from gymnast_core.records.gate_record import GateRecord
from gymnast_core.records.gate_rule import GateOverride
from gymnast_core.records.release import EVERY_ROBOT
from gymnast_core.robot_status import GateStatus, RobotStatus, WeightsStatus
from gymnast_core.text import one_line

_MOST_FOUND = 400
_ASKING = ("required", "warn")


class GateDesk:
    """See the module. Threads may share it.

    Args:
        book: the records.
        board: what robots report of themselves; one that has not reported since this process began is not asked.
    """

    def __init__(self, book: GateBook, board: RobotBoard) -> None:
        self.book, self._board = book, board

    def record_for(self, tenant: str, checkpoint_id: str, robots: Sequence[str]) -> GateRecord | None:
        """Return the record to sign into a release: one that fits all its robots, else the newest that passed."""
        runs = [_runs(status) for _, status in self._statuses(tenant, robots)]
        return self.book.fitting(tenant, checkpoint_id, runs) or self.book.fitting(tenant, checkpoint_id, ())

    def gaps(self, tenant: str, checkpoint_id: str, robots: Sequence[str], *, warned: bool = False) -> list[GateGap]:
        """Return the robots that would refuse a checkpoint for want of a record, by name.

        Args:
            tenant: theirs.
            checkpoint_id: what is to be released.
            robots: names; "*" is every one that reports.
            warned: also those that would take it in and warn.
        """
        modes = _ASKING if warned else _ASKING[:1]
        found = []
        for name, status in self._statuses(tenant, robots):
            gate, runs = _gate(status), _runs(status)
            if gate.get("mode") not in modes or runs == checkpoint_id:
                continue
            since_ns = time.time_ns() - int(gate.get("max_age_s", 0.0) * 1e9)
            if self.book.fitting(tenant, checkpoint_id, [runs], since_ns=since_ns) is None:
                found.append(GateGap(name, runs))
        return found

    def asking(self, tenant: str, robots: Sequence[str]) -> list[str]:
        """Return those of these robots that ask for a gate record, or warn without one."""
        return [name for name, status in self._statuses(tenant, robots) if _gate(status).get("mode") in _ASKING]

    def may_ask(
        self, tenant: str, checkpoint_id: str, robots: Sequence[str], *, proved: Collection[str] = ()
    ) -> bool:  # fmt: skip
        """Whether a robot would refuse a checkpoint, or warn of it, for want of a record, or does not report.

        Args:
            tenant: theirs.
            checkpoint_id: what is to be released.
            robots: names; "*" is every one that reports.
            proved: robots that ask for none, as it ran there and they go back to it.
        """
        here = {name for name, _ in self._statuses(tenant, robots)}
        away = [name for name in robots if name not in (*here, *proved, EVERY_ROBOT)]
        gaps = [gap for gap in self.gaps(tenant, checkpoint_id, robots, warned=True) if gap.robot not in proved]
        return bool(away or gaps) or (EVERY_ROBOT in robots and not here)

    def override(self, who: Who, checkpoint_id: str, reason: str) -> GateOverride:
        """Return somebody's word in place of a record, with what the gate said so far."""
        records = self.book.of(who.tenant, checkpoint_id)
        newest = records[-1] if records else None
        found = f"{newest.id} {newest.decision}: {one_line(newest.reason)}" if newest else "no gate was run"
        return GateOverride(who.name, who.role, reason.strip(), found[:_MOST_FOUND])

    def _statuses(self, tenant: str, robots: Sequence[str]) -> list[tuple[str, RobotStatus]]:
        rows = self._board.of_tenant(tenant)
        return [(row.robot, row.status) for row in rows if EVERY_ROBOT in robots or row.robot in robots]


def _gate(status: RobotStatus) -> GateStatus:
    return status.get("weights", WeightsStatus()).get("gate", GateStatus())


def _runs(status: RobotStatus) -> str:
    return status.get("weights", WeightsStatus()).get("current", "") or status.get("policy_version", "")
