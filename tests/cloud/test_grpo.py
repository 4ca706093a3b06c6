import dataclasses

import numpy as np
import pytest
import torch

from cloud_trainer.practice.grpo.advantage import group_advantages, informative_groups
from cloud_trainer.practice.grpo.log_probs import rollout_log_probs
from cloud_trainer.practice.grpo.loss import clipped_loss, length_weights
from cloud_trainer.practice.grpo.scored import Scored
from cloud_trainer.practice.grpo.trainer import GrpoTrainer
from cloud_trainer.practice.imagine import imagine
from cloud_trainer.practice.train import judged
from cloud_trainer.progress import CancelledError
from cloud_trainer.world_model.compact.data import clips_of, starts_of
from cloud_trainer.world_model.compact.env import CompactWorldModelEnv
from gymnast_core.errors import ConfigError, ContractError
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.judge import Verdict
from gymnast_core.records.manifest import read_manifest
from gymnast_core.types import Outcome
from tests.cloud.learning_fakes import episode, tiny_policy, tiny_world, tiny_world_model
from tests.cloud.local_sampler import local_sampler, run_grpo

CLIPS = clips_of([episode(seed) for seed in range(3)], 64)
CONFIG = GrpoConfig(group_size=2, groups=3, iterations=4, mini_batch=4, epochs=1, seed=3)


class GripperJudge:
    """Calls a rollout a success when its last gripper command is high; abstains when it is in the middle."""

    version = "gripper"

    def judge(self, rollouts):
        grip = [row[length - 1, 6] for row, length in zip(rollouts.actions_BTA, rollouts.length_B, strict=True)]
        return [Verdict(self._outcome(value), float(value)) for value in grip]

    @staticmethod
    def _outcome(value):
        if 0.45 < value < 0.5:
            return Outcome.ABSTAIN
        return Outcome.SUCCESS if value >= 0.5 else Outcome.FAILURE


def sampler(config=CONFIG, **kwargs):
    return local_sampler(tiny_world(), GripperJudge(), starts_of(CLIPS), config, **kwargs)


def test_advantages_match_numbers_worked_by_hand():
    reward = np.array([1, 0, 0, 1, 1], np.float32)
    group = np.array([0, 0, 0, 1, 1])
    # group 0: mean 1/3, deviation sqrt((4/9 + 1/9 + 1/9) / 2) = 0.57735
    np.testing.assert_allclose(group_advantages(reward, group), [1.154699, -0.577349, -0.577349, 0, 0], atol=1e-5)


def test_abstained_row_counts_neither_in_the_mean_nor_as_a_failure():
    reward = np.array([1, 0, 0, 0], np.float32)
    use = np.array([True, True, False, False])
    np.testing.assert_allclose(group_advantages(reward, np.zeros(4), use), [0.7071058, -0.7071058, 0, 0], atol=1e-5)
    assert informative_groups(reward, np.zeros(4), use).tolist() == [True, True, False, False]


def test_groups_without_contrast_are_dropped():
    reward = np.array([1, 1, 0, 0, 1, 0], np.float32)
    group = np.array([0, 0, 1, 1, 2, 2])
    keep = informative_groups(reward, group, np.ones(6, bool))
    assert keep.tolist() == [False, False, False, False, True, True]


def test_clip_bounds_are_asymmetric():
    old = torch.zeros(2, 1)
    new = torch.log(torch.tensor([[1.5], [0.5]])).requires_grad_()
    valid = torch.ones(2, 1, dtype=torch.bool)
    advantage = torch.tensor([[1.0], [-1.0]])
    result = clipped_loss(new, old, advantage, valid)
    torch.testing.assert_close(result.loss, torch.tensor([-1.28, 0.8]))
    assert result.clipped.tolist() == [1.0, 1.0]
    result.loss.sum().backward()
    assert new.grad.abs().max().item() == 0.0


def test_masked_tail_neither_counts_nor_teaches():
    new = torch.tensor([[0.1, 5.0]], requires_grad=True)
    valid = torch.tensor([[True, False]])
    loss = clipped_loss(new, torch.zeros(1, 2), torch.ones(1, 2), valid).loss
    assert loss.item() == pytest.approx(-float(np.exp(0.1)), abs=1e-6)
    loss.sum().backward()
    assert new.grad[0, 1].item() == 0.0


def test_old_log_probabilities_are_reproduced_so_the_first_ratio_is_one():
    policy = tiny_policy(row_by_row=False)
    scored = sampler()(policy, np.random.default_rng(0))
    new = rollout_log_probs(policy, scored.rollouts, np.arange(6))
    np.testing.assert_allclose(new.detach().numpy(), scored.rollouts.log_probs_BTA.reshape(6, -1), atol=2e-5)


