"""GRPO on OpenVLA, whole network or adapters only, through the same trainer as the compact policy."""

import numpy as np
import pytest
import torch

from cloud_trainer.practice.grpo.log_probs import rollout_log_probs
from cloud_trainer.practice.grpo.scored import Scored
from cloud_trainer.practice.grpo.trainer import GrpoTrainer
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.policies import lora
from gymnast_core.policies.openvla.published import read_published
from gymnast_core.types import Observation, RolloutBatch
from tests.policies.openvla_folder import write_folder

CONFIG = GrpoConfig(group_size=2, groups=1, iterations=1, mini_batch=2, epochs=1, learning_rate=1e-3, temperature=1.6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("grpo") / "openvla-tiny"
    write_folder(path)
    return path


def rollouts_of(policy) -> RolloutBatch:
    """One chunk of two sampled rollouts from the same picture."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8).repeat(2, axis=0)
    seen = Observation({"front": frame}, np.zeros((2, 7), np.float32), np.zeros(2, np.int64))
    chunk = policy.act(seen, ["open drawer"] * 2, rng=rng)
    return RolloutBatch(
        ["open drawer"] * 2,
        np.array([0, 5]),
        np.stack([frame, frame], axis=1),
        chunk.actions_BKA,
        chunk.log_probs_BKA,
        np.array([5, 5]),
        chunk.policy_version,
        np.zeros(2, np.int64),
        {"tokens": chunk.trace["tokens"][:, None]},
    )


@pytest.mark.parametrize("adapters", [False, True], ids=["whole network", "adapters only"])
def test_one_update_makes_the_rewarded_rollout_likelier(folder, adapters):
    policy = read_published(folder, pipeline="rl", temperature=CONFIG.temperature)
    if adapters:
        lora.attach(policy.network, lora.LoraSettings(rank=4, alpha=8.0), seed=0)
    trainer = GrpoTrainer(policy, CONFIG)
    rollouts = rollouts_of(policy)
    frozen = policy.network.get_parameter("language_model.model.embed_tokens.weight").detach().clone()
    report = trainer.update(Scored(rollouts, np.array([1.0, 0.0], np.float32), np.ones(2, bool)))
    assert report.kl == pytest.approx(0.0, abs=1e-4)  # the trainer's log-probabilities are those of sampling
    with torch.no_grad():
        now = rollout_log_probs(policy, rollouts, np.arange(2)).reshape(2, 5, 7).numpy()
    gain_B = (now - rollouts.log_probs_BTA).sum((1, 2))
    assert gain_B[0] > 0.05
    assert gain_B[0] > gain_B[1]
    embed = policy.network.get_parameter("language_model.model.embed_tokens.weight")
    assert torch.equal(embed, frozen) == adapters
