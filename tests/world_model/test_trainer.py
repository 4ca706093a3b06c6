from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cloud_trainer.world_model.data.described import DatasetConfig, build_source
from cloud_trainer.world_model.data.mixture import ClipStream, MixtureConfig
from cloud_trainer.world_model.data.source import MemorySource, SourceInfo
from cloud_trainer.world_model.data.video import read_video
from cloud_trainer.world_model.dit.checkpoint import load_world_model
from cloud_trainer.world_model.dit.codec import IdentityCodec
from cloud_trainer.world_model.dit.loss import LossConfig
from cloud_trainer.world_model.dit.sampler import SamplerConfig
from cloud_trainer.world_model.dit.train import main
from cloud_trainer.world_model.dit.train_config import TrainConfig
from cloud_trainer.world_model.dit.trainer import DiTTrainer
from gymnast_core.episodes import write_episode
from gymnast_core.errors import ConfigError, CorruptError
from tests.world_model.tiny import tiny_episode, tiny_model

CONFIG = TrainConfig(
    batch_size=2,
    learning_rate=1e-3,
    report_every=2,
    sampler=SamplerConfig(steps=2, window=5),
    loss=LossConfig(rollout_share=0.3, rollout_frames=2, rollout_steps=2, noisy_context=0.3),
)


def trainer(folder: Path | None = None, config: TrainConfig = CONFIG, **options: Any) -> DiTTrainer:
    source = MemorySource(SourceInfo("tiny"), [tiny_episode(seed) for seed in range(3)])
    return DiTTrainer(
        tiny_model(), IdentityCodec(), ClipStream([source], MixtureConfig(frames=5)), config, folder=folder, **options
    )


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(path))


def test_stopped_and_resumed_run_equals_the_straight_one_bit_for_bit(tmp_path: Path) -> None:
    straight = trainer(tmp_path / "a")
    straight.train(6)
    first = trainer(tmp_path / "b")
    first.train(3)
    second = trainer(tmp_path / "b")
    second.model.requires_grad_(True)
    assert second.resume()
    assert second.step == 3
    second.train(6)
    one, two = (weights(tmp_path / name / "states" / "step-00000006.safetensors") for name in "ab")
    assert one.keys() == two.keys()
    assert {name.split("/")[0] for name in one} == {"module", "average", "optimiser"}
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


def test_nothing_to_resume_is_said_and_other_settings_are_refused(tmp_path: Path) -> None:
    assert not trainer(tmp_path).resume()
    trainer(tmp_path).train(1)
    with pytest.raises(ConfigError, match=r"\['learning_rate'\]"):
        trainer(tmp_path, CONFIG.changed(learning_rate=1e-4)).resume()
    state = next((tmp_path / "states").glob("step-*"))
    state.write_bytes(b"damaged")
    with pytest.raises(CorruptError, match="no state of this run"):
        trainer(tmp_path).resume()


def test_cancelled_run_saves_and_old_states_go(tmp_path: Path) -> None:
    run = trainer(tmp_path, CONFIG.changed(save_every=1, keep_states=2))
    run.train(10, cancelled=lambda: run.step >= 4)
    assert sorted(p.name for p in (tmp_path / "states").iterdir()) == [f"step-0000000{n}.safetensors" for n in (3, 4)]


def test_averaged_weights_follow_the_warmed_up_decay() -> None:
    run = trainer()
    name, parameter = next(iter(run.model.named_parameters()))
    before = parameter.detach().clone()
    run.train_step()
    decay = 2 / 11  # min(0.999, (1 + 1) / (10 + 1))
    torch.testing.assert_close(run.ema[name], decay * before + (1 - decay) * parameter.detach())
    now = parameter.detach().clone()
    with run.averaged() as model:
        assert torch.equal(dict(model.named_parameters())[name], run.ema[name])
        assert not model.training
    assert torch.equal(parameter, now)


def test_gradients_are_clipped_and_rate_warms_up() -> None:
    run = trainer(config=CONFIG.changed(clip_norm=1e-3, warmup_steps=4))
    rates = [run.train_step()["learning_rate"] for _ in range(5)]
    np.testing.assert_allclose(rates, [0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3])


