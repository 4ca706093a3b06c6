from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cloud_trainer.world_model.dit.checkpoint import load_world_model, save_world_model
from cloud_trainer.world_model.dit.codec import CodecConfig
from cloud_trainer.world_model.dit.convert import convert_pt, main
from gymnast_core.errors import CheckpointError
from tests.world_model.tiny import tiny_model

CODEC = CodecConfig(kind="kl", folder="/vae")


def published(path: Path, **extra: object) -> Path:
    torch.save({"model": tiny_model(0).state_dict(), "ema": tiny_model(1).state_dict(), "step": 9, **extra}, path)
    return path


def test_converted_checkpoint_computes_what_its_ema_did(tmp_path: Path) -> None:
    source = published(tmp_path / "a.pt", optimizer={"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []})
    manifest = convert_pt(source, tmp_path / "out", rope="pixel", codec_config=CODEC, heads=2, max_frames=6)
    loaded = load_world_model(tmp_path / "out")
    assert manifest.lineage["entry"] == "ema"
    assert manifest.lineage["step"] == 9
    x, t, a = torch.randn(1, 2, 8, 8, 3), torch.tensor([[3, 500]]), torch.randn(1, 2, 10)
    with torch.no_grad():
        assert torch.equal(loaded.model(x, t, a), tiny_model(1, spatial_rope="pixel")(x, t, a))


def test_bare_state_dict_and_command_line(tmp_path: Path) -> None:
    torch.save(tiny_model(0).state_dict(), tmp_path / "bare.pt")
    arguments = [
        str(tmp_path / "bare.pt"),
        str(tmp_path / "out"),
        "--rope",
        "standard",
        "--heads",
        "2",
        "--vae",
        "/vae",
    ]
    assert main(arguments) == 0
    loaded = load_world_model(tmp_path / "out")
    assert loaded.codec_config == CodecConfig(kind="kl", folder="/vae")
    assert loaded.model.config.max_frames == 20


def test_other_networks_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="not a WorldGym DiT"):
        convert_pt(tmp_path / "a.pt", tmp_path / "out", rope="pixel", codec_config=CODEC)
    state = tiny_model(0).state_dict()
    del state["blocks.1.t_block.attn.out_proj.bias"]
    with pytest.raises(CheckpointError, match=r"missing \['blocks.1.t_block.attn.out_proj.bias'\]"):
        save_world_model(
            tmp_path / "out", state, tiny_model().config, objective_name="v_prediction", codec_config=CODEC
        )
