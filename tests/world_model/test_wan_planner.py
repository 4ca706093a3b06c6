"""Plans by a Wan image-to-video model: diffusers' own pipeline, guided by history, loaded to the last tensor."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import gymnasium
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cloud_trainer.world_model.planner.choice import load_planner
from cloud_trainer.world_model.planner.history_guidance import HistoryGuided
from cloud_trainer.world_model.planner.model import CompactPlanner
from cloud_trainer.world_model.planner.network import PlannerConfig
from cloud_trainer.world_model.planner.wan import WanPlanner, WanSettings, adopt
from cloud_trainer.world_model.planner.wan_weights import read_pipeline
from cloud_trainer.world_model.worlds import load_world
from gymnast_cli.main import main
from gymnast_core.errors import CheckpointError, ConfigError
from tests.cloud.learning_fakes import episode
from tests.world_model.tiny_wan import own_names, write_wan

SIZES = PlannerConfig(widths=(8, 8, 16), embedding=16, keypoint_widths=(8, 8, 8), hidden=32, image_size=32)
SMALL: dict[str, Any] = {"image_size": 32, "height": 32, "width": 48, "frames": 13, "sampling_steps": 2}
PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
TEXT = "lift the red cube"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """wan/ in diffusers' layout, lvp.safetensors with the same network under Wan's names, a compact planner."""
    folder = tmp_path_factory.mktemp("wan")
    write_wan(folder / "wan")
    frozen = {"vae.encoder.conv1.weight": torch.zeros(1), "vae_mean": torch.zeros(16)}
    own_names(folder / "wan", folder / "lvp.safetensors", more=frozen)
    CompactPlanner.fresh(SIZES, np.full((32, 32, 3), 120, np.uint8), seed=0).save(folder / "compact")
    return folder


def adopted(here: Path, out: Path, **changes: Any) -> WanPlanner:
    adopt(WanSettings(**{"folder": here / "wan", **SMALL, **changes}), here / "compact", out)
    planner = load_planner(out)
    assert isinstance(planner, WanPlanner)
    return planner


@pytest.mark.parametrize("words", [0.0, 1.5])
def test_without_history_guidance_it_draws_what_the_librarys_pipeline_draws(tmp_path: Path, words: float) -> None:
    write_wan(tmp_path, channels=16, looks=False)
    pipeline = read_pipeline(
        tmp_path, None, forced=True, flow_shift=3.0, device=torch.device("cpu"), dtype=torch.float32
    )
    noise = torch.randn(1, 16, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    embedded, nothing = torch.randn(2, 1, 7, 16, generator=torch.Generator().manual_seed(1))
    given: dict[str, Any] = {
        "image": torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)), "height": 64, "width": 64,
        "num_frames": 13, "num_inference_steps": 3, "prompt_embeds": embedded, "negative_prompt_embeds": nothing,
        "latents": noise, "output_type": "latent",
    }  # fmt: skip
    theirs = pipeline(**given, guidance_scale=1 + words).frames
    guided = HistoryGuided(pipeline.transformer, words=words, history=0, clean_time=False)
    guided.begin(nothing, pipeline.scheduler.timesteps, np.random.default_rng(0))
    pipeline.transformer = guided
    ours = pipeline(**given, guidance_scale=1.0).frames
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_guidance_is_the_published_formula_and_each_frame_has_its_own_time() -> None:
    asked: list[tuple[list[float], float, float]] = []

    def network(hidden_states: Any, timestep: Any, encoder_hidden_states: Any, **_: Any) -> tuple[torch.Tensor]:
        history, words = float(hidden_states[0, 0, 0].mean()), float(encoder_hidden_states.mean())
        assert hidden_states.shape[1] == 5, "channels that the latents lack are there"
        assert not hidden_states[:, 2:].any(), "and zero"
        asked.append((timestep[0].tolist(), words, history))
        return (torch.full((1, 2, 3, 2, 2), 100.0 * len(asked)),)

    guided = HistoryGuided.__new__(HistoryGuided)
    torch.nn.Module.__init__(guided)
    inner = torch.nn.Module()
    inner.forward, inner.config = network, SimpleNamespace(in_channels=5)  # type: ignore[assignment]
    HistoryGuided.__init__(guided, inner, words=2.0, history=1.5)
    guided.begin(torch.zeros(1, 4, 3), torch.tensor([990.0, 500.0, 70.0]), np.random.default_rng(0))
    latents, words = torch.ones(1, 2, 3, 2, 2), torch.ones(1, 4, 3)
    (found,) = guided(hidden_states=latents, timestep=torch.tensor([[0.0, 500.0, 500.0]]), encoder_hidden_states=words)
    assert [(times, said) for times, said, _ in asked] == [
        ([70.0, 500.0, 500.0], 1.0), ([70.0, 500.0, 500.0], 0.0), ([990.0, 500.0, 500.0], 1.0)
    ]  # fmt: skip
    assert [history == 1.0 for _, _, history in asked] == [True, True, False], "noise where the history was"
    assert bool((found == 4.5 * 100 - 2.0 * 200 - 1.5 * 300).all())


def test_a_seed_repeats_a_plan_and_guidance_and_words_change_it(here: Path, tmp_path: Path) -> None:
    planner = adopted(here, tmp_path / "p")
    first, again, other = (planner.plan(PICTURE[None], [TEXT], [(seed,)]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.frames_BFHWC, again.frames_BFHWC)
    np.testing.assert_array_equal(first.actions_BTA, again.actions_BTA)
    assert first.frames_BFHWC.shape == (1, 4, 32, 32, 3)
    np.testing.assert_array_equal(first.frames_BFHWC[0, 0], PICTURE)
    np.testing.assert_array_equal(first.frame_steps_F, [0, 5, 10, 15])
    assert (first.frames_BFHWC != other.frames_BFHWC).any()
    assert (planner.plan(PICTURE[None], ["close the drawer"], [(1,)]).frames_BFHWC != first.frames_BFHWC).any()
    two = planner.plan(np.stack([PICTURE] * 2), [TEXT] * 2, [(2,), (1,)])
    np.testing.assert_array_equal(two.frames_BFHWC[1], first.frames_BFHWC[0])
    plain = adopted(here, tmp_path / "plain", history_guidance=0.0)
    assert (plain.plan(PICTURE[None], [TEXT], [(1,)]).frames_BFHWC != first.frames_BFHWC).any()
    assert plain.version != planner.version


def test_large_video_planners_names_are_the_same_network(here: Path, tmp_path: Path) -> None:
    ours = adopted(here, tmp_path / "ours").video(PICTURE, TEXT, (0,))
    theirs = adopted(here, tmp_path / "theirs", network=here / "lvp.safetensors").video(PICTURE, TEXT, (0,))
    np.testing.assert_array_equal(ours, theirs)
    assert ours.shape == (13, 32, 32, 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model.blocks.0.extra.weight": torch.zeros(1)}, "unknown blocks.0.extra.weight"),
        ({"ema.blocks.0.ffn.0.weight": torch.zeros(1)}, "of no part of the model: ema.blocks.0.ffn.0.weight"),
        ({"model.blocks.1.cross_attn.k_img.weight": None}, "missing blocks.1.attn2.add_k_proj.weight"),
        ({"model.head.head.bias": torch.zeros(3)}, "reshaped proj_out.bias"),
    ],
)
def test_every_tensor_is_accounted_for(here: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    tensors = {**load_file(here / "lvp.safetensors"), **change}
    save_file({name: value for name, value in tensors.items() if value is not None}, tmp_path / "n.safetensors")
    with pytest.raises(CheckpointError, match=said):
        adopted(here, tmp_path / "p", network=tmp_path / "n.safetensors")


def test_no_pickle_is_read_and_no_file_may_change(here: Path, tmp_path: Path) -> None:
    (tmp_path / "lvp_14B.ckpt").write_bytes(b"\x80\x04.")
    with pytest.raises(ConfigError, match="a pickle runs whatever it holds"):
        adopted(here, tmp_path / "p", network=tmp_path / "lvp_14B.ckpt")
    write_wan(tmp_path / "wan")
    adopted(here, tmp_path / "p", folder=tmp_path / "wan")
    sizes = tmp_path / "wan" / "scheduler" / "scheduler_config.json"
    sizes.write_text(json.dumps({**json.loads(sizes.read_text()), "solver_order": 1}))
    with pytest.raises(CheckpointError, match=r"other files than when.*scheduler/scheduler_config.json"):
        load_planner(tmp_path / "p")
    (tmp_path / "wan" / "vae" / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"no .*vae/config.json; a Wan folder has diffusers' layout"):
        adopted(here, tmp_path / "q", folder=tmp_path / "wan")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"frames": 14}, "must be 4 n . 1, got 14"),
        ({"frames": 9}, "cannot be shared among the 3 chunks"),
        ({"forced": False}, "history_guidance needs forced=true"),
        ({"image_size": 64}, "height 32 must be at least image_size 64"),
        ({"image_size": 16}, "less than the 32 pixels"),
        ({"width": 16}, "width 16 must be at least height 32"),
        ({"height": 30}, "got 30"),
    ],
)
def test_what_cannot_be_drawn_is_named(here: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        adopted(here, tmp_path / "p", **change)


def test_nothing_is_commanded_in_one(here: Path, tmp_path: Path) -> None:
    adopted(here, tmp_path / "p")
    with pytest.raises(ConfigError, match=r"takes text \(512\) and no ee_delta7.*gymnast wm plan"):
        load_world(tmp_path / "p")
    with pytest.raises(ConfigError, match="takes text"):
        gymnasium.make("cloud_trainer.gym:gymnast/Dream-v0", checkpoint=tmp_path / "p", episodes=[episode(0)])


def test_it_is_adopted_and_plans_by_the_command_line(here: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "small.json").write_text(json.dumps(SMALL))
    cv2.imwrite(str(tmp_path / "scene.png"), PICTURE[..., ::-1])
    words = ["--inverse", str(here / "compact"), "--settings", str(tmp_path / "small.json")]
    words += ["--network", str(here / "lvp.safetensors"), "--out", str(tmp_path / "planner")]
    assert main(["--json", "wm", "adopt-planner", str(here / "wan"), *words]) == 0
    made = json.loads(capsys.readouterr().out)
    plan = ["--planner", made["folder"], "--image", str(tmp_path / "scene.png"), "--instruction", TEXT]
    assert main(["--json", "wm", "plan", *plan, "--out", str(tmp_path / "plan")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["planner"] == made["id"]
    assert np.array(json.loads(Path(found["actions"]).read_text())).shape == (15, 7)
    assert main(["--json", "wm", "adopt-planner", str(here / "wan"), *words]) == 1
    assert "immutable" in json.loads(capsys.readouterr().out)["message"]
