"""What a world model declares: one run learns from several kinds of actions, and a misfit is refused by name."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from cloud_trainer.jobs.job import require_audited
from cloud_trainer.jobs.shelf import Shelves
from cloud_trainer.jobs.submission import check_submission
from cloud_trainer.world_model.capabilities import CAPABILITIES, ActionKind, Capabilities, capabilities_of
from cloud_trainer.world_model.data.lerobot import LeRobotSource
from cloud_trainer.world_model.data.mixture import ClipStream, MixtureConfig
from cloud_trainer.world_model.data.source import MemorySource, SourceInfo
from cloud_trainer.world_model.dit.actions import ConditionLayout, frame_conditions
from cloud_trainer.world_model.worlds import load_world
from gymnast_cli.main import main
from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.policies.text import bag_of_words
from gymnast_core.records.manifest import BOUNDS_NAME, read_checkpoint, read_manifest, write_checkpoint
from gymnast_core.shipped import shipped_checkpoints
from tests.cli.test_wm import NETWORK
from tests.world_model.test_sources import lerobot_folder
from tests.world_model.tiny import tiny_episode, tiny_model

SHIPPED = shipped_checkpoints() / "world_model"
TAGGED = {**NETWORK, "camera_motion": True, "text_buckets": 8}


def train(folder: Path, data: list[dict[str, Any]], network: dict[str, Any], parent: Path | None = None) -> int:
    run = {
        "folder": str(folder), "steps": 2, "codec": {"kind": "identity"}, "data": data, "mixture": {"frames": 4},
        "train": {"batch_size": 2}, "parent": None if parent is None else str(parent),
    }  # fmt: skip
    folder.with_suffix(".json").write_text(json.dumps({**run, **({} if parent else {"network": network})}))
    return main(["--json", "wm", "train", str(folder.with_suffix(".json"))])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """One small dataset of each kind."""
    place = tmp_path_factory.mktemp("data")
    widths = {"ee_delta7": 7, "camera": 6, "text": 3}
    folders = {kind: lerobot_folder(place / kind, lengths=(6,), width=width) for kind, width in widths.items()}
    return {
        kind: {"kind": "lerobot", "folder": str(folder), "size": 16, "actions": kind, "state": "none"}
        for kind, folder in folders.items()
    }


@pytest.fixture(scope="module")
def planner(data: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that learned from words alone."""
    folder = tmp_path_factory.mktemp("runs") / "text"
    assert train(folder, [data["text"]], TAGGED) == 0
    return folder / "checkpoint"


def declaring(folder: Path, **changes: Any) -> Path:
    """A copy of the shipped world model that declares something else."""
    manifest, weights = read_checkpoint(SHIPPED)
    able = Capabilities(actions={ActionKind.EE_DELTA7: 7}, image_size=64).model_dump(mode="json")
    config = {**manifest.config, CAPABILITIES: {**able, **changes}}
    write_checkpoint(folder, weights, kind="world_model", architecture=manifest.architecture, config=config)
    return folder


