"""Adapters: small, reproducible, mergeable, and checkpoints with a parent."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.policies import load_policy, lora
from gymnast_core.policies.adapter import ADAPTER_OF
from gymnast_core.policies.openvla.published import read_published
from gymnast_core.policies.trainable import load_trainable
from gymnast_core.records.manifest import read_manifest
from tests.policies.openvla_folder import observation, write_folder

SETTINGS = lora.LoraSettings(rank=2, alpha=4.0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2, bias=False)
        self.head = nn.Linear(2, 1, bias=False)

    def forward(self, x):
        return self.head(self.inner(x))


def train_a_little(network, loss_of, steps=3):
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        loss_of().backward()
        optimiser.step()


def test_merge_adds_alpha_over_rank_times_b_a():
    net = Net()
    before = net.inner.weight.detach().clone()
    lora.attach(net, lora.LoraSettings(rank=1, alpha=3.0), seed=0)
    lora.load_adapter(
        net, {"inner.lora_A.weight": torch.tensor([[1.0, 2.0]]), "inner.lora_B.weight": torch.tensor([[1.0], [-1.0]])}
    )
    x = torch.tensor([[1.0, 1.0]])
    adapted = net(x)
    lora.merge(net)
    want = before + 3.0 * torch.tensor([[1.0, 2.0], [-1.0, -2.0]])  # alpha / rank = 3, B A by hand
    torch.testing.assert_close(net.inner.weight, want)
    torch.testing.assert_close(net(x), adapted)
    assert type(net.inner) is nn.Linear


def test_attach_changes_nothing_freezes_the_rest_and_is_seeded():
    nets = []
    for _ in range(2):
        torch.manual_seed(1)
        net = Net()
        plain = net(torch.ones(1, 2))
        assert lora.attach(net, SETTINGS, seed=5) == ["inner"]
        torch.testing.assert_close(net(torch.ones(1, 2)), plain)
        assert {n for n, p in net.named_parameters() if p.requires_grad} == {
            "inner.lora_A.default.weight",
            "inner.lora_B.default.weight",
        }
        nets.append(lora.adapter_tensors(net))
    assert torch.equal(nets[0]["inner.lora_A.weight"], nets[1]["inner.lora_A.weight"])


def test_adapters_that_do_not_fit_are_refused():
    net = Net()
    with pytest.raises(ConfigError, match="no linear layer"):
        lora.attach(net, lora.LoraSettings(targets=("q_proj",)), seed=0)
    lora.attach(net, SETTINGS, seed=0)
    with pytest.raises(CheckpointError, match="2 tensors differ"):
        lora.load_adapter(net, {})
    with pytest.raises(ConfigError, match="rank"):
        lora.LoraSettings(rank=0)


def test_an_adapter_is_a_checkpoint_whose_parent_is_needed(tmp_path):
    write_folder(tmp_path / "published")
    base = read_published(tmp_path / "published", pipeline="rl").save(tmp_path / "staging")
    (tmp_path / "staging").rename(tmp_path / base.id)
    settings = lora.LoraSettings(rank=2, alpha=4.0, targets=("q_proj", "v_proj"))
    policy = load_trainable(tmp_path / base.id, lora=settings)
    seen, text = observation(2), ["open drawer", "close drawer"]
    before = policy.act(seen, text)
    assert before.policy_version == base.id  # a fresh adapter changes nothing
    target = {"tokens": np.zeros((2, 5, 7), np.int64)}
    train_a_little(policy.network, lambda: -policy.log_probs(seen.images["front"], text, target).mean())
    adapted = policy.act(seen, text)
    assert (adapted.log_probs_BKA != before.log_probs_BKA).any()

    manifest = policy.save(tmp_path / "adapter")
    assert read_manifest(tmp_path / "adapter").parents == (base.id,)
    size = (tmp_path / "adapter" / "weights.safetensors").stat().st_size
    assert size < 0.01 * (tmp_path / base.id / "weights.safetensors").stat().st_size
    loaded = load_policy(tmp_path / "adapter")
    assert loaded.version == manifest.id != base.id
    again = loaded.act(seen, text)
    assert again.policy_version == manifest.id
    np.testing.assert_allclose(again.log_probs_BKA, adapted.log_probs_BKA, atol=1e-4)

    onward = load_trainable(tmp_path / "adapter")  # attached, not merged: it can be trained on
    np.testing.assert_array_equal(onward.act(seen, text).log_probs_BKA, adapted.log_probs_BKA)
    child = onward.save(tmp_path / "child", parents=(manifest.id,))
    assert (child.parents, child.config[ADAPTER_OF]) == ((manifest.id,), base.id)
    with pytest.raises(ConfigError, match="cannot go on as"):
        load_trainable(tmp_path / "adapter", lora=SETTINGS)

    shutil.rmtree(tmp_path / base.id)
    with pytest.raises(CheckpointError, match=base.id):
        load_policy(tmp_path / "adapter")


def test_published_adapter_is_merged_onto_its_base_only_when_nothing_is_merged_yet(tmp_path):
    network = write_folder(tmp_path / "base")
    name = "language_model.model.layers.0.self_attn.q_proj"
    a, b = torch.randn(2, 32), torch.randn(32, 2)
    adapter = tmp_path / "tuned" / "lora_adapter"
    adapter.mkdir(parents=True)
    save_file(
        {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b},
        adapter / "adapter_model.safetensors",
    )
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 1, "bias": "none"}))
    with pytest.raises(CheckpointError, match=r"pass base"):
        read_published(tmp_path / "tuned")
    tuned = read_published(tmp_path / "tuned", base=tmp_path / "base", statistics_key="bridge_dataset")
    want = network.get_submodule(name).weight + 0.5 * b @ a
    torch.testing.assert_close(tuned.network.get_submodule(name).weight, want)

    shutil.copytree(adapter, tmp_path / "base" / "lora_adapter")
    merged = read_published(tmp_path / "base")  # its tensors have the adapter in them already
    torch.testing.assert_close(merged.network.get_submodule(name).weight, network.get_submodule(name).weight)

    (adapter / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 1, "use_dora": True}))
    with pytest.raises(CheckpointError, match="DoRA"):
        read_published(tmp_path / "tuned", base=tmp_path / "base", statistics_key="bridge_dataset")
