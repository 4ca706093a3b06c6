"""Audit and judge calibration from files alone: no robot, no trainer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cloud_trainer.judge.learned import JudgeConfig, JudgeNetwork, LearnedJudge
from cloud_trainer.judge.thresholds import Thresholds
from gymnast_cli.main import main
from gymnast_core.episodes import write_episode
from gymnast_core.policies import load_policy
from gymnast_core.records.manifest import read_manifest
from gymnast_core.types import Outcome
from tests.cloud.learning_fakes import episode, tiny_world_model
from tests.cloud.openai_server import OpenAiServer, grade
from tests.policies import pi0_folder
from tests.policies.openvla_folder import observation, write_folder


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Episodes, a world model and a judge that have learned nothing."""
    import torch

    folder = tmp_path_factory.mktemp("offline")
    (folder / "episodes").mkdir()
    for seed in range(6):
        write_episode(folder / "episodes", episode(seed), robot="sim-0")
    write_episode(folder / "episodes", replace(episode(6), outcome=Outcome.UNLABELLED), robot="sim-0")
    write_episode(folder / "episodes", episode(7, steps=4), robot="sim-0")
    tiny_world_model().save(folder / "world_model", parents=(), lineage={})
    torch.manual_seed(0)
    judge = LearnedJudge(JudgeNetwork(JudgeConfig(widths=(4, 4, 4), hidden=8)))
    judge.save(folder / "judge", parents=(), lineage={}, thresholds=Thresholds(0.4, 0.6))
    return folder


def test_audit_of_an_ignorant_model_refuses_and_draws_its_page(files: Path, tmp_path: Path, capsys) -> None:
    models = ("--world-model", str(files / "world_model"), "--judge", str(files / "judge"))
    code = main(["--json", "wm", "audit", str(files / "episodes"), *models, "--out", str(tmp_path)])
    if code == 2:
        pytest.fail(capsys.readouterr().out)
    result = json.loads(capsys.readouterr().out)
    assert (code, result["trusted"]) == (3, False)
    assert result["episodes"] + result["abstained"] == 6, (
        "of seven labelled ones, one short, the fourth is the tracker's"
    )
    assert f"episodes {result['episodes']} < 40" in result["refusal"]
    assert "override by name" in result["refusal"]
    assert json.loads((tmp_path / "audit.json").read_text())["outcomes"]["real_success"] == result["real_success"]
    page = (tmp_path / "audit.html").read_text()
    assert page.count("data:video/mp4;base64,") == 6
    assert "Not trusted" in page
    assert "http" not in page, "no external assets"


