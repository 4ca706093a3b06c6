"""Does a job of the service in a worker process, and keeps what it made."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from cloud_trainer.flows.replay_watch import record_rows
from cloud_trainer.jobs.memory import GIB, memory_of_machine
from cloud_trainer.jobs.runner import JobInputs, Recorded, run_in_process
from cloud_trainer.jobs.shelf import Shelf, Shelves
from cloud_trainer.jobs.submission import check_spec_reach
from cloud_trainer.service import JobContext
from gymnast_core.errors import CheckpointError
from gymnast_core.evaluation.purpose import is_learnable, is_measurement
from gymnast_core.jobs import (
    GateResult,
    GateSpec,
    ImitateSpec,
    JobSpec,
    PlanSpec,
    ReplayResult,
    ReplaySpec,
    TrainingResult,
    TrainingSpec,
    spec_of,
)
from gymnast_core.jobs.scene import SceneSpec
from gymnast_core.json_values import JsonObject
from gymnast_core.records.gate_record import GateRecord

SETTLE_S = 60.0
"""Longest wait for what has arrived to be checked."""


class JobProcesses:
    """A Runner: every job in a process of its own.

    Args:
        folder: of the trainer; jobs work in folder/jobs.
        shelves: of its checkpoints.
        threads: torch threads of a job.
        memory_gib: that a job may use; None is half of what this machine, or its container, has.
        allowed: what jobs may reach outside the trainer, see gymnast_core.job.REACHES; by whichever door they came.
        given: settings of the starter's own, which may reach anything.
    """

    def __init__(
        self, folder: Path, shelves: Shelves, *, threads: int = 1, memory_gib: float | None = None,
        allowed: Collection[str] = (), given: JsonObject | None = None,
    ) -> None:  # fmt: skip
        self._folder, self._shelves, self._threads = folder, shelves, threads
        self._allowed, self._given = allowed, given
        self._memory_bytes = memory_of_machine() // 2 if memory_gib is None else int(memory_gib * GIB)

    def __call__(self, context: JobContext) -> JsonObject:
        """Do one job; returns its result."""
        tenant, spec = context.job.tenant, spec_of(context.job.kind, context.job.spec)
        check_spec_reach(spec, self._allowed, given=self._given)
        shelf = self._shelves.of(tenant)
        context.episodes.settle(SETTLE_S)
        inputs = JobInputs(context.job.job_id, spec, tuple(_recorded(context, spec)), shelf.path, shelf.newest)

        def emit(kind: str, data: JsonObject) -> None:
            context.emit(kind, data)

        result = run_in_process(
            inputs, self._folder / "jobs", emit=emit, cancelled=context.cancelled, threads=self._threads,
            memory_bytes=self._memory_bytes,
        )  # fmt: skip
        for folder in result.registered:
            shelf.add(Path(folder))
        if isinstance(result, TrainingResult) and isinstance(spec, TrainingSpec):
            self._keep(context, shelf, result, spec.offer_to)
        if isinstance(result, GateResult) and isinstance(spec, GateSpec):
            _keep_gate(context, shelf, GateRecord.of(result.record), spec)
        if isinstance(result, ReplayResult):
            record_rows(context.ledger, result)
        return result.to_json()

    def _keep(self, context: JobContext, shelf: Shelf, result: TrainingResult, robots: Sequence[str]) -> None:
        """Put candidates on the shelf, and offer them to the robots that the submitter named."""
        for candidate in result.candidates:
            kept = shelf.path(shelf.add(Path(candidate.folder)).id)
            if robots:  # else somebody offers a candidate on its page
                context.offer(kept, robots)


def _keep_gate(context: JobContext, shelf: Shelf, record: GateRecord, spec: GateSpec) -> None:
    """Keep what a gate found; where it passed, offer the candidate to the robots that the submitter named.

    A record is kept of the trainer's own worker alone: what another machine reports as a job's end passes by here.

    Raises:
        CheckpointError: it is not of what was asked for.
        ProvenanceError: something that the candidate was made from was withdrawn meanwhile.
    """
    if (record.candidate, record.incumbent) != (spec.policy, spec.incumbent):
        raise CheckpointError(f"the gate of {spec.policy} left a record of {record.candidate}")
    context.gates.book.keep(context.job.tenant, record)
    context.emit("gated", {"record": record.id, "decision": record.decision, "reason": record.reason})
    if record.passed and spec.offer_to:
        context.gates.book.check_promotable(context.job.tenant, spec.policy)
        context.publish(shelf.path(spec.policy), robots=spec.offer_to)


def _recorded(context: JobContext, spec: JobSpec) -> Iterator[Recorded]:
    """The episodes of a job: those it names, or everything that may be learned from."""
    named = spec.named_episodes if isinstance(spec, (ReplaySpec, SceneSpec, PlanSpec)) else None
    later = isinstance(spec, ImitateSpec) and spec.config.retries

    def learnable(metadata: Mapping[str, object]) -> bool:
        return is_learnable(metadata) or (later and not is_measurement(metadata))

    for row in context.episodes.all():
        if learnable(row.metadata) if named is None else row.episode_id in named:
            yield Recorded(context.episodes.path(row), row.outcome, row.episode_id, row.robot, row.labelled_by)
