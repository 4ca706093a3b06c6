"""Distillation as a job: a student of fewer sampling steps, kept where it dreams as its teacher does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cloud_trainer.jobs.calibrated import inherit
from cloud_trainer.jobs.gates import NO_WORSE
from cloud_trainer.jobs.job import Job, load_episodes
from cloud_trainer.jobs.splits import split
from cloud_trainer.world_model.audit.cases import spread_over
from cloud_trainer.world_model.audit.run import run_audit
from cloud_trainer.world_model.capabilities import image_size_of
from cloud_trainer.world_model.distillation import Distilling, as_it_teaches, distil_world
from cloud_trainer.world_model.worlds import World, load_world
from gymnast_core.errors import ConfigError, NotTrustedError
from gymnast_core.evaluation.statistics import bootstrap_difference
from gymnast_core.jobs import DistilResult, DistilSettings, DistilSpec
from gymnast_core.jobs.practice import DreamConfig
from gymnast_core.policies.placement import device_of
from gymnast_core.records.manifest import read_manifest
from gymnast_core.types import Episode


@dataclass(frozen=True)
class Compared:
    """Dreams of the same held-out episodes by a student and its teacher.

    Attributes:
        student: id.
        teacher: id.
        student_db: mean PSNR.
        teacher_db: mean PSNR.
        change: mean of the differences, dB.
        low: their lower end at 95 % confidence.
        broken: bounds of the audit that the student breaks and the teacher keeps.
    """

    student: str
    teacher: str
    student_db: float
    teacher_db: float
    change: float
    low: float
    broken: tuple[str, ...]

    def require(self, most_lost_db: float) -> None:
        """Let a student pass that dreams as its teacher does.

        Raises:
            NotTrustedError: it may have lost more, or breaks a bound that the teacher keeps.
        """
        lost = [] if self.low >= -most_lost_db else [
            f"PSNR {self.change:+.2f} dB against its teacher (at least {self.low:+.2f} at 95 %), -{most_lost_db:g} is "
            "allowed"
        ]  # fmt: skip
        if reasons := [*lost, *self.broken]:
            raise NotTrustedError(
                f"student {self.student} audits worse than {self.teacher}: {'; '.join(reasons)}. Distil for more "
                "iterations, or to more steps or channels"
            )


def distil(job: Job[DistilSpec]) -> DistilResult:
    """Distil the job's world model on its episodes, and compare the student with its teacher on held-out ones.

    Raises:
        NotTrustedError: the student audits worse.
        ConfigError: too few labelled episodes, or a setting that the world model does not have.
        CancelledError: asked to stop; the job folder has the last whole step.
    """
    config, teacher, out = job.spec.config, job.checkpoints["world_model"], job.folder / "student"
    size = image_size_of(read_manifest(teacher))
    parts = split(load_episodes(job, config.most_episodes, size))
    held_out, episodes = parts.pop("audit"), [episode for part in parts.values() for episode in part]
    if not held_out or not episodes:
        raise ConfigError("too few labelled episodes to distil on and to hold out; collect more (100 are a beginning)")
    taught = None
    if not out.exists():
        how = Distilling(
            config, job.spec.seed, job.folder / "student.state", device_of(config.device), job.progress, job.cancelled
        )
        taught = distil_world(teacher, episodes, how, out)
    inherit(teacher, out)  # also where a kill came between the two
    taught = taught or load_world(teacher, as_it_teaches(teacher, config))
    found = compare(out, taught, held_out, config, seed=job.spec.seed)
    found.require(config.most_lost_db)
    return DistilResult(
        register=(str(out),), episodes=len(episodes), folder=str(job.folder), world_model=found.student,
        teacher=found.teacher, psnr_db={"student": found.student_db, "teacher": found.teacher_db}, change=found.change,
    )  # fmt: skip


def compare(
    student: Path, teacher: World, held_out: Sequence[Episode], settings: DistilSettings, *, seed: int
) -> Compared:
    """Audit the dreams of both, frame by frame, on the same held-out episodes.

    Args:
        student: checkpoint folder.
        teacher: as it taught, see as_it_teaches().
        held_out: recorded.
        settings: how many of them are dreamt, and where.
        seed: of the dreams.
    """
    chosen, config = spread_over(held_out, settings.audited), NO_WORSE.changed(pictures=settings.audited)
    worlds = (load_world(student, DreamConfig(device=settings.device)), teacher)
    ours, theirs = (
        run_audit(world.dreamer(), chosen, judge=None, config=config, model=world.version, seed=seed)
        for world in worlds
    )
    rows = [[report.psnr_by_episode[name] for name in sorted(ours.psnr_by_episode)] for report in (theirs, ours)]
    change = bootstrap_difference(*rows, rng=np.random.default_rng(seed), resamples=2000)
    before, after = (float(np.mean(row)) for row in rows)
    broken = tuple(text for name, text in ours.broken.items() if name not in theirs.broken)
    return Compared(ours.model, theirs.model, after, before, change.mean, change.low, broken)