def test_rows_of_a_group_share_their_start_and_differ_in_their_tokens():
    scored = sampler()(tiny_policy(row_by_row=False), np.random.default_rng(0))
    rollouts = scored.rollouts
    assert rollouts.group_B.tolist() == [0, 0, 1, 1, 2, 2]
    np.testing.assert_array_equal(rollouts.frames_BFHWC[0, 0], rollouts.frames_BFHWC[1, 0])
    tokens = rollouts.trace["tokens"]
    assert (tokens[0] != tokens[1]).any()


def test_keyframe_groups_are_shorter_and_need_keyframes():
    config = CONFIG.changed(keyframe_share=0.34)
    scored = sampler(config, keyframes=starts_of(CLIPS, steps=(10,)))(tiny_policy(), np.random.default_rng(0))
    assert scored.rollouts.length_B.tolist() == [15, 15, 15, 15, 5, 5]
    with pytest.raises(ConfigError):
        sampler(config)


def test_the_judge_sees_the_first_frame_of_the_episode_and_every_chunk_end():
    seen = []

    class Onlooker:
        version = "onlooker"

        def judge(self, rollouts):
            seen.append((rollouts.frame_steps_F.tolist(), rollouts.frames_BFHWC))
            return [Verdict(Outcome.FAILURE, 0.0) for _ in rollouts.instructions]

    env = CompactWorldModelEnv(tiny_world_model(), starts_of(CLIPS), in_order=True)
    rollouts = imagine(env, tiny_policy(), "lift", seed=0, rng=np.random.default_rng(0))
    first = np.full_like(rollouts.frames_BFHWC[:, 0], 7)
    judged(rollouts, Onlooker(), first, mask=True)
    assert [steps for steps, _ in seen] == [[0, 5], [0, 5, 10], [0, 5, 10, 15]]
    for _, frames in seen:
        np.testing.assert_array_equal(frames[:, 0], first)
        np.testing.assert_array_equal(frames[:, 1:], rollouts.frames_BFHWC[:, 1 : frames.shape[1]])


class EarlyJudge:
    """Success from the second chunk end on, whatever happens."""

    version = "early"

    def judge(self, rollouts):
        outcome = Outcome.SUCCESS if rollouts.frame_steps_F[-1] >= 10 else Outcome.FAILURE
        return [Verdict(outcome, 0.5) for _ in rollouts.instructions]


def test_success_masking_cuts_a_row_at_its_first_success():
    env = CompactWorldModelEnv(tiny_world_model(), starts_of(CLIPS), in_order=True)
    rollouts = imagine(env, tiny_policy(), "lift", seed=0, rng=np.random.default_rng(0))
    first = rollouts.frames_BFHWC[:, 0]
    cut = judged(rollouts, EarlyJudge(), first, mask=True)
    assert cut.rollouts.length_B.tolist() == [10, 10, 10]
    assert cut.reward_B.tolist() == [1.0, 1.0, 1.0]
    assert judged(rollouts, EarlyJudge(), first, mask=False).rollouts.length_B.tolist() == [15, 15, 15]


def synthetic(policy, rewards, groups, seed=0):
    scored = sampler(CONFIG.changed(groups=3))(policy, np.random.default_rng(seed))
    rollouts = dataclasses.replace(scored.rollouts, group_B=np.array(groups))
    return Scored(rollouts, np.array(rewards, np.float32), np.ones(6, bool))


def test_update_makes_rewarded_tokens_likelier_than_unrewarded_ones():
    policy = tiny_policy(row_by_row=False)
    trainer = GrpoTrainer(policy, CONFIG.changed(learning_rate=1e-3, epochs=4))
    batch = synthetic(policy, [1, 0, 1, 0, 1, 0], [0, 0, 1, 1, 2, 2])
    report = trainer.update(batch)
    new = rollout_log_probs(policy, batch.rollouts, np.arange(6)).detach().numpy().mean(1)
    gain = new - batch.rollouts.log_probs_BTA.reshape(6, -1).mean(1)
    assert gain[::2].mean() > gain[1::2].mean()
    assert (report.trajectories, report.groups) == (6, 3)


def test_groups_beyond_the_target_wait_for_the_next_update():
    policy = tiny_policy(row_by_row=False)
    trainer = GrpoTrainer(policy, CONFIG.changed(target_groups=2))
    assert trainer.update(synthetic(policy, [1, 0, 1, 0, 1, 0], [0, 0, 1, 1, 2, 2])).groups == 2
    assert trainer.surplus.rollouts.group_B.tolist() == [2, 2]
    assert trainer.update(trainer.informative(synthetic(policy, [0] * 6, [3, 3, 4, 4, 5, 5]))).groups == 1
    with pytest.raises(ContractError):
        trainer.update(trainer.informative(synthetic(policy, [0] * 6, [3, 3, 4, 4, 5, 5])))


