"""What every robot last said of itself; kept in memory, because it is old news after a restart."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from gymnast_core.authority import Who
from gymnast_core.robot_status import RobotStatus, WeightsStatus
from gymnast_core.wire.errors import BusyError


@dataclass(frozen=True)
class RobotReport:
    """What a robot last said of itself.

    Attributes:
        robot: its name, from its certificate.
        tenant: the tenant it belongs to.
        status: what it reported.
        frame: its newest camera image (JPEG or WebP bytes); empty without one.
        received_s: monotonic.
        framed_s: monotonic, when the image came; a slow link sends reports without one.
    """

    robot: str
    tenant: str
    status: RobotStatus
    frame: bytes
    received_s: float
    framed_s: float

    def age_s(self) -> float:
        """Seconds since it spoke."""
        return time.monotonic() - self.received_s

    def frame_age_s(self) -> float:
        """Seconds since it showed something."""
        return time.monotonic() - self.framed_s


class RobotBoard:
    """The newest report of every robot. Threads may share it.

    Args:
        least_s: reports of one robot that come faster on average are refused; one that a busy network delayed may
            meet the next on the heels.
        clock_s: monotonic.
    """

    def __init__(self, least_s: float = 0.25, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._least_s, self._clock_s = least_s, clock_s
        self._lock = threading.Lock()
        self._reports: dict[tuple[str, str], RobotReport] = {}
        self._due_s: dict[tuple[str, str], float] = {}
        self._counts: Counter[str] = Counter()

    def post(self, who: Who, status: RobotStatus, frame: bytes) -> None:
        """Note what a robot says; one without a frame keeps showing its last one.

        Raises:
            BusyError: it spoke a moment ago.
        """
        key, now_s = (who.tenant, who.name), self._clock_s()
        with self._lock:
            last, due_s = self._reports.get(key), self._due_s.get(key, now_s)
            if now_s < due_s - self._least_s:
                raise BusyError(f"{who.name!r} reports more often than every {self._least_s} s; slow down")
            self._due_s[key] = max(now_s, due_s) + self._least_s
            shown, framed_s = (frame, now_s) if frame or last is None else (last.frame, last.framed_s)
            self._reports[key] = RobotReport(who.name, who.tenant, status, shown, now_s, framed_s)
            self._counts[who.tenant] += 1

    def of_tenant(self, tenant: str) -> list[RobotReport]:
        """Return the newest report of each robot, by name."""
        with self._lock:
            return sorted((row for row in self._reports.values() if row.tenant == tenant), key=lambda row: row.robot)

    def find(self, tenant: str, robot: str) -> RobotReport | None:
        """Return one robot's newest report; None when it never spoke."""
        with self._lock:
            return self._reports.get((tenant, robot))

    def holding(self, tenant: str, checkpoint_id: str) -> list[str]:
        """Return the robots that say they hold a checkpoint."""
        rows = self.of_tenant(tenant)
        return [
            row.robot for row in rows if checkpoint_id in row.status.get("weights", WeightsStatus()).get("held", ())
        ]

    def version(self, tenant: str, *, every: bool) -> str:
        """Return what changes with every report of a tenant's, or only when a robot comes, swaps or stops."""
        with self._lock:
            if every:
                return str(self._counts[tenant])
            rows = sorted(
                (row.robot, str(row.status.get("policy_version")), bool(row.status.get("estop")), _weights_of(row))
                for row in self._reports.values()
                if row.tenant == tenant
            )
            return hashlib.sha256(repr(rows).encode()).hexdigest()[:12]

    def tenants(self) -> set[str]:
        """Return the tenants whose robots have reported."""
        with self._lock:
            return {tenant for tenant, _ in self._reports}

    def silent(self, tenant: str, after_s: float) -> int:
        """Return how many robots of a tenant have said nothing for so long."""
        return sum(row.age_s() > after_s for row in self.of_tenant(tenant))


def _weights_of(row: RobotReport) -> tuple[object, ...]:
    """What a robot says of its checkpoints, without the clocks."""
    weights = row.status.get("weights", WeightsStatus())
    told = ("obeyed", "checking", "probation_left", "gate", "adapters")
    return tuple(repr(weights.get(name)) for name in told)
