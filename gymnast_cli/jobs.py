"""Following a training job from the command line: its stages as progress, its refusal as the error it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gymnast_cli.stages import Advance
from gymnast_core.errors import GymnastError, NotTrustedError
from gymnast_core.job import described

if TYPE_CHECKING:
    from gymnast_core.job import JobView
    from gymnast_core.jobs import JobSpec
    from gymnast_ros.uplink import JobsClient


class JobEndedError(GymnastError):
    """A training job failed or was cancelled; the message is its last word."""


def follow(jobs: JobsClient, spec: JobSpec, *, key: str, advance: Advance) -> dict[str, Any]:
    """Submit a job (once per key), show its progress, and return its result.

    Raises:
        NotTrustedError: an audit or a calibration refused the training.
        JobEndedError: it failed or was cancelled.
    """
    ended = watch(jobs, jobs.submit(spec.kind, spec.to_json(), key).job_id, advance)
    if ended_well(ended):
        return dict(ended.result)
    if ended.error.startswith(NotTrustedError.__name__):
        raise NotTrustedError(ended.error.removeprefix(f"{NotTrustedError.__name__}: "))
    raise JobEndedError(f"job {ended.job_id} {ended.state}: {ended.error or 'no reason given'}")


def watch(jobs: JobsClient, job_id: str, advance: Advance) -> JobView:
    """Show a job's progress until it has ended; returns it."""
    for event in jobs.watch(job_id):
        if event.kind == "progress":
            advance(int(event.data["step"]), int(event.data["total"]), described(event.data))
    return jobs.get(job_id)


def ended_well(job: JobView) -> bool:
    """Whether a job has a result."""
    return str(job.state) in ("done", "succeeded")
