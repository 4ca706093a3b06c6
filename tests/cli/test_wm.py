"""A researcher's way from clips to an audit by the command line alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cloud_trainer.jobs import calibrate
from cloud_trainer.jobs.calibrated import GATES, calibrated_bounds
from cloud_trainer.judge.learned import JudgeConfig, JudgeNetwork, LearnedJudge
from cloud_trainer.world_model.data.video import read_video, write_video
from gymnast_cli.main import main
from gymnast_core.episodes import write_episode
from gymnast_core.jobs.audit import PARTS
from gymnast_core.records.manifest import read_manifest
from gymnast_core.shipped import shipped_checkpoints
from tests.cloud.learning_fakes import episode as recording
from tests.cloud.learning_fakes import tiny_world_model
from tests.world_model.test_sources import moving_square
from tests.world_model.tiny import tiny_model

SHIPPED = shipped_checkpoints()
NETWORK = {"in_channels": 3, "patch_size": 4, "dim": 16, "num_layers": 1, "num_heads": 2, "max_frames": 6}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips in WorldGym's packaging whose pictures follow the action of their own row."""
    folder = tmp_path_factory.mktemp("clips")
    for seed in range(2):
        episode = moving_square(seed, steps=24)
        rows = np.zeros((25, 10), np.float32)
        rows[:-1, :7] = episode.actions_TA * np.float32(35)
        write_video(folder / f"{seed}.mp4", episode.images["main"])
        np.savez(folder / f"{seed}.npz", rows)
    return folder


