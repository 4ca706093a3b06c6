"""GRPO arithmetic against the reference implementation's numbers (golden set, section 4)."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from cloud_trainer.practice.grpo.advantage import group_advantages, informative_groups, token_advantages
from cloud_trainer.practice.grpo.loss import clipped_loss, length_weights
from gymnast_core.errors import ContractError
from gymnast_core.policies.sampling import picked_log_probs


@pytest.fixture(scope="module")
def grpo_dir(golden_dir: Path) -> Path:
    return golden_dir / "grpo"


@pytest.fixture(scope="module")
def tensors(grpo_dir: Path):
    return safetensors.torch.load_file(grpo_dir / "policy_loss.safetensors")


def advantage_cases(folder: Path):
    return json.loads((folder / "advantages.json").read_text())


@pytest.mark.parametrize("index", range(5))
def test_advantages_match_the_reference(grpo_dir, index):
    case = advantage_cases(grpo_dir)["cases"][index]
    rewards, groups = np.array(case["rewards"], np.float32), np.array(case["uid"])
    # the spread of nearly equal rewards is all float32 rounding in the reference: 1e-2 there
    tolerance, floor = (1e-2, 1e-2) if "nearly equal" in case["name"] else (1e-5, 1e-6)
    advantage = group_advantages(rewards, groups)
    np.testing.assert_allclose(advantage, case["advantage_first_token"], rtol=tolerance, atol=floor)
    steps = case["response_length"] // case["tokens_per_step"]
    tokens = token_advantages(advantage, np.array(case["finish_step"]), steps, case["tokens_per_step"])
    assert ((tokens != 0).sum(1) <= case["valid_tokens"]).all()
    sums = np.asarray(case["advantage_row_sums"])
    np.testing.assert_allclose(tokens.sum(1, dtype=np.float64), sums, rtol=tolerance, atol=max(1e-4, 70 * floor))


def test_groups_kept_match_the_reference(grpo_dir):
    case = advantage_cases(grpo_dir)["accuracy_filter"]
    rewards = np.array(case["rewards"], np.float32)
    groups = np.repeat(np.arange(len(rewards) // case["n_samples"]), case["n_samples"])
    keep = informative_groups(rewards, groups, np.ones(len(rewards), bool), low=case["lower"], high=case["upper"])
    assert keep[:: case["n_samples"]].tolist() == case["kept_groups"]


@pytest.mark.parametrize("index", range(7))
def test_token_mean_loss_and_gradient_match_the_reference(grpo_dir, tensors, index):
    case = json.loads((grpo_dir / "policy_loss.json").read_text())["compute_policy_loss"][index]
    part = {name: tensors[f"pl{index}_{name}"] for name in ("logp", "old_logp", "adv", "mask", "grad_logp")}
    new, valid = part["logp"].clone().requires_grad_(), part["mask"].bool()
    bounds = {"clip_low": case["clip_low"], "clip_high": case["clip_high"]}
    if not valid.any():  # the reference's loss is 0; ours asks for the trajectories to be left out
        with pytest.raises(ContractError, match="no valid token"):
            clipped_loss(new, part["old_logp"], part["adv"], valid, **bounds)
        return
    parts, weights = clipped_loss(new, part["old_logp"], part["adv"], valid, **bounds), length_weights(valid, "token")
    loss = (weights * parts.loss).mean()
    loss.backward()
    assert loss.item() == pytest.approx(case["pg_loss"], abs=1e-6)
    assert (weights * parts.clipped).mean().item() == pytest.approx(case["clipfrac"], abs=1e-6)
    assert (weights * parts.kl).mean().item() == pytest.approx(case["ppo_kl"], abs=1e-6)
    torch.testing.assert_close(new.grad, part["grad_logp"], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("index", range(5))
def test_trajectory_means_and_gradients_match_the_reference(grpo_dir, tensors, index):
    case = json.loads((grpo_dir / "policy_loss.json").read_text())["actor_aggregation"][index]
    part = {name: tensors[f"ag{index}_{name}"] for name in ("logp", "old_logp", "adv", "finish_step")}
    new = part["logp"].clone().requires_grad_()
    valid = torch.arange(new.shape[1]) < (part["finish_step"] * case["tokens_per_action"])[:, None]
    kept = part["finish_step"] > 0
    result = clipped_loss(
        new[kept],
        part["old_logp"][kept],
        part["adv"][kept],
        valid[kept],
        clip_low=case["clip_low"],
        clip_high=case["clip_high"],
    )
    expected = torch.tensor(case["pg_loss_per_trajectory"])[kept]
    torch.testing.assert_close(result.loss.detach(), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(result.clipped, torch.tensor(case["clipfrac_per_trajectory"])[kept], atol=1e-6, rtol=0)
    torch.testing.assert_close(result.kl, torch.tensor(case["ppo_kl_per_trajectory"])[kept], atol=1e-6, rtol=1e-5)
    batch = case["mini_batch"]
    for step in range(case["optimizer_steps"]):
        (gradient,) = torch.autograd.grad(result.loss[step * batch : (step + 1) * batch].mean(), new, retain_graph=True)
        torch.testing.assert_close(gradient, tensors[f"ag{index}_grad_logp_step{step}"], atol=1e-6, rtol=1e-5)


def test_trajectory_without_a_valid_token_is_refused_where_the_reference_gives_nan(grpo_dir, tensors):
    case = json.loads((grpo_dir / "policy_loss.json").read_text())["actor_aggregation"][5]
    assert any(math.isnan(float(loss)) for loss in case["pg_loss_per_trajectory"])
    new, old, adv = (tensors[f"ag5_{name}"] for name in ("logp", "old_logp", "adv"))
    valid = torch.arange(new.shape[1]) < (tensors["ag5_finish_step"] * 7)[:, None]
    with pytest.raises(ContractError, match="no valid token"):
        clipped_loss(new, old, adv, valid)


@pytest.mark.parametrize("temperature", ["1.0", "1.6"])
def test_log_probabilities_match_the_reference(tensors, temperature):
    log_probs = picked_log_probs(tensors["lp_logits"], tensors["lp_labels"].numpy(), float(temperature))
    torch.testing.assert_close(log_probs, tensors[f"lp_logprob_T{temperature}"], atol=1e-6, rtol=1e-6)
