"""Parity of network, schedule, loss and sampler with the released WorldGym code, on tensors it produced.

Runs on any folder of the golden layout: pytest tests/parity --golden DIR.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cloud_trainer.world_model.dit.actions import rescale_bridge
from cloud_trainer.world_model.dit.config import DiTConfig
from cloud_trainer.world_model.dit.diffusion import CONTEXT_TIMESTEP, VPrediction, noise_steps, null_action
from cloud_trainer.world_model.dit.network import DiT, parameter_manifest, timestep_embedding
from cloud_trainer.world_model.dit.sampler import RolloutSampler, SamplerConfig
from tests.world_model.uncached import sample_uncached

ATOL = {"standard": 1e-4, "pixel": 5e-4}
VARIANTS = tuple(ATOL)


@dataclass(frozen=True)
class Golden:
    folder: Path
    config: dict[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        return dict(load_file(self.folder / f"{name}.safetensors"))

    def model(self, variant: str) -> DiT:
        model = DiT(DiTConfig(**self.config["model"], spatial_rope=variant))
        model.load_state_dict(self.tensors("weights"), strict=True)
        return model.eval()


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Golden:
    folder = golden_dir / "worldgym_tiny"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return Golden(folder, json.loads((folder / "config.json").read_text()))


def close(actual: Tensor, expected: Tensor, atol: float, rtol: float = 0.0) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_forward_matches_reference(golden: Golden, variant: str) -> None:
    data, model = golden.tensors("forward"), golden.model(variant)
    close(model(data["x"], data["t"], data["actions"]), data[f"out_{variant}"], ATOL[variant])
    null = null_action(data["actions"])
    assert torch.equal(null, data["null_actions"])
    close(model(data["x"], data["t"], null), data[f"out_null_{variant}"], ATOL[variant])
    first = model(data["x"][:, :1], data["t"][:, :1], data["actions"][:, :1])
    close(first, data[f"out_first_frame_only_{variant}"], ATOL[variant])


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_intermediate_values_match_reference(golden: Golden, variant: str) -> None:
    data, model = golden.tensors("forward"), golden.model(variant)
    close(timestep_embedding(data["t"]), data["timestep_embedding"], 1e-4)
    cond = model.condition(data["t"], data["actions"])
    close(cond, data["cond"], 1e-4)
    close(model.condition(data["t"], data["null_actions"]), data["cond_null"], 1e-4)
    tokens, _ = model.embed_patches(data["x"])
    close(tokens, data["patch_embed"].flatten(2, 3), 1e-5)
    seen: dict[str, Tensor] = {}
    block: Any = model.blocks[0]
    block.s_block.register_forward_hook(lambda *a: seen.__setitem__("spatial", a[2]))
    block.t_block.register_forward_hook(lambda *a: seen.__setitem__("temporal", a[2]))
    model(data["x"], data["t"], data["actions"])
    for half, value in seen.items():
        close(value, data[f"block0_{half}_{variant}"].flatten(2, 3), ATOL[variant])


def test_schedule_matches_reference(golden: Golden) -> None:
    data, schedule = golden.tensors("diffusion"), VPrediction()
    close(schedule.betas, data["betas"], 1e-7)
    close(schedule.alphas_cumprod, data["alphas_cumprod"], 1e-7)
    assert golden.config["diffusion"]["context_timestep"] == CONTEXT_TIMESTEP


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_loss_and_gradients_match_reference(golden: Golden, variant: str) -> None:
    data, model, schedule = golden.tensors("diffusion"), golden.model(variant), VPrediction()
    x, noise, t = data["train_x"], data["train_noise"], data["train_t"]
    noisy, target = schedule.add_noise(x, noise, t), schedule.target(x, noise, t)
    close(noisy, data["train_q_sample"], 1e-6)
    close(target, data["train_target_v"], 1e-6)
    prediction = model(noisy, t, data["train_actions"])
    close(prediction, data[f"train_pred_v_{variant}"], ATOL[variant])
    loss = (prediction - target).square().mean()
    close(loss.detach().reshape(1), data[f"train_loss_{variant}"], 0.0, 1e-5)
    loss.backward()
    squares = [p.grad.square().sum() for p in model.parameters() if p.grad is not None]
    close(torch.stack(squares).sum().sqrt().reshape(1), data[f"train_grad_norm_{variant}"], 0.0, 1e-3)
    assert model.action_embedder.weight.grad is not None
    expected = data[f"train_grad_action_embedder_{variant}"]
    close(model.action_embedder.weight.grad, expected, 1e-3 * float(expected.abs().max()))


def sampler_config(golden: Golden, steps: int, guidance: int) -> SamplerConfig:
    return SamplerConfig(steps=steps, guidance=float(guidance), window=golden.config["sampling"]["max_frames"])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("steps", [10, 4])
@pytest.mark.parametrize("guidance", [1, 3])
def test_uncached_rollout_matches_reference(golden: Golden, variant: str, steps: int, guidance: int) -> None:
    data, model = golden.tensors("sampling"), golden.model(variant)
    assert torch.equal(noise_steps(steps), data[f"noise_steps_{steps}"])
    trace: dict[tuple[int, int], Tensor] = {}
    out = sample_uncached(
        model,
        VPrediction(),
        sampler_config(golden, steps, guidance),
        data["context"],
        data["actions"],
        data["noise"],
        trace=lambda made, step, frame: trace.__setitem__((made, step), frame),
    )
    close(out, data[f"out_{variant}_steps{steps}_cfg{guidance}"], ATOL[variant])
    expected = data.get(f"trace_{variant}_steps{steps}_cfg{guidance}")
    if expected is not None:
        for (made, step), frame in trace.items():
            close(frame, expected[:, made, step], ATOL[variant])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("steps", [10, 4])
@pytest.mark.parametrize("guidance", [1, 3])
def test_cached_rollout_matches_reference_until_the_window_slides(
    golden: Golden, variant: str, steps: int, guidance: int
) -> None:
    data, config = golden.tensors("sampling"), sampler_config(golden, steps, guidance)
    sampler = RolloutSampler(golden.model(variant), VPrediction(), config)
    known = data["context"].shape[1]
    sampler.start(data["context"], data["actions"][:, :known])
    expected = data[f"out_{variant}_steps{steps}_cfg{guidance}"]
    for index in range(known, config.window):
        frame = sampler.next_frame(data["actions"][:, index], data["noise"][:, index - known])
        close(frame, expected[:, index], ATOL[variant])


def test_full_size_parameters_match_the_published_manifest(golden_dir: Path) -> None:
    path = golden_dir / "manifests" / "worldgym_dit.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    manifest = json.loads(path.read_text())
    ours = parameter_manifest(DiTConfig(**manifest["config"]))
    assert dict(ours) == {key: tuple(shape) for key, shape in manifest["tensors"]}
    assert len(ours) == manifest["num_tensors"]
    assert sum(int(np.prod(shape)) for _, shape in ours) == manifest["num_parameters"]


def test_bridge_rescaling_matches_reference(golden: Golden) -> None:
    for row in json.loads((golden.folder / "rescale_bridge_action.json").read_text())["rows"]:
        given = np.asarray(row["in"], np.float32)
        np.testing.assert_allclose(rescale_bridge(given), np.asarray(row["out"], np.float32), atol=1e-6)