def test_the_shipped_checkpoint_takes_the_arms_actions_as_far_as_it_was_calibrated(capsys: Any) -> None:
    assert main(["--json", "wm", "show", str(SHIPPED)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["actions"], shown["image_size"], shown["horizon"]) == ({"ee_delta7": 7}, 64, 15)
    assert (shown["declared"], shown["domains"], shown["refused"]) == (True, ["wx250s"], {})


def test_a_checkpoint_from_before_takes_the_arms_actions_as_far_as_it_was_calibrated(
    tmp_path: Path, capsys: Any
) -> None:
    manifest, weights = read_checkpoint(SHIPPED)
    config = {name: value for name, value in manifest.config.items() if name != CAPABILITIES}
    write_checkpoint(tmp_path / "old", weights, kind="world_model", architecture=manifest.architecture, config=config)
    shutil.copy(SHIPPED / BOUNDS_NAME, tmp_path / "old")
    assert main(["--json", "wm", "show", str(tmp_path / "old")]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["actions"], shown["image_size"], shown["horizon"]) == ({"ee_delta7": 7}, 64, 15)
    assert (shown["declared"], shown["domains"], shown["refused"]) == (False, ["wx250s"], {})
    assert ActionKind("ee_delta") is ActionKind.EE_DELTA7, "a run.json from before goes on"
    assert ActionKind("text_only") is ActionKind.NONE


def test_one_run_mixes_arm_camera_and_words(data: dict[str, dict[str, Any]], tmp_path: Path, capsys: Any) -> None:
    assert train(tmp_path / "run", list(data.values()), TAGGED) == 0
    checkpoint = json.loads(capsys.readouterr().out)["checkpoint"]
    assert main(["--json", "wm", "show", checkpoint]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["actions"] == {"ee_delta7": 7, "camera": 6, "text": 8}
    assert (shown["context_frames"], shown["declared"], shown["refused"]) == (5, True, {})
    read = ["--kind", "lerobot", "--state", "none", "--size", "16", "--world-model", checkpoint]
    out = ["--steps", "1", "--out", str(tmp_path / "r.mp4")]
    assert main(["--json", "wm", "rollout", data["ee_delta7"]["folder"], *read, *out]) == 0, "an arm acts in it"


def test_each_kind_has_its_numbers(data: dict[str, dict[str, Any]]) -> None:
    episode, layout = tiny_episode(steps=2), ConditionLayout(camera=True, text=4)
    moved = np.full((2, 7), 0.05, np.float32)
    arm, camera, text, none = (
        layout.of(kind, moved, episode.instruction)
        for kind in (ActionKind.EE_DELTA7, ActionKind.CAMERA, ActionKind.TEXT, ActionKind.NONE)
    )
    null = np.eye(10, dtype=np.float32)[[9, 9, 9]]
    np.testing.assert_array_equal(arm, np.pad(frame_conditions(moved), ((0, 0), (0, 10))))
    np.testing.assert_array_equal(camera[:, :10], null)
    np.testing.assert_allclose(camera[:, 10:16], [[0] * 6, *[[1.75] * 3 + [0.28] * 3] * 2], rtol=1e-6)
    np.testing.assert_array_equal(text[:, 16:], np.repeat(bag_of_words([episode.instruction], 4), 3, axis=0))
    assert not text[:, 10:16].any()
    np.testing.assert_array_equal(none, np.pad(null, ((0, 0), (0, 10))))
    read = LeRobotSource(Path(data["camera"]["folder"]), SourceInfo("c", actions=ActionKind.CAMERA)).episode(0)
    assert read.actions_TA[1:, :6].all()
    assert not read.actions_TA[:, 6].any()


def test_a_network_refuses_at_once_what_it_does_not_take(
    data: dict[str, dict[str, Any]], tmp_path: Path, capsys: Any
) -> None:
    for kind, setting in (("camera", '"camera_motion": true'), ("text", '"text_buckets": 64')):
        assert train(tmp_path / kind, [data[kind]], NETWORK) == 2
        said = json.loads(capsys.readouterr().out)["message"]
        assert f"dataset {kind} has actions of kind {kind}" in said
        assert setting in said
        assert not (tmp_path / kind).exists(), "before anything is read"
    assert train(tmp_path / "plain", [data["ee_delta7"]], NETWORK) == 0
    capsys.readouterr()
    assert train(tmp_path / "child", [data["text"]], NETWORK, tmp_path / "plain" / "checkpoint") == 2
    assert "begin with fresh weights" in json.loads(capsys.readouterr().out)["message"]
    words = ["--json", "episodes", "import", "lerobot", data["camera"]["folder"], "--into", str(tmp_path / "ours")]
    assert main([*words, "--actions", "camera"]) == 2
    assert "a camera's motion is none" in json.loads(capsys.readouterr().out)["message"]


def test_nothing_is_commanded_in_a_model_of_words(planner: Path, data: Any, tmp_path: Path, capsys: Any) -> None:
    read = ["--kind", "lerobot", "--state", "none", "--size", "16", "--world-model", str(planner)]
    assert main(["--json", "wm", "rollout", data["ee_delta7"]["folder"], *read, "--out", str(tmp_path / "r.mp4")]) == 2
    assert "takes text (8) and no ee_delta7" in json.loads(capsys.readouterr().out)["message"]
    assert main(["--json", "wm", "serve", str(planner), "--port", "0"]) == 2
    assert "gymnast wm plan" in json.loads(capsys.readouterr().out)["message"]
    with pytest.raises(ConfigError, match="takes text"):
        gymnasium.make("cloud_trainer.gym:gymnast/Dream-v0", checkpoint=planner, episodes=[tiny_episode()])
    shelves = Shelves(tmp_path / "trainer", [SHIPPED.parent / "policy", SHIPPED, planner])
    shelf = shelves.of("default")
    assert shelf.newest("world_model").name == read_checkpoint(SHIPPED)[0].id, "the newest that an arm can act in"
    asked = {"policy": shelf.ids("policy")[0], "world_model": read_checkpoint(planner)[0].id}
    with pytest.raises(ConfigError, match="takes text"):
        check_submission(shelves, lambda _: None, "default", "improve", asked)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("dream", "said"),
    [
        ({"steps": 4, "guidance": 2.0}, "dream.steps 4 and dream.guidance 2"),
        ({"batch_size": 8}, "dream.batch_size 8"),
        ({"batch_size": 40}, "dream.batch_size 40"),  # the default, but somebody named it
        ({"image_size": 64, "steps": 1}, "dream.steps 1 and dream.image_size 64"),
    ],
)
def test_a_compact_model_refuses_settings_of_a_dream_that_it_would_not_heed(
    dream: dict[str, float], said: str, tmp_path: Path
) -> None:
    shelves = Shelves(tmp_path / "trainer", [SHIPPED.parent / "policy", SHIPPED])
    (policy,) = shelves.of("default").ids("policy")
    for named in ({}, {"world_model": read_manifest(SHIPPED).id}):  # the trainer's own choice is looked at, too
        asked = {"policy": policy, "config": {"device": "cpu", "dream": dream}, **named}
        with pytest.raises(ConfigError, match=rf"{said}: world_model-\S+ is a compact"):
            check_submission(shelves, lambda _: None, "default", "improve", asked)  # type: ignore[arg-type, return-value]
    heeded = {"policy": policy, "config": {"device": "cpu", "dream": {"episode_steps": 15}}}
    check_submission(shelves, lambda _: None, "default", "improve", heeded)  # type: ignore[arg-type, return-value]


def test_a_compact_model_is_not_served_in_steps_that_it_was_not_made_for(capsys: Any) -> None:
    assert main(["--json", "wm", "serve", str(SHIPPED), "--port", "0", "--steps", "4"]) == 2
    assert "gymnast wm distil" in json.loads(capsys.readouterr().out)["message"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeded": False}, "cannot be seeded row by row"),
        ({"domains": ["franka"]}, "knows the domains franka, not wx250s; refine it"),
        ({"actions": {"ee_delta7": 14}}, "14 numbers per ee_delta7 action, the wx250s needs 7"),
        ({"actions": {"joint": 7}}, r"takes joint \(7\) and no ee_delta7"),
        ({"rate_hz": 3.0}, "has 3 steps a second, the wx250s needs 5"),
        ({"frames_per_action": 4}, "has 4 frames per action"),
    ],
)
def test_a_misfit_is_refused_before_a_tensor_is_read(tmp_path: Path, changes: Any, said: str) -> None:
    folder = declaring(tmp_path / "wm", **changes)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(ConfigError, match=said):
        load_world(folder)


