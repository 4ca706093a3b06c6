"""Following a training job from the command line: its stages as progress, its refusal as the error it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gymnast_cli.stages import Advance
from gymnast_core.job import described, progress_of

if TYPE_CHECKING:
    from gymnast_client import JobsClient
    from gymnast_core.job import JobView
    from gymnast_core.jobs import JobSpec


def follow(jobs: JobsClient, spec: JobSpec, *, key: str, advance: Advance) -> dict[str, object]:
    """Submit a job (once per key), show its progress, and return its result; raises as JobsClient.result()."""
    job = jobs.submit(spec, key=key)
    watch(jobs, job.job_id, advance)
    return dict(jobs.result(job))


def watch(jobs: JobsClient, job_id: str, advance: Advance) -> JobView:
    """Show a job's progress until it has ended; returns it."""
    for event in jobs.watch(job_id):
        if progress := progress_of(event):
            advance(progress["step"], progress["total"], described(progress))
    return jobs.get(job_id)


def ended_well(job: JobView) -> bool:
    """Whether a job has a result."""
    return str(job.state) in ("done", "succeeded")
