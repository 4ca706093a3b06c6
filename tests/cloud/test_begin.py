"""First checkpoints out of a user's own recorded episodes and camera, from the command line to a job that practises."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cloud_trainer.jobs.desk.begin import read_camera_matrix
from cloud_trainer.jobs.improve import improve
from cloud_trainer.jobs.job import Job
from cloud_trainer.jobs.runner import Recorded
from cloud_trainer.progress import never, silent
from cloud_trainer.world_model.compact.model import CompactWorldModel
from cloud_trainer.world_model.compact.network import CompactWorldNetwork
from gymnast_cli.main import main
from gymnast_core.episodes import read_summary, write_episode
from gymnast_core.errors import ConfigError
from gymnast_core.jobs import ImproveSettings, ImproveSpec
from gymnast_core.records.manifest import read_manifest
from gymnast_core.shipped import shipped_checkpoints
from gymnast_core.types import Outcome
from tests.cloud.learning_fakes import CAMERA, episode

COUNT, STEPS = 48, 20
KINDS = ("policy", "world_model", "judge")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes of an arm nobody here knows the name of, longer than those of the shipped simulator."""
    folder = tmp_path_factory.mktemp("recorded")
    for seed in range(COUNT):
        write_episode(folder, episode(seed, STEPS), robot="sawyer")
    return folder


@pytest.fixture(scope="module")
def made(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made")
    assert main(["begin", *words(recorded, out)]) == 0
    return out


def words(recorded: Path, out: Path) -> list[str]:
    camera = out / "camera.json"
    camera.write_text(json.dumps(CAMERA))
    return [
        str(recorded), "--camera-matrix", str(camera), "--out", str(out / "checkpoints"),
        "--work", str(out / "work"), "--dry",
    ]  # fmt: skip


def test_the_world_model_draws_where_the_named_camera_sees_the_arm(made: Path) -> None:
    model = CompactWorldModel.load(made / "checkpoints/world_model")
    assert model.config.camera_matrix == CAMERA
    assert isinstance(model.network, CompactWorldNetwork)
    np.testing.assert_array_equal(model.network.camera.numpy().ravel(), np.array(CAMERA, np.float32))
    assert abs(int(np.median(model.background)) - 120) <= 1  # the episodes' grey, not the shipped table
    shipped = read_manifest(shipped_checkpoints() / "world_model").id
    assert read_manifest(made / "checkpoints/world_model").parents == (shipped,)


def test_what_audits_is_learned_from_by_none_but_the_policy(made: Path) -> None:
    taught = {kind: read_manifest(made / "checkpoints" / kind).lineage for kind in KINDS}
    judged = {name for part in ("recorded", "imagined", "choosing") for name in taught["judge"][part]}
    assert set(taught["world_model"]["episodes"]) == set(taught["judge"]["recorded"])
    assert len(judged) < COUNT
    assert all(int(name.removeprefix("fake-")) % 2 for name in taught["policy"]["episodes"])  # successes alone


def test_a_second_call_makes_nothing_again(recorded: Path, made: Path) -> None:
    before = {kind: read_manifest(made / "checkpoints" / kind) for kind in KINDS}
    written = {path: path.stat().st_mtime_ns for path in (made / "checkpoints").rglob("*")}
    assert main(["begin", *words(recorded, made)]) == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert {kind: read_manifest(made / "checkpoints" / kind) for kind in KINDS} == before


def test_an_improve_job_practises_from_them_for_as_long_as_the_episodes_last(
    recorded: Path, made: Path, tmp_path: Path
) -> None:
    checkpoints = {kind: made / "checkpoints" / kind for kind in KINDS}
    config = ImproveSettings(
        groups=2, group_size=2, grpo_iterations=1, refine_iterations=2, judge_iterations=2, check=False
    )
    spec = ImproveSpec(policy=read_manifest(checkpoints["policy"]).id, config=config)
    files = [Recorded(path, read_summary(path).end.outcome.value) for path in sorted(recorded.glob("*.mcap"))]
    result = improve(Job(spec, checkpoints, files, tmp_path, silent, never))
    (candidate,) = result.candidates
    assert read_manifest(Path(candidate.folder)).parents == (spec.policy,)
    assert CompactWorldModel.load(tmp_path / "world_model").config.camera_matrix == CAMERA


def test_what_cannot_begin_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = tmp_path / "camera.json"
    short.write_text(json.dumps(CAMERA[:11]))
    with pytest.raises(ConfigError, match="12 numbers, row-major 3x4, got 11"):
        read_camera_matrix(short)
    short.write_text("{")
    with pytest.raises(ConfigError, match="cannot read the camera matrix"):
        read_camera_matrix(short)
    lost = tmp_path / "lost"
    for seed in range(4):
        write_episode(lost, replace(episode(seed), outcome=Outcome.FAILURE), robot="sawyer")
    (tmp_path / "given").mkdir()
    assert main(["begin", *words(lost, tmp_path / "given")]) == 2
    assert "none of 4 episodes is a success" in " ".join(capsys.readouterr().out.split())
