"""A job distils the trainer's world model; the student is practised in like any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud_trainer.jobs.distil import distil
from cloud_trainer.jobs.improve import improve
from cloud_trainer.jobs.job import Job
from cloud_trainer.progress import never, silent
from gymnast_core.errors import NotTrustedError
from gymnast_core.jobs import spec_of
from gymnast_core.records.manifest import read_manifest
from tests.cloud.jobs import TINY, job_of

SETTINGS = {"iterations": 2, "batch_size": 2, "audited": 2, "steps": 2}


def distil_job(material, folder: Path, **config) -> Job:
    checkpoints, files = material
    folder.mkdir()
    spec = spec_of("distil", {"seed": 1, "config": {**SETTINGS, **config}})
    return Job(spec, {"world_model": checkpoints["world_model"]}, files, folder, silent, never)


def test_a_student_is_kept_beside_its_teacher_and_practised_in(material, tmp_path: Path):
    checkpoints, files = material
    result = distil(distil_job(material, tmp_path / "distil", most_lost_db=60.0))
    (student,) = map(Path, result.registered)
    assert read_manifest(student).id == result.world_model
    assert read_manifest(student).parents == (read_manifest(checkpoints["world_model"]).id,) == (result.teacher,)
    assert set(result.psnr_db) == {"student", "teacher"}
    lab = ({**checkpoints, "world_model": student}, files)
    config = {**TINY, "refine_iterations": 0, "judge_iterations": 0, "grpo_iterations": 1, "forgetting_starts": 1}
    practised = improve(job_of(lab, tmp_path / "improve", config=config))
    assert practised.world_model == result.world_model


def test_a_student_that_may_have_lost_more_than_allowed_is_refused(material, tmp_path: Path):
    job = distil_job(material, tmp_path / "distil", widths=[8, 8, 8], most_lost_db=0.0)
    with pytest.raises(NotTrustedError, match="audits worse than"):
        distil(job)
