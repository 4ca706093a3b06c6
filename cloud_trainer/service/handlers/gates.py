"""Gates: which there are of a checkpoint, and the jobs that make those that robots ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cloud_trainer.flows.gating import GATE_JOB, by_incumbent, gate_spec
from cloud_trainer.service.gates import GateDesk
from cloud_trainer.service.handlers.checkpoints import CheckpointHandlers, Signed
from cloud_trainer.service.handlers.jobs import JobHandlers
from cloud_trainer.service.handlers.robots import RobotHandlers
from gymnast_core.authority import Who, authorise
from gymnast_core.records.gate_record import GateRecord, GateRun
from gymnast_core.records.release import EVERY_ROBOT

_MOST_KEY = 200
Shelve = Callable[[str, str], None]
"""(tenant, checkpoint): puts what was only ever published where jobs find it."""


class GateHandlers:
    """See the module.

    Args:
        desk: the records, and which robots ask for one.
        checkpoints: what may be gated.
        robots: which report.
        jobs: where gates run.
        shelve: see Shelve.
    """

    def __init__(
        self, desk: GateDesk, checkpoints: CheckpointHandlers, robots: RobotHandlers, jobs: JobHandlers, shelve: Shelve
    ) -> None:
        self._desk, self._checkpoints, self._robots = desk, checkpoints, robots
        self._jobs, self._shelve = jobs, shelve

    def of(self, who: Who, checkpoint_id: str) -> list[GateRecord]:
        """Return what gates found of a checkpoint, oldest first."""
        authorise(who, "look")
        return self._desk.book.of(who.tenant, checkpoint_id)

    def begin(self, who: Who, checkpoint_id: str, robots: Sequence[str] = (), *, offer: bool = False) -> list[GateRun]:
        """Gate a checkpoint against what robots run, where these ask for a record that it has not.

        Args:
            who: asks.
            checkpoint_id: the candidate.
            robots: names; none is every one that reports.
            offer: it is offered to them once it has passed.

        Raises:
            NotFoundError: it, or what a robot runs, is not known here.
            NotPossibleError: it is no policy.
            QuotaError: too many jobs wait.
        """
        authorise(who, "gate")
        if offer:
            authorise(who, "publish")
        self._checkpoints.check_known(who, checkpoint_id)
        gaps = self._desk.gaps(who.tenant, checkpoint_id, tuple(robots) or (EVERY_ROBOT,), warned=True)
        against = by_incumbent(gaps)
        return [self._begin(who, checkpoint_id, incumbent, names, offer) for incumbent, names in against.items()]

    def offer(self, who: Who, checkpoint_id: str, robots: Sequence[str] = ()) -> tuple[list[GateRun], Signed | None]:
        """Offer a checkpoint to robots: at once to those that take it in, to the others once it has passed their gate.

        Returns:
            The gates that were begun, and the release to those that wait for none; None where all do.

        Raises:
            GymnastError: as begin() and CheckpointHandlers.offer().
        """
        begun = self.begin(who, checkpoint_id, robots, offer=True)
        if not begun:
            return begun, self._checkpoints.offer(who, checkpoint_id, robots)
        waiting = {name for one in begun for name in one.robots}
        everybody = not robots or EVERY_ROBOT in robots
        named = self._robots.reporting(who) if everybody else robots
        others = [name for name in named if name not in waiting]
        return begun, self._checkpoints.offer(who, checkpoint_id, others) if others else None

    def _begin(self, who: Who, candidate: str, incumbent: str, robots: Sequence[str], offer: bool) -> GateRun:
        if incumbent:
            self._checkpoints.check_known(who, incumbent, robots[0])
        for name in filter(None, (candidate, incumbent)):
            self._shelve(who.tenant, name)
        offer_to = sorted(robots) if offer else []
        key = self._jobs.fresh_key(who, f"gate-{candidate}-{incumbent or 'first'}-{','.join(offer_to)}"[:_MOST_KEY])
        row = self._jobs.submit(who, GATE_JOB, gate_spec(candidate, incumbent, offer_to), key)
        return GateRun(row.job_id, incumbent, tuple(robots))
