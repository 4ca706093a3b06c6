"""What pages are made from: the trainer's handlers, and what only pages show."""

from __future__ import annotations

from pathlib import Path

from cloud_trainer.service.handlers import REPORT_STALE_S, Handlers
from gymnast_core.web.auth import User


class Sources:
    """See the module.

    Args:
        ask: of the service.
        folder: of the trainer; jobs work in folder/jobs.
    """

    def __init__(self, ask: Handlers, folder: Path) -> None:
        self.ask, self._folder = ask, folder

    def job_folder(self, job_id: str) -> Path:
        """Return where a job works."""
        return self._folder / "jobs" / job_id

    def version(self, user: User, at: str) -> str:
        """Return something that changes whenever what this user sees at an address might.

        Robots report every second; only their own page follows every report of theirs.
        """
        tenant, ask = user.tenant, self.ask
        jobs = ask.jobs.all(user, limit=50)
        known = (
            ask.flows.loops.version(tenant),
            ask.queue.version(tenant),
            ask.log.version(tenant),
            sum(len(flow.view.history) for flow in ask.flows.adaptations.of(tenant)),
            ask.flows.trials.version(tenant),
            ask.pages.version(tenant),
            ask.robots.words.version(tenant),
            len(jobs),
            sum(job.last_event for job in jobs),
            sum(job.state == "running" for job in jobs),
            ask.episodes.newest_sequence(tenant),
            ask.judging.count(tenant) if at in ("/labelling", "/episodes") else 0,
            ask.robots.board.silent(tenant, REPORT_STALE_S),
            ask.robots.board.version(tenant, every=at == "/"),
        )
        return ".".join(map(str, known))
