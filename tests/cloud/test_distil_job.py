"""A job distils the trainer's world model; the student is practised in like any other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cloud_trainer.jobs.calibrated import calibrated_bounds, write_bounds
from cloud_trainer.jobs.distil import Compared, distil
from cloud_trainer.jobs.improve import improve
from cloud_trainer.jobs.job import Job
from cloud_trainer.progress import never, silent
from cloud_trainer.world_model.compact import model as compact_model
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


def test_a_student_is_kept_beside_its_teacher_and_practised_in(material, tmp_path: Path, monkeypatch):
    checkpoints, files = material
    read, real = list[Path](), compact_model.read_checkpoint
    monkeypatch.setattr(compact_model, "read_checkpoint", lambda at, **kind: read.append(at) or real(at, **kind))
    result = distil(distil_job(material, tmp_path / "distil", most_lost_db=60.0))
    (student,) = map(Path, result.registered)
    assert read == [checkpoints["world_model"], student], "each once"
    assert read_manifest(student).id == result.world_model
    assert read_manifest(student).parents == (read_manifest(checkpoints["world_model"]).id,) == (result.teacher,)
    assert set(result.psnr_db) == {"student", "teacher"}
    lab = ({**checkpoints, "world_model": student}, files)
    config = {**TINY, "refine_iterations": 0, "judge_iterations": 0, "grpo_iterations": 1, "forgetting_starts": 1}
    practised = improve(job_of(lab, tmp_path / "improve", config=config))
    assert practised.world_model == result.world_model


def test_a_student_has_its_teachers_bounds_also_where_a_kill_came_before_them(material, tmp_path: Path):
    checkpoints, files = material
    teacher = shutil.copytree(checkpoints["world_model"], tmp_path / "teacher")
    job = distil_job(({"world_model": teacher}, files), tmp_path / "distil")
    shutil.copytree(teacher, job.folder / "student")
    write_bounds(teacher, {"gates": {"improve": {"agreement": 0.9}}})
    distil(job)
    assert calibrated_bounds(job.folder / "student", "improve") == {"agreement": 0.9}


@pytest.mark.parametrize(
    ("low", "broken", "said"),
    [
        (-0.6, (), r"PSNR -0.30 dB against its teacher \(at least -0.60 at 95 %\), -0.5 is allowed"),
        (-0.4, ("jump 0.2 > 0.1",), "jump 0.2 > 0.1"),
        (-0.4, (), ""),
    ],
)
def test_a_student_that_may_have_lost_more_than_allowed_is_refused(low: float, broken: tuple[str, ...], said: str):
    found = Compared("student", "teacher", 29.7, 30.0, -0.3, low, broken)
    if not said:
        found.require(0.5)
        return
    with pytest.raises(NotTrustedError, match=said):
        found.require(0.5)
