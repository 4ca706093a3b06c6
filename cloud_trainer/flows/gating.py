"""How a flow's candidate comes to its robots: gated first where a robot asks for that, then offered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cloud_trainer.flows.adaptation_engine import Ended
from cloud_trainer.flows.job_following import run_job
from cloud_trainer.flows.loop_parts import Advance
from cloud_trainer.records.gates import GateGap
from cloud_trainer.store.sql_jobs import SqlJobStore
from gymnast_core.errors import JobEndedError
from gymnast_core.job import JobEvent, described, progress_of
from gymnast_core.json_values import JsonObject
from gymnast_core.records.gate_record import GateRecord

GATE_JOB = "gate"


def gate_spec(candidate: str, incumbent: str, offer_to: Sequence[str]) -> JsonObject:
    """Return the spec of the job that gates a candidate, and offers it to these robots once it has passed."""
    return {"policy": candidate, "incumbent": incumbent, "offer_to": sorted(offer_to)}


def by_incumbent(gaps: Sequence[GateGap]) -> dict[str, list[str]]:
    """Return what the robots run, each with those that run it: one gate each."""
    found: dict[str, list[str]] = defaultdict(list)
    for gap in gaps:
        found[gap.incumbent].append(gap.robot)
    return dict(found)


@dataclass(frozen=True)
class Gating:
    """The gate as flows of one tenant see it.

    Attributes:
        tenant: theirs.
        jobs: of the trainer.
        asking: which of these robots ask for a gate record, or warn without one.
        gaps: of a candidate and robots: those that ask and for which it has none.
        offer: offers a checkpoint of the shelf to robots.
    """

    tenant: str
    jobs: SqlJobStore
    asking: Callable[[Sequence[str]], list[str]]
    gaps: Callable[[str, Sequence[str]], Sequence[GateGap]]
    offer: Callable[[str, Sequence[str]], None]

    def admit(self, candidate: str, robots: Sequence[str], *, key: str, by: str, ended: Ended, advance: Advance) -> str:
        """Gate a candidate where robots ask for that, and offer it to them all; returns why not, or an empty text.

        Args:
            candidate: a checkpoint of the shelf.
            robots: their names.
            key: the same one follows the same jobs, e.g. after a restart.
            by: in whose name, see Errand.
            ended: see Ended.
            advance: called with the gate's progress.

        Raises:
            ClosingError: this process ends.
            JobEndedError: a gate failed to run, or was cancelled.
        """
        gated = by_incumbent(self.gaps(candidate, robots))
        waiting = {name for names in gated.values() for name in names}
        if at_once := [name for name in robots if name not in waiting]:
            self.offer(candidate, at_once)
        for incumbent, names in gated.items():
            spec, own = gate_spec(candidate, incumbent, names), f"{key}-{incumbent or 'first'}"
            row = run_job(self.jobs, self.tenant, GATE_JOB, spec, key=own, by=by, ended=ended,
                          on_event=lambda event: _show(event, advance))  # fmt: skip
            if not row.result:
                raise JobEndedError(f"the gate of {candidate} (job {row.job_id}) was cancelled")
            record = GateRecord.of(row.result.get("record"))
            if not record.passed:
                return f"{record.id} against {incumbent or 'no other policy'}: {record.reason}"
        return ""


def _show(event: JobEvent, advance: Advance) -> None:
    if progress := progress_of(event):
        advance(progress["step"], progress["total"], described(progress))