def test_surplus_older_than_allowed_is_dropped():
    policy = tiny_policy(row_by_row=False)
    trainer = GrpoTrainer(policy, CONFIG.changed(target_groups=2, max_age=0))
    trainer.update(synthetic(policy, [1, 0, 1, 0, 1, 0], [0, 0, 1, 1, 2, 2]))
    assert trainer.update(synthetic(policy, [1, 0, 1, 0, 1, 1], [3, 3, 4, 4, 5, 5])).groups == 2
    assert trainer.surplus.rollouts.group_B.tolist() == [5, 5]


def test_a_group_that_waits_again_and_again_grows_old():
    policy = tiny_policy(row_by_row=False)
    trainer = GrpoTrainer(policy, CONFIG.changed(target_groups=1, max_age=1))
    trainer.update(synthetic(policy, [1, 0, 1, 0, 1, 0], [0, 0, 1, 1, 2, 2]))
    trainer.update(synthetic(policy, [1, 0, 1, 0, 1, 0], [3, 3, 4, 4, 5, 5]))
    assert trainer.surplus.rollouts.group_B.tolist() == [2, 2, 3, 3, 4, 4, 5, 5]
    assert trainer.waiting().rollouts.group_B.tolist() == [3, 3, 4, 4, 5, 5]


def test_an_iteration_without_informative_groups_and_with_stale_surplus_is_skipped(tmp_path):
    class Spoilt:
        version = "spoilt"
        calls = 0

        def judge(self, rollouts):
            self.calls += 1
            rows = range(len(rollouts.instructions))
            good = [self.calls == 1 and row % 2 == 0 for row in rows]
            return [Verdict(Outcome.SUCCESS if one else Outcome.FAILURE, 0.5) for one in good]

    config = CONFIG.changed(target_groups=1, max_age=0, iterations=2)
    tiny_policy().save(tmp_path / "base")
    judge = Spoilt()
    run = run_grpo(
        tmp_path / "base", local_sampler(tiny_world(), judge, starts_of(CLIPS), config), config,
        tmp_path / "run",
    )  # fmt: skip
    assert [row["groups"] for row in run.history] == [1.0, 0.0]


@pytest.mark.parametrize(("how", "want"), [("trajectory", [1, 1]), ("token", [1.5, 0.5]), ("constant", [0.75, 0.25])])
def test_length_normalisation_weighs_trajectories(how, want):
    valid = torch.tensor([[True, True, True, False], [True, False, False, False]])
    assert length_weights(valid, how).tolist() == want
    with pytest.raises(ConfigError, match="length_normalisation"):
        CONFIG.changed(length_normalisation="tokens")


def test_kl_weight_pulls_towards_the_starting_policy():
    moved = []
    for weight in (0.0, 5.0):
        policy = tiny_policy(row_by_row=False)
        trainer = GrpoTrainer(policy, CONFIG.changed(kl_weight=weight, learning_rate=1e-3, epochs=6))
        before = policy.network.head.weight.detach().clone()
        trainer.update(synthetic(policy, [1, 0, 1, 0, 1, 0], [0, 0, 1, 1, 2, 2]))
        moved.append((policy.network.head.weight.detach() - before).norm().item())
    assert moved[1] < moved[0]


def test_run_resumes_bit_for_bit_with_its_surplus(tmp_path):
    config = CONFIG.changed(target_groups=1, keep_low=0.0, keep_high=1.0)
    tiny_policy().save(tmp_path / "base")
    straight = run_grpo(tmp_path / "base", sampler(config), config, tmp_path / "a", candidate_every=2)
    state = tmp_path / "state"
    done = []
    with pytest.raises(CancelledError, match="2 of 4"):
        run_grpo(
            tmp_path / "base",
            sampler(config),
            config,
            tmp_path / "b",
            candidate_every=2,
            state=state,
            progress=done.append,
            cancelled=lambda: len(done) == 2,
        )
    resumed = run_grpo(tmp_path / "base", sampler(config), config, tmp_path / "b", candidate_every=2, state=state)
    assert [candidate.iteration for candidate in resumed.candidates] == [2, 4]
    assert [candidate.version for candidate in resumed.candidates] == [c.version for c in straight.candidates]
    assert resumed.history == straight.history


def test_candidates_name_their_parent_and_what_they_were_trained_in(tmp_path):
    base = tiny_policy().save(tmp_path / "base")
    config = CONFIG.changed(iterations=1, keep_low=0.0, keep_high=1.0)
    run = run_grpo(tmp_path / "base", sampler(config), config, tmp_path / "run", lineage={"world_model": "w-1"})
    manifest = read_manifest(run.candidates[-1].folder)
    assert manifest.parents == (base.id,)
    assert manifest.lineage["world_model"] == "w-1"
    assert manifest.lineage["imagined_reward"] == run.history[-1]["imagined_reward"]