def test_audit_demands_only_the_parts_it_is_asked_for(files: Path, tmp_path: Path, capsys) -> None:
    model = str(files / "world_model")
    ignored = ("--override", "change_recall=a toy", "jump=a toy")
    asked = ("--parts", "objects", *ignored, "--parent", model, "--out", str(tmp_path))
    assert main(["--json", "wm", "audit", str(files / "episodes"), "--world-model", model, *asked]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["trusted"]
    assert "episodes" not in result
    assert set(result["overridden"].values()) <= {"a toy"}
    with pytest.raises(SystemExit, match="2"):
        main(["wm", "audit", str(files / "episodes"), "--world-model", model, "--override", "jump"])
    assert "'jump' is no BOUND=REASON: name the bound, and say why" in capsys.readouterr().err
    wrong = ("--parts", "smell", "--out", str(tmp_path))
    assert main(["--json", "wm", "audit", str(files / "episodes"), "--world-model", model, *wrong]) == 2
    assert "unknown audit parts ['smell']" in json.loads(capsys.readouterr().out)["message"]


def test_judge_is_calibrated_on_recordings_and_on_dreams(files: Path, tmp_path: Path, capsys) -> None:
    arguments = ["--json", "judge", "calibrate", str(files / "episodes"), "--judge", str(files / "judge")]
    out = tmp_path / "calibration.json"
    assert main([*arguments, "--out", str(out)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tasks"][0] | {"precision": 0, "recall": 0, "abstained": 0} == {
        "task": "*", "labelled": 7, "abstained": 0, "precision": 0, "recall": 0,
    }  # fmt: skip
    assert json.loads(out.read_text())["judge"] == report["judge"]
    assert main([*arguments, "--world-model", str(files / "world_model"), "--floor", "0.9"]) == 3
    assert "label more" in json.loads(capsys.readouterr().out)["refusal"]


def test_a_published_openvla_becomes_a_checkpoint_that_acts(tmp_path: Path, capsys) -> None:
    write_folder(tmp_path / "published")
    into = tmp_path / "policy"
    command = ["--json", "weights", "convert", str(tmp_path / "published"), str(into)]
    assert main([*command, "--pipeline", "rl", "--dtype", "bfloat16"]) == 0
    told = json.loads(capsys.readouterr().out)
    policy = load_policy(into)
    assert policy.version == told["checkpoint_id"] == read_manifest(into).id
    assert policy.act(observation(1), ["open drawer"]).actions_BKA.shape == (1, 5, 7)
    assert main(command) == 2, "immutable"
    assert "exists" in json.loads(capsys.readouterr().out)["message"]
    (tmp_path / "published" / "model-00002-of-00002.safetensors").unlink()
    assert main([*command[:-1], str(tmp_path / "other")]) == 1
    assert "lacks model-00002-of-00002.safetensors" in json.loads(capsys.readouterr().out)["message"]


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_a_published_pi0_becomes_a_checkpoint_that_acts_by_the_statistics_of_own_episodes(
    variant: str, files: Path, tmp_path: Path, capsys
) -> None:
    pi0_folder.write_openpi(tmp_path / "published", variant)
    command = ["--json", "weights", "convert", str(tmp_path / "published"), str(tmp_path / "policy")]
    assert main([*command, "--episodes", str(files / "episodes"), "--chunk-length", "8", "--steps", "2"]) == 0
    told = json.loads(capsys.readouterr().out)
    policy = load_policy(tmp_path / "policy")
    assert policy.version == told["checkpoint_id"]
    assert (told["variant"], told["statistics_key"]) == (variant, "episodes")
    assert policy.act(observation(1), ["open drawer"]).actions_BKA.shape == (1, 8, 7)
    other = ["--json", "weights", "convert", str(tmp_path / "published"), str(tmp_path / "other")]
    assert main([*other, "--head", "l1"]) == 2
    assert "--head means nothing for" in json.loads(capsys.readouterr().out)["message"]
    (tmp_path / "published" / "tokenizer.json").unlink()
    assert main(other) == 1
    assert "no tokenizer at" in json.loads(capsys.readouterr().out)["message"]


def test_an_endpoint_is_calibrated_like_any_judge(files: Path, tmp_path: Path, capsys) -> None:
    with OpenAiServer(lambda request: grade(False)) as server:
        settings = {"kind": "endpoint", "base_url": server.url, "model": "tiny-vlm", "voting": {"votes": 1}}
        (tmp_path / "judge.json").write_text(json.dumps(settings))
        arguments = ["--json", "judge", "calibrate", str(files / "episodes"), "--judge", str(tmp_path / "judge.json")]
        assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["judge"].startswith("tiny-vlm+")
    assert (report["tasks"][0]["labelled"], report["tasks"][0]["precision"]) == (7, None)


def test_a_judge_that_cannot_be_asked_is_not_calibrated(files: Path, tmp_path: Path, capsys) -> None:
    with OpenAiServer(lambda request: (401, "Incorrect API key provided", {})) as server:
        settings = {"kind": "endpoint", "base_url": server.url, "model": "tiny-vlm", "voting": {"votes": 1}}
        (tmp_path / "judge.json").write_text(json.dumps(settings))
        arguments = ["--json", "judge", "calibrate", str(files / "episodes"), "--judge", str(tmp_path / "judge.json")]
        assert main([*arguments, "--out", str(tmp_path / "calibration.json")]) != 0
    message = json.loads(capsys.readouterr().out)["message"]
    assert "could not be asked about 7 of 7 rollouts" in message
    assert "Incorrect API key" in message
    assert not (tmp_path / "calibration.json").exists()


def test_episode_file_is_shown_without_a_trainer(files: Path, tmp_path: Path, capsys) -> None:
    path = next((files / "episodes").glob("fake-0*.mcap"))
    assert main(["--json", "episodes", "show", str(path), "--film", str(tmp_path / "film.png")]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["episode_id"], shown["steps"], shown["outcome"]) == ("fake-0", 15, "failure")
    assert (tmp_path / "film.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["episodes", "show", str(path), "--film", str(tmp_path / "no" / "film.png")]) == 1
    assert "No such file or directory" in capsys.readouterr().out
