"""Where a policy computes and in which precision it learns: one rule for jobs, workers and judges."""

from __future__ import annotations

import pytest
import torch

from cloud_trainer.practice.grpo.trainer import GrpoTrainer
from cloud_trainer.progress import CancelledError
from gymnast_core.errors import ConfigError
from gymnast_core.policies.lora_settings import LoraSettings
from gymnast_core.policies.openvla.published import read_published
from gymnast_core.policies.placement import device_of
from gymnast_core.policies.trainable import load_trainable
from tests.cloud.learning_fakes import tiny_policy
from tests.cloud.local_sampler import run_grpo
from tests.cloud.test_token_policies import GRPO, sampler
from tests.policies.openvla_folder import write_folder

LORA = LoraSettings(rank=2, alpha=4.0)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A tiny OpenVLA in bfloat16, as the large ones are published; named by its id as on a shelf."""
    folder = tmp_path_factory.mktemp("placed")
    write_folder(folder / "published")
    policy = read_published(folder / "published", pipeline="rl", dtype=torch.bfloat16)
    manifest = policy.save(folder / "new")
    return (folder / "new").rename(folder / manifest.id)


def test_a_device_that_is_not_here_is_refused_where_it_is_used():
    with pytest.raises(ConfigError, match=r"'cuda:99' asked for, but there are \d+ CUDA GPUs here; use auto or cpu"):
        device_of("cuda:99")
    assert device_of("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "adapters"])
def test_a_large_policy_is_moved_with_its_adapters_and_a_compact_one_is_not(stored, lora, tmp_path):
    large = load_trainable(stored, lora=lora, device="meta")
    assert {parameter.device.type for parameter in large.network.parameters()} == {"meta"}
    tiny_policy().save(tmp_path / "compact")
    compact = load_trainable(tmp_path / "compact", lora=lora, device="meta")
    assert {parameter.device.type for parameter in compact.network.parameters()} == {"cpu"}


def test_what_learns_is_float32_and_a_frozen_base_stays_as_stored(stored, tmp_path):
    whole = load_trainable(stored)
    assert {parameter.dtype for parameter in whole.network.parameters()} == {torch.float32}
    fresh = load_trainable(stored, lora=LORA)
    fresh.save(stored.parent / "adapter")
    for policy in (fresh, load_trainable(stored.parent / "adapter")):
        kinds = {(p.requires_grad, p.dtype) for p in policy.network.parameters()}
        assert kinds == {(True, torch.float32), (False, torch.bfloat16)}


def test_a_small_step_on_a_bfloat16_base_is_not_lost(stored):
    policy = load_trainable(stored, lora=LORA)
    learning = [p for name, p in policy.network.named_parameters() if "lora_A" in name]
    optimiser = torch.optim.AdamW(learning, lr=1e-6, weight_decay=0.0, fused=True)
    before = [p.detach().clone() for p in learning]
    for parameter in learning:
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    assert all((p != old).float().mean() > 0.95 for p, old in zip(learning, before, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "adapters"])
def test_reinforcement_on_a_gpu_keeps_weights_and_optimiser_there_and_resumes(stored, lora, tmp_path):
    stop = {"out": tmp_path / "out", "lora": lora, "device": "cuda", "state": tmp_path / "state"}
    asked = iter([False, True])
    with pytest.raises(CancelledError):
        run_grpo(stored, sampler, GRPO, **stop, cancelled=lambda: next(asked))
    assert run_grpo(stored, sampler, GRPO, **stop).candidates
    trainer = GrpoTrainer(load_trainable(stored, lora=lora, device="cuda"), GRPO)
    trainer.load(tmp_path / "state")
    slots = [value for state in trainer._optimiser.state.values() for value in state.values() if value.ndim]
    assert {tensor.device.type for tensor in [*slots, *trainer.policy.network.parameters()]} == {"cuda"}