def test_progress_and_sample_videos_appear_while_it_runs(tmp_path: Path) -> None:
    seen: list[int] = []
    run = trainer(tmp_path, CONFIG.changed(sample_every=2), on_progress=lambda line: seen.append(line["step"]))
    run.train(4)
    assert seen == [2, 4]
    lines = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert {"loss", "grad_norm", "samples_per_s"} <= lines[0].keys()
    assert read_video(tmp_path / "samples" / "step-00000004.mp4").shape == (5, 8, 24, 3)
    frames = run.sample_frames()
    np.testing.assert_array_equal(frames[0, :, :8], frames[0, :, 8:16])  # the context frame is the real one
    assert not frames[0, :, 16:].any()


def test_bf16_and_rectified_flow_train() -> None:
    run = trainer(config=CONFIG.changed(bf16=True, objective="rectified_flow"))
    assert np.isfinite(run.train_step()["loss"])
    assert all(parameter.dtype == torch.float32 for parameter in run.model.parameters())


def run_json(place: Path, **changes: Any) -> dict[str, Any]:
    data = place / "episodes"
    for seed in range(3):
        if not (data / f"tiny-{seed}.mcap").exists():
            data.mkdir(parents=True, exist_ok=True)
            write_episode(data, tiny_episode(seed), robot="wx250s")
    train = {"batch_size": 4, "learning_rate": 1e-3, "sampler": {"steps": 2, "window": 4}, **changes.pop("train", {})}
    return {
        "folder": str(place / "run"),
        "steps": 2,
        "network": {"in_channels": 3, "dim": 16, "num_layers": 1, "num_heads": 2, "max_frames": 5},
        "codec": {"kind": "identity"},
        "data": [{"kind": "mcap", "folder": str(data), "origin": "on_policy"}],
        "mixture": {"frames": 4, "proportions": {"on_policy": 1.0}},
        "train": train,
        **changes,
    }


def write_json(path: Path, value: dict[str, Any]) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_command_line_trains_exports_and_refines(tmp_path: Path) -> None:
    first = run_json(tmp_path)
    assert main([str(write_json(tmp_path / "run.json", first))]) == 0
    parent = load_world_model(tmp_path / "run" / "checkpoint")
    assert parent.manifest.lineage["steps"] == 2
    refined = {**first, "folder": str(tmp_path / "refined"), "parent": str(tmp_path / "run" / "checkpoint")}
    assert main([str(write_json(tmp_path / "refine.json", refined))]) == 0
    child = load_world_model(tmp_path / "refined" / "checkpoint")
    assert child.manifest.parents == (parent.manifest.id,)
    with pytest.raises(ConfigError, match="data kind 'zarr'"):
        build_source(DatasetConfig(**{"kind": "zarr", "folder": "x"}))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_processes(config: Path, count: int) -> None:
    """What torchrun does, without its rendezvous."""
    port = free_port()
    command = [sys.executable, "-m", "cloud_trainer.world_model.dit.train", str(config)]
    environments = [
        {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
        | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        for rank in range(count)
    ]
    started = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for env in environments]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-3000:]


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_two_processes_learn_what_one_does(tmp_path: Path, strategy: str) -> None:
    alone = run_json(tmp_path)
    main([str(write_json(tmp_path / "one.json", alone))])
    shared = run_json(tmp_path, folder=str(tmp_path / "two"), train={"batch_size": 2, "strategy": strategy})
    run_processes(write_json(tmp_path / "two.json", shared), 2)
    one, two = (weights(tmp_path / name / "states" / "step-00000002.safetensors") for name in ("run", "two"))
    for name, value in one.items():
        assert torch.allclose(two[name], value, atol=2e-5, rtol=1e-4), name


@pytest.mark.slow
def test_ray_train_runs_the_same_loop(tmp_path: Path) -> None:
    pytest.importorskip("ray.train")
    config = run_json(tmp_path, train={"batch_size": 2, "strategy": "ddp"})
    command = [
        sys.executable,
        "-m",
        "cloud_trainer.world_model.dit.train",
        str(write_json(tmp_path / "r.json", config)),
    ]
    done = subprocess.run([*command, "--ray", "2"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "checkpoint" / "manifest.json").is_file()
