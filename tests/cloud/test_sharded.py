"""Sampling in pieces: the same whatever the pool, and the version rides with the data."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

from cloud_trainer.practice.pieces import Ground, Recipe
from cloud_trainer.practice.policy_weights import load_weights, weights_of
from cloud_trainer.practice.sharded import LocalPool, ShardedSampler, shared_out
from cloud_trainer.world_model.compact.data import clips_of, starts_of
from cloud_trainer.world_model.worlds import load_world
from gymnast_core.errors import ConfigError
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.policies.compact import CompactPolicy
from tests.cloud.learning_fakes import episode, tiny_policy, tiny_world_model
from tests.cloud.ray_parts import ParityJudge

CONFIG = GrpoConfig(group_size=2, groups=4, iterations=1, seed=0)
STARTS = starts_of(clips_of([episode(seed) for seed in range(6)], 64))


@pytest.fixture
def recipe(tmp_path):
    tiny_policy().save(tmp_path / "base")
    tiny_world_model().save(tmp_path / "world")
    world = functools.partial(load_world, tmp_path / "world")
    return Recipe((world,), ParityJudge, tmp_path / "base")


def grounds(recipe):
    return [Ground(recipe.worlds[0], STARTS)]


class Backwards(LocalPool):
    """Finishes the last piece first, as a cluster may."""

    def run(self, version, weights, works):
        yield from reversed(list(super().run(version, weights, works)))


def sample(pool, recipe, **options):
    policy = CompactPolicy.load(recipe.policy, row_by_row=False)
    sampler = ShardedSampler(pool, grounds(recipe), CONFIG, groups_per_piece=2, **options)
    return sampler(policy, np.random.default_rng(3)), sampler


def test_order_of_completion_does_not_matter(recipe):
    first, sampler = sample(LocalPool(recipe), recipe)
    second, _ = sample(Backwards(recipe), recipe)
    np.testing.assert_array_equal(first.rollouts.trace["tokens"], second.rollouts.trace["tokens"])
    np.testing.assert_array_equal(first.reward_B, second.reward_B)
    assert first.rollouts.group_B.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert sampler.ledger.rollouts == 8
    assert set(sampler.ledger.seconds) == {"policy", "world_model", "judge"}


def test_version_rides_with_the_data_and_new_weights_are_used(recipe):
    pool = LocalPool(recipe)
    policy = CompactPolicy.load(recipe.policy, row_by_row=False)
    sampler = ShardedSampler(pool, grounds(recipe), CONFIG)
    first = sampler(policy, np.random.default_rng(3))
    with torch.no_grad():
        for parameter in policy.network.parameters():
            parameter.mul_(1.5)
    second = sampler(policy, np.random.default_rng(3))
    assert first.rollouts.policy_version == f"{policy.version}#1"
    assert second.rollouts.policy_version == f"{policy.version}#2"
    assert (first.rollouts.trace["tokens"] != second.rollouts.trace["tokens"]).any()
    images = second.rollouts.frames_BFHWC[:, 0]
    trace = {"tokens": second.rollouts.trace["tokens"][:, 0]}
    again = policy.log_probs(images, second.rollouts.instructions, trace)
    np.testing.assert_allclose(again.detach().numpy(), second.rollouts.log_probs_BTA[:, :5], atol=1e-4)


def test_weights_survive_the_journey_bfloat16_too():
    policy, other = tiny_policy(0), tiny_policy(1)
    for each in (policy, other):
        each.network.layer2.to(torch.bfloat16)
    load_weights(other, weights_of(policy))
    for name, tensor in policy.network.state_dict().items():
        assert torch.equal(other.network.state_dict()[name], tensor), name


def test_settings_without_anything_to_sample_are_refused(recipe):
    with pytest.raises(ConfigError, match="ground 1 has 0 starts"):
        ShardedSampler(LocalPool(recipe), [*grounds(recipe), Ground(recipe.worlds[0], [])], CONFIG)
    with pytest.raises(ConfigError, match=r"0 keyframes for keyframe_share 0\.5"):
        ShardedSampler(LocalPool(recipe), grounds(recipe), CONFIG.changed(keyframe_share=0.5))


def test_groups_are_shared_out_between_grounds_each_in_its_own_world(recipe):
    late, elsewhere = starts_of(clips_of([episode(seed) for seed in (7, 8)], 64), steps=(5,)), "put it elsewhere"
    second = Ground(recipe.worlds[0], [replace(start, instruction=elsewhere) for start in STARTS], late, share=0.5)
    first = Ground(recipe.worlds[0], STARTS, late)
    assert [shared_out(groups, [first, second]) for groups in (1, 4, 5)] == [[1, 0], [2, 2], [3, 2]]
    assert shared_out(4, [first, replace(second, share=1.0)]) == [1, 4]
    worlds = []

    class Watched(LocalPool):
        def run(self, version, policy, works):
            worlds.extend((work.ground, len(work.starts), [start.step for start in work.starts]) for work in works)
            return super().run(version, policy, works)

    pool = Watched(replace(recipe, worlds=recipe.worlds * 2))
    sampler = ShardedSampler(pool, [first, second], CONFIG.changed(keyframe_share=0.5), groups_per_piece=4)
    scored = sampler(CompactPolicy.load(recipe.policy, row_by_row=False), np.random.default_rng(0))
    assert worlds == [(0, 2, [0, 5]), (1, 2, [0, 5])]
    assert scored.rollouts.group_B.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert scored.rollouts.instructions[4:6] == [elsewhere] * 2
