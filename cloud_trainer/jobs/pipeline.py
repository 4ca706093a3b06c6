"""What does each kind of job of the registry.

Each step writes its checkpoint or state into the job folder, so a job that was killed goes on where it stopped and
ends with the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cloud_trainer.jobs.adapt import adapt
from cloud_trainer.jobs.imitate import imitate
from cloud_trainer.jobs.improve import improve
from cloud_trainer.jobs.job import Job
from cloud_trainer.jobs.preview import preview
from cloud_trainer.jobs.replay import replay
from cloud_trainer.jobs.trust import trust
from gymnast_core.jobs import JobResult

JOBS: Mapping[str, Callable[[Job[Any]], JobResult]] = {
    "improve": improve,
    "imitate": imitate,
    "adapt": adapt,
    "replay": replay,
    "trust": trust,
    "preview": preview,
}
