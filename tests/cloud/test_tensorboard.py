"""Curves of jobs as TensorBoard reads them: each step of each curve once, whatever stopped and began again."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cloud_trainer.app.curves import CurveWatch
from cloud_trainer.jobs.tensorboard import JobCurves
from cloud_trainer.service import JobContext, Service, ServiceConfig
from cloud_trainer.store.sql_jobs import SqlJobStore
from gymnast_cli.main import main
from gymnast_core.job import JobEvent
from gymnast_core.json_values import JsonObject
from tests.bridge.test_bridge import wait_until


def progress(stage: str, step: int, **metrics: object) -> JsonObject:
    return {"stage": stage, "step": step, "total": 9, "metrics": metrics}


def event(sequence: int, data: JsonObject) -> JobEvent:
    return JobEvent(sequence, 1_700_000_000_000_000_000 + sequence * 1_000_000_000, "progress", data)


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Curve -> (step, value) of every point, by TensorBoard's own reader."""
    read = EventAccumulator(str(folder))
    read.Reload()
    found = {tag: read.Scalars(tag) for tag in read.Tags()["scalars"]}
    return {tag: [(one.step, round(one.value, 4)) for one in scalars] for tag, scalars in found.items()}


def test_a_kill_in_the_middle_of_a_point_and_a_resumed_job_write_no_step_twice_and_lose_none(tmp_path: Path) -> None:
    first = JobCurves(tmp_path, "job-1")
    for step in range(1, 4):
        first.add(event(step, progress("world_model", step, loss=1 / step)))
    first.flush()
    (file,) = (tmp_path / "job-1").iterdir()
    file.write_bytes(file.read_bytes()[:-5])  # a kill: the third point is torn
    again = JobCurves(tmp_path, "job-1")
    told = [again.add(event(step, progress("world_model", step, loss=1 / step))) for step in range(1, 5)]
    again.add(event(5, progress("grpo", 1, imagined_reward=0.25)))
    again.close()
    first.close()
    assert told == [False, False, True, True]
    assert points(tmp_path / "job-1") == {
        "world_model/loss": [(1, 1.0), (2, 0.5), (3, 0.3333), (4, 0.25)],
        "grpo/imagined_reward": [(1, 0.25)],
    }
    read = EventAccumulator(str(tmp_path / "job-1"))
    read.Reload()
    assert read.Scalars("grpo/imagined_reward")[0].wall_time == 1_700_000_005.0


@pytest.mark.parametrize(
    "data",
    [
        {}, progress("s", -1, loss=1.0), progress("s", 1 << 70, loss=1.0), progress("s", 1),
        {"stage": "s", "step": "1"}, progress("s", 1, loss=math.nan), progress("s", 1, loss=10**400),
        progress("s", 1, loss="low"), progress("s", 1, loss=True),
        {"stage": ["s"], "step": 1, "metrics": {"loss": 1}}, {"stage": "s", "step": 1, "metrics": [1]},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_no_point(data: JsonObject, tmp_path: Path) -> None:
    assert not JobCurves(tmp_path, "job-1").add(event(1, data))
    assert not list((tmp_path / "job-1").iterdir())


def test_names_stay_below_the_folder(tmp_path: Path) -> None:
    curves = JobCurves(tmp_path / "curves", "../../away")
    curves.add(event(1, progress("../s", 1, **{"a/b": 1.0})))
    curves.close()
    assert [path.name for path in tmp_path.iterdir()] == ["curves"]
    (folder,) = (tmp_path / "curves").iterdir()
    assert points(folder) == {"_s/a_b": [(1, 1.0)]}


def test_a_trainer_keeps_the_curves_of_all_its_jobs_over_a_restart(tmp_path: Path) -> None:
    def run(context: JobContext) -> JsonObject:
        for step in (1, 2):
            context.emit("progress", progress("sft", step, loss=step / 2))
        return {}

    for _ in range(2):
        with Service(ServiceConfig(folder=tmp_path / "trainer", insecure=True), run) as service:
            jobs: SqlJobStore = service.jobs
            with CurveWatch(jobs, tmp_path / "curves", poll_s=0.05):
                row = jobs.submit("default", "imitate", {}, "key", "ana")
                wait_until(lambda row=row, jobs=jobs: jobs.get("default", row.job_id).ended)
    assert points(tmp_path / "curves" / row.job_id) == {"sft/loss": [(1, 0.5), (2, 1.0)]}


def test_whoever_watches_a_job_keeps_its_curves_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(context: JobContext) -> JsonObject:
        context.emit("progress", progress("sft", 1, loss=0.5))
        return {}

    with Service(ServiceConfig(folder=tmp_path / "trainer", insecure=True), run) as service:
        there = ["--trainer", service.address, "--insecure"]
        spec = json.dumps({"policy": "policy-0"})
        kept = ["--tensorboard", str(tmp_path / "curves")]
        assert main(["--json", "jobs", "submit", "imitate", "--spec", spec, "--watch", *kept, *there]) == 0
        job = json.loads(capsys.readouterr().out)["job_id"]
        assert main(["--json", "jobs", "watch", job, *kept, *there]) == 0
        assert main(["--json", "jobs", "submit", "imitate", "--spec", spec, *kept, *there]) == 2
    assert points(tmp_path / "curves" / job) == {"sft/loss": [(1, 0.5)]}