def test_clips_become_episodes_that_every_command_opens(clips: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["--json", "episodes", "import", "worldgym", str(clips), "--into", str(tmp_path / "ours"), "--lag", "0"]
    assert main([*words, "--instruction", "push the square", "--outcome", "success", "--robot", "lab"]) == 0
    added = json.loads(capsys.readouterr().out)["added"]
    written = [str(tmp_path / "ours" / f"{name}.mcap") for name in added]
    assert len(written) == 2
    assert main(["--json", "episodes", "show", written[0]]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["instruction"], shown["outcome"], shown["labelled_by"], shown["steps"]) == (
        "push the square", "success", "dataset:clips0", 24,
    )  # fmt: skip
    assert main(["--json", "wm", "lag", str(tmp_path / "ours")]) == 0, "read as our own: in step"
    capsys.readouterr()
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["known"] == added
    assert main([*words[:6], str(clips / "ours")]) == 2
    assert "only read" in json.loads(capsys.readouterr().out)["message"]


def test_lag_is_told_with_the_setting_that_mends_it(clips: Path, capsys: Any) -> None:
    measured = ["--json", "wm", "lag", str(clips), "--kind", "worldgym", "--tolerance", "0"]
    assert main([*measured, "--lag", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["best"] == 0
    assert main(measured) == 3, "WorldGym's own clips are one step late, these are not"
    out = capsys.readouterr()
    assert (json.loads(out.out)["best"], json.loads(out.out)["read_with_lag"]) == (-1, 1)
    assert main([word for word in measured if word != "--json"]) == 3
    assert 'train with "lag": 0' in capsys.readouterr().out


def test_train_rollout_and_audit(clips: Path, tmp_path: Path, capsys: Any) -> None:
    run = {
        "folder": str(tmp_path / "run"), "steps": 2, "codec": {"kind": "identity"}, "network": NETWORK,
        "data": [{"kind": "worldgym", "folder": str(clips), "size": 16, "lag": 0}], "mixture": {"frames": 4},
        "train": {"batch_size": 1, "sample_every": 2, "sampler": {"steps": 1}},
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert main(["--json", "wm", "train", str(tmp_path / "run.json")]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert trained["step"] == 2
    assert list((tmp_path / "run" / "samples").glob("*.mp4"))
    read = (str(clips), "--kind", "worldgym", "--size", "16", "--world-model", trained["checkpoint"])
    out = ("--out", str(tmp_path / "r.mp4"))
    assert main(["--json", "wm", "rollout", *read, "--episode", "1", "--start", "20", "--steps", "1", *out]) == 0
    rolled = json.loads(capsys.readouterr().out)
    assert len(rolled["psnr_db_by_step"]) == 3, "24 steps, one lost to the lag of 1, begun at 20"
    assert len(read_video(tmp_path / "r.mp4")) == 24
    audit = [
        "--parts",
        "objects",
        "--start",
        "20",
        "--override",
        *(f"{bound}=a toy" for bound in ("jump", "change_recall", "pictures")),
    ]
    assert main(["--json", "wm", "audit", *read, *audit, "--out", str(tmp_path / "audit")]) == 0
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert "Outcome not labelled" in page
    assert "do objects move that really moved" in page


def test_convert_makes_a_checkpoint_of_a_published_file(tmp_path: Path, capsys: Any) -> None:
    torch.save({"ema": tiny_model().state_dict(), "step": 7}, tmp_path / "a.pt")
    arguments = ["wm", "convert", str(tmp_path / "a.pt"), str(tmp_path / "wm"), "--rope", "pixel", "--heads", "2"]
    assert main(["--json", *arguments, "--vae", "/models/vae"]) == 0
    assert json.loads(capsys.readouterr().out)["entry"] == "ema"
    (tmp_path / "b.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert main([*arguments[:2], str(tmp_path / "b.pt"), str(tmp_path / "b"), *arguments[4:], "--vae", "x"]) == 1
    assert "CorruptError" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": None}, "run lacks steps: optimiser steps in all"),
        ({"train": {"learning": 1}}, "train: unknown settings ['learning'] (did you mean learning_rate?)"),
        ({"network": {**NETWORK, "width": 3}}, "network: unknown settings ['width']"),
        ({"mixture": {"frames": 9}}, "mixture.frames 9 exceeds the network's max_frames 6"),
        ({"mixture": {"proportions": {"wise": 1}}}, "mixture: proportions.wise"),
        ({"data": [{"kind": "worldgym", "folder": "/no/such"}]}, "must name an existing folder"),
        ({"data": [{"kind": "zip", "folder": "/tmp"}]}, "data kind 'zip'"),
    ],
)
def test_a_wrong_run_is_told_what_is_wrong(tmp_path: Path, clips: Path, change: Any, said: str, capsys: Any) -> None:
    run = {"folder": str(tmp_path / "run"), "steps": 1, "codec": {"kind": "identity"}, "network": NETWORK,
           "data": [{"kind": "worldgym", "folder": str(clips), "size": 16}], "mixture": {"frames": 4}}  # fmt: skip
    wrong = {name: value for name, value in {**run, **change}.items() if value is not None}
    (tmp_path / "run.json").write_text(json.dumps(wrong))
    assert main(["wm", "train", str(tmp_path / "run.json")]) == 2
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen labelled recordings of one task, as a robot ships them."""
    folder = tmp_path_factory.mktemp("recorded")
    for seed in range(16):
        write_episode(folder / f"{seed:02}.mcap", replace(recording(seed), instruction="lift"), robot="sim-0")
    return folder


def bounds(recorded: Path, world_model: Path, judge: Path = SHIPPED / "judge") -> list[str]:
    named = ("--world-model", str(world_model), "--judge", str(judge))
    return ["--json", "wm", "bounds", str(recorded), *named]


def test_bounds_are_written_beside_the_model_and_asked_by_each_gate(
    recorded: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "SIZES", dict.fromkeys(calibrate.SIZES, 4))
    monkeypatch.setattr(calibrate, "TRACKER_EPISODES", 8)
    monkeypatch.setattr(calibrate, "AUDITS", 5)
    world_model = tmp_path / "world_model"
    parent = tiny_world_model().save(world_model)
    tiny_world_model().save(tmp_path / "child", parents=(parent.id,), lineage={"stage": "world_model"})
    LearnedJudge(JudgeNetwork(JudgeConfig(widths=(4, 4, 4), hidden=8))).save(tmp_path / "judge")
    assert main(bounds(recorded, world_model, tmp_path / "judge")) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["episodes"], found["file"]) == (16, str(world_model / "bounds.json"))
    for gate in GATES:
        asked = calibrated_bounds(world_model, gate)
        assert asked == found["gates"][gate]
        assert "gripper_change" in asked, gate
        assert ("jump" in asked) == (gate != "adapt"), "leaps in a scene are no measurement at home"
    again = [*bounds(recorded, world_model, tmp_path / "judge"), "--gates", "improve", "--seed", "1", "--refined"]
    again[-1:-1] = ["--parts", "objects", "motion", "obedience"]
    assert main([*again, str(tmp_path / "child")]) == 0
    anew = json.loads(capsys.readouterr().out)
    assert anew["refined"] == [read_manifest(tmp_path / "child").id]
    assert anew["gates"]["improve"] != found["gates"]["improve"]
    kept = PARTS["outcomes"] + PARTS["pictures"]
    assert {name: anew["gates"]["improve"].get(name) for name in kept} == {
        name: found["gates"]["improve"].get(name) for name in kept
    }, "not asked for"
    assert anew["gates"]["adapt"] == found["gates"]["adapt"] == calibrated_bounds(world_model, "adapt"), "not asked for"
    assert main([*again, str(SHIPPED / "world_model")]) == 2
    assert "was refined from world_model-548e1196d9284fe9, not from" in capsys.readouterr().out
    assert main([*bounds(recorded, world_model, tmp_path / "judge"), "--gates", "improved"]) == 2
    assert "gate 'improved' is not one of improve, adapt, promotion" in capsys.readouterr().out


def test_bounds_need_enough_episodes_that_taught_nobody(recorded: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(bounds(recorded, SHIPPED / "world_model")) == 2, "before minutes of dreaming"
    assert "needs 100 held-out episodes, got {'all tasks': 16}; collect more" in capsys.readouterr().out
    taught = read_manifest(SHIPPED / "world_model").lineage["episodes"][0]
    write_episode(tmp_path / "a.mcap", replace(recording(0), episode_id=taught), robot="sim-0")
    assert main(bounds(tmp_path, SHIPPED / "world_model")) == 2
    assert f"{taught} among them, were learned from by" in capsys.readouterr().out


def test_the_shipped_world_model_has_bounds_for_every_gate() -> None:
    for gate in GATES:
        asked = calibrated_bounds(SHIPPED / "world_model", gate)
        assert "gripper_change" in asked, gate
        assert ("jump" in asked) == (gate != "adapt"), "scenes are held to leaps that were measured in scenes"
