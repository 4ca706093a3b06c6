"""Does a job of the service in a worker process, and keeps what it made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cloud_trainer.flows.replay_watch import record_rows
from cloud_trainer.jobs.memory import GIB, memory_of_machine
from cloud_trainer.jobs.runner import JobInputs, Recorded, run_in_process
from cloud_trainer.jobs.shelf import Shelves
from cloud_trainer.service import JobContext
from gymnast_core.evaluation.purpose import is_measurement

SETTLE_S = 60.0
"""Longest wait for what has arrived to be checked."""


class JobProcesses:
    """A Runner: every job in a process of its own.

    Args:
        folder: of the trainer; jobs work in folder/jobs.
        shelves: of its checkpoints.
        threads: torch threads of a job.
        memory_gib: that a job may use; None is half of what this machine, or its container, has.
    """

    def __init__(self, folder: Path, shelves: Shelves, *, threads: int = 1, memory_gib: float | None = None) -> None:
        self._folder, self._shelves, self._threads = folder, shelves, threads
        self._memory_bytes = memory_of_machine() // 2 if memory_gib is None else int(memory_gib * GIB)

    def __call__(self, context: JobContext) -> Mapping[str, Any]:
        """Do one job; returns its result."""
        tenant = context.job.tenant
        shelf = self._shelves.of(tenant)
        context.episodes.settle(SETTLE_S)
        recorded = tuple(_recorded(context))
        inputs = JobInputs(context.job.job_id, context.job.kind, context.job.spec, recorded, shelf.path, shelf.newest)

        def emit(kind: str, data: Mapping[str, Any]) -> None:
            context.emit(kind, data)

        result = run_in_process(
            inputs, self._folder / "jobs", emit=emit, cancelled=context.cancelled, threads=self._threads,
            memory_bytes=self._memory_bytes,
        )  # fmt: skip
        for folder in result.get("register", ()):
            shelf.add(Path(folder))
        robots = [str(name) for name in context.job.spec.get("offer_to", ())]
        for candidate in result.get("candidates", ()):
            shelf.add(Path(candidate["folder"]))
            if robots:  # whoever submitted the job named them; else somebody offers a candidate on its page
                context.publish(Path(candidate["folder"]), robots=robots)
        record_rows(context.ledger, result)
        return result


def _recorded(context: JobContext) -> Iterator[Recorded]:
    """The episodes of a job: those it names, or everything that may be learned from."""
    named = context.job.spec.get("episodes")
    for row in context.episodes.all():
        if not is_measurement(row.metadata) if named is None else row.episode_id in named:
            yield Recorded(context.episodes.path(row), row.outcome, row.episode_id, row.robot)