def test_what_cannot_be_seeded_may_still_be_looked_at(tmp_path: Path, capsys: Any) -> None:
    folder = declaring(tmp_path / "wm", seeded=False)
    assert load_world(folder, seeded=False).image_size == 64
    assert main(["--json", "wm", "show", str(folder)]) == 0
    assert list(json.loads(capsys.readouterr().out)["refused"]) == ["practice"]
    with pytest.raises(CheckpointError, match="capabilities: seeded must be true or false"):
        load_world(declaring(tmp_path / "broken", seeded="perhaps"))


@pytest.mark.parametrize("said", ['{"horizon": true}', '{"horizon": -3}', '{"horizon": NaN}', "[" * 100_000])
def test_a_horizon_that_makes_no_sense_was_not_measured(said: str, tmp_path: Path) -> None:
    folder = declaring(tmp_path / "world", horizon=9)
    (folder / "bounds.json").write_text(said)
    assert capabilities_of(folder).horizon == 9


def test_nobody_dreams_beyond_the_audited_horizon(capsys: Any) -> None:
    episodes = [replace(tiny_episode(size=64), images={"main": np.zeros((9, 64, 64, 3), np.uint8)})]
    with pytest.raises(ConfigError, match="max_steps 16 is beyond the 15 steps that world model world_model-"):
        gymnasium.make("cloud_trainer.gym:gymnast/Dream-v0", checkpoint=SHIPPED, episodes=episodes, max_steps=16)
    assert main(["--json", "wm", "serve", str(SHIPPED), "--port", "0", "--horizon", "16"]) == 2
    assert "--horizon 16 is beyond the 15 steps" in json.loads(capsys.readouterr().out)["message"]
    require_audited(episodes, 8)
    with pytest.raises(ConfigError, match=r"dream.episode_steps 9 is beyond the 8 steps of the longest held-out"):
        require_audited(episodes, 9)


def test_a_tagged_network_takes_an_arms_numbers_alone() -> None:
    import torch

    model = tiny_model(camera_motion=True, text_buckets=4)
    x, t, arm = torch.zeros(1, 2, 4, 4, 3), torch.zeros(1, 2, dtype=torch.long), torch.rand(1, 2, 10)
    wide = torch.nn.functional.pad(arm, (0, 10))
    assert torch.equal(model(x, t, arm), model(x, t, wide))
    wide[..., 12] = 1
    assert not torch.equal(model(x, t, arm), model(x, t, wide)), "the camera's motion is looked at"


def test_a_stream_says_what_is_learned_from_it() -> None:
    camera = MemorySource(SourceInfo("c", actions=ActionKind.CAMERA, robot="drone"), [tiny_episode()])
    arm = MemorySource(SourceInfo("a", robot="franka"), [tiny_episode()])
    stream = ClipStream([camera, arm], MixtureConfig(frames=3), layout=ConditionLayout(camera=True))
    assert stream.learned == ({ActionKind.CAMERA, ActionKind.EE_DELTA7}, ("franka",))
    assert stream.next_clips(1)[0].conditions_FC.shape == (3, 16)
