"""What computes and moves arms behind a tenant's loops: the trainer's jobs and blinded trials, robots' orders."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

from cloud_trainer.flows.adaptation_engine import CLOSING, Ended
from cloud_trainer.flows.arms import Connect, Errand, FlowRobot
from cloud_trainer.flows.gating import Gating
from cloud_trainer.flows.job_following import run_job
from cloud_trainer.flows.loop_parts import Advance, CanaryRequest, TrainedRound, TrialStoppedError
from cloud_trainer.flows.queue_begin import Begin
from cloud_trainer.flows.trials import TrialRow, Trials
from cloud_trainer.jobs.shelf import Shelf
from cloud_trainer.jobs.submission import check_dream, check_reach
from cloud_trainer.progress import ClosingError
from cloud_trainer.store.sql_jobs import SqlJobStore
from gymnast_core.errors import JobEndedError, NotPossibleError
from gymnast_core.evaluation.cards import ResultCard
from gymnast_core.job import JobEvent, described, progress_of
from gymnast_core.jobs import ImproveSettings
from gymnast_core.json_values import JsonObject

POLL_S = 0.2


@dataclass(frozen=True)
class ArmLoopEngine:
    """A LoopEngine of one tenant.

    Attributes:
        tenant: the tenant they belong to.
        reach: see Connect.
        jobs: of the trainer.
        trials: of the trainer.
        shelf: of its checkpoints.
        gating: how candidates come to robots that ask for a gate record.
        begins: how a loop waits for others that change what its robots run.
        allowed: what loops may reach outside the trainer, see gymnast_core.job.REACHES.
    """

    tenant: str
    reach: Connect
    jobs: SqlJobStore
    trials: Trials
    shelf: Shelf
    gating: Gating
    begins: Begin
    allowed: Collection[str] = ()

    def check(self, job: JsonObject, world_model: str) -> None:
        """See LoopEngine."""
        check_reach(job, self.allowed)
        check_dream(ImproveSettings.model_validate(job).dream, self.shelf, world_model)

    def require(self, policy: str) -> None:
        """See LoopEngine."""
        self.shelf.path(policy)

    def begin(self, robots: Sequence[str], errand: Errand, ended: Ended, advance: Advance) -> None:
        """See LoopEngine."""
        self.begins(robots, errand, ended, lambda why: advance(0, 0, why))

    def newest(self, kind: str) -> str:
        """See LoopEngine."""
        return self.shelf.newest(kind).name

    def connect(self, robot: str, errand: Errand) -> FlowRobot:
        """See LoopEngine."""
        return self.reach(robot, errand)

    def improve(self, spec: JsonObject, key: str, by: str, ended: Ended, advance: Advance) -> TrainedRound:
        """See LoopEngine."""

        def show(event: JobEvent) -> None:
            if progress := progress_of(event):
                advance(progress["step"], progress["total"], described(progress))

        result = run_job(self.jobs, self.tenant, "improve", spec, key=key, by=by, ended=ended, on_event=show).result
        if not result:
            raise JobEndedError(f"the training job of {key} was cancelled")
        return cast(TrainedRound, result)

    def asking(self, robots: Sequence[str]) -> list[str]:
        """See LoopEngine."""
        return self.gating.asking(robots)

    def admit(self, candidate: str, robots: Sequence[str], key: str, by: str, ended: Ended, advance: Advance) -> str:
        """See LoopEngine."""
        return self.gating.admit(candidate, robots, key=key, by=by, ended=ended, advance=advance)

    def try_out(self, asked: CanaryRequest, ended: Ended, advance: Advance) -> ResultCard:
        """See LoopEngine."""
        if (known := self.trials.known(self.tenant, asked.key)) is None:
            self.trials.start(
                self.tenant, robot=asked.robot, candidate=asked.candidate, incumbent=asked.incumbent,
                tasks=asked.tasks, by=asked.by, scene=asked.scene, rule=asked.rule, key=asked.key,
            )  # fmt: skip
        elif (known.robot, known.candidate, known.incumbent) != (asked.robot, asked.candidate, asked.incumbent):
            raise TrialStoppedError(
                f"trial {known.trial_id} of {known.by} has the key of this canary, of other checkpoints"
            )
        while (view := self._view(asked.key))["state"] == "running":
            advance(int(view["pairs_done"]), int(view["max_pairs"]), "pairs")
            if (why := ended()) == CLOSING:
                raise ClosingError(f"trial {view['trial_id']} goes on; it is followed again after the restart")
            if why:
                with contextlib.suppress(NotPossibleError):  # it was decided by its last run
                    self.trials.stop(self.tenant, str(view["trial_id"]), by=f"{asked.by}, which was {why}")
            time.sleep(POLL_S)
        if not view["card"]:
            raise TrialStoppedError(f"trial {view['trial_id']} of {asked.candidate} was not decided: {view['reason']}")
        return view["card"]

    def _view(self, key: str) -> TrialRow:
        return next(view for view in self.trials.views(self.tenant) if view["key"] == key)
