"""Following a training job from the command line: its stages as progress, its refusal as the error it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gymnast_cli.stages import Advance
from gymnast_core.job import described, progress_of

if TYPE_CHECKING:
    from gymnast_client import JobsClient
    from gymnast_core.job import JobEvent, JobView
    from gymnast_core.jobs import JobSpec


def follow(jobs: JobsClient, spec: JobSpec, *, key: str, advance: Advance) -> dict[str, object]:
    """Submit a job (once per key), show its progress, and return its result; raises as JobsClient.result()."""
    job = jobs.submit(spec, key=key)
    watch(jobs, job.job_id, advance)
    return dict(jobs.result(job))


def watch(
    jobs: JobsClient, job_id: str, advance: Advance, keep: Callable[[JobEvent], object] = lambda event: None
) -> JobView:
    """Show a job's progress until it has ended; returns it.

    Args:
        jobs: of the trainer.
        job_id: which.
        advance: shows how far it is.
        keep: called with every event.
    """
    for event in jobs.watch(job_id):
        keep(event)
        if progress := progress_of(event):
            advance(progress["step"], progress["total"], described(progress))
    return jobs.get(job_id)


@contextlib.contextmanager
def curves_of(job_id: str, folder: Path | None) -> Iterator[Callable[[JobEvent], object]]:
    """What writes the events of a job into TensorBoard's files; into none without a folder.

    Raises:
        ConfigError: tensorboardX is not installed, or the folder cannot be written.
    """
    if folder is None:
        yield lambda event: None
        return
    from cloud_trainer.jobs.tensorboard import JobCurves

    with contextlib.closing(JobCurves(folder, job_id)) as curves:

        def keep(event: JobEvent) -> None:
            curves.add(event)
            curves.flush()

        yield keep


def ended_well(job: JobView) -> bool:
    """Whether a job has a result."""
    return str(job.state) in ("done", "succeeded")
