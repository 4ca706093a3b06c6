"""The policy with a memory: what it looks back at is the same where it acts, learns and is asked from elsewhere."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from cloud_trainer.practice.grpo.log_probs import rollout_log_probs
from cloud_trainer.practice.imagine import imagine_from
from cloud_trainer.sft.trainer import train_sft
from cloud_trainer.sft.windows import mix, windows_from_episodes, windows_from_rollouts
from cloud_trainer.world_model.compact.data import clips_of, starts_of
from gymnast_core.errors import ConfigError, ContractError
from gymnast_core.jobs.imitate import SftConfig
from gymnast_core.past import no_past, past_at
from gymnast_core.policies import load_policy
from gymnast_core.policies.compact import ActionBins
from gymnast_core.policies.history import PAST, HistoryNetwork, HistoryPolicy, HistoryPolicyConfig, merged_past
from gymnast_core.policies.stretched import StretchedPolicy
from gymnast_core.policies.trainable import load_trainable
from gymnast_core.types import PAST_STEPS, Observation
from gymnast_ros.run.policy_wire import arrays_of, observation_of
from gymnast_ros.shadow.observations import _spread
from tests.cloud.learning_fakes import episode, tiny_world
from tests.cloud.local_sampler import run_grpo
from tests.cloud.test_grpo import CONFIG, sampler
from tests.contracts.policy_contract import PolicyContract

SIZES = HistoryPolicyConfig(widths=(4, 4, 4), hidden=16, head=8, text_buckets=32, text_dim=4, past_width=8)


def policy_of(*, row_by_row: bool = True, **sizes: int) -> HistoryPolicy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = HistoryNetwork(dataclasses.replace(SIZES, **sizes))
    low, high = (np.array([s * 0.05] * 3 + [s * 0.02] * 3 + [s > 0], np.float32) for s in (-1, 1))
    return HistoryPolicy(network, ActionBins(low, high, 256), row_by_row=row_by_row)


def seen(rows: int, *, step: int = 7, errs: float = 0.0) -> Observation:
    """Rows of one recorded episode; errs: how far the arm went beside each command."""
    one = episode(3)
    past = past_at(one.proprio_TP + errs * np.arange(16, dtype=np.float32)[:, None], one.actions_TA, step)
    repeated = dataclasses.replace(past, **{n: a.repeat(rows, axis=0) for n, a in vars(past).items()})
    frames, pose = (a[step : step + 1].repeat(rows, axis=0) for a in (one.images["over_shoulder"], one.proprio_TP))
    return Observation({"over_shoulder": frames}, pose, np.zeros(rows, np.int64), repeated)


class TestHistoryPolicy(PolicyContract):
    def make_policy(self) -> HistoryPolicy:
        return policy_of()


class TestWithoutSteps(PolicyContract):
    def make_policy(self) -> HistoryPolicy:
        return policy_of(past_steps=0)


def probabilities(policy: HistoryPolicy, observation: Observation) -> np.ndarray:
    chunk = policy.act(observation, ["lift the red cube"] * observation.batch_size)
    assert chunk.log_probs_BKA is not None
    return chunk.log_probs_BKA


def test_what_the_arm_made_of_its_commands_changes_the_choice_of_a_policy_that_looks_back() -> None:
    for steps, differs in ((16, True), (2, True), (0, False)):
        policy = policy_of(past_steps=steps)
        same, other = probabilities(policy, seen(1)), probabilities(policy, seen(1, errs=0.004))
        assert (not np.array_equal(same, other)) is differs, steps


def test_no_more_than_its_steps_are_looked_at() -> None:
    policy, observation = policy_of(past_steps=3), seen(1)
    assert observation.past is not None
    observation.past.actions_BHA[0, -4] += 0.01
    changed = probabilities(policy, observation)
    np.testing.assert_array_equal(changed, probabilities(policy, seen(1)))
    observation.past.actions_BHA[0, -3] += 0.01
    assert not np.array_equal(changed, probabilities(policy, observation))


def test_without_a_past_it_acts_as_at_an_episodes_start() -> None:
    policy, observation = policy_of(), seen(2)
    none, empty = (dataclasses.replace(observation, past=past) for past in (None, no_past(2)))
    np.testing.assert_array_equal(probabilities(policy, none), probabilities(policy, empty))
    stretched = StretchedPolicy(policy, 10).act(observation, ["lift"] * 2)
    np.testing.assert_array_equal(
        stretched.actions_BKA, StretchedPolicy(policy, 10).act(none, ["lift"] * 2).actions_BKA
    )


@pytest.mark.parametrize("step", [0, 1, 15, 16, 20])
def test_a_recorded_past_is_the_last_sixteen_steps(step: int) -> None:
    long = episode(2, steps=20)
    past, count = past_at(long.proprio_TP, long.actions_TA, step), min(step, PAST_STEPS)
    assert past.valid_BH.sum() == count
    assert past.valid_BH[0, PAST_STEPS - count :].all()
    np.testing.assert_array_equal(past.actions_BHA[0, PAST_STEPS - count :], long.actions_TA[step - count : step])
    np.testing.assert_array_equal(past.proprio_BHP[0, PAST_STEPS - count :], long.proprio_TP[step - count : step])
    assert not past.actions_BHA[0, : PAST_STEPS - count].any()


def test_it_sees_in_an_episode_what_it_learned_from_the_recording() -> None:
    policy = policy_of(row_by_row=False)
    starts = starts_of(clips_of([episode(seed) for seed in range(3)], 64))
    rollouts = imagine_from(tiny_world(), list(starts), policy, seed=1, rng=np.random.default_rng(1))
    past_BCHX = rollouts.trace[PAST]
    assert past_BCHX.shape[2:] == (PAST_STEPS + 1, 15)
    commanded = past_BCHX[:, 1, :, 7:14]
    np.testing.assert_array_equal(commanded[:, -6:-1], rollouts.actions_BTA[:, :5])
    windows = windows_from_rollouts(rollouts, [0, 2], policy.chunk_length, policy.training_frames)
    assert windows.past_NHX is not None
    np.testing.assert_array_equal(windows.past_NHX[1], past_BCHX[0, 1])
    recorded = windows_from_episodes([episode(1)], 5, policy.training_frames, past=True)
    both = mix(recorded, windows)
    assert both.past_NHX is not None
    assert len(both.past_NHX) == len(both)
    np.testing.assert_array_equal(recorded.past_NHX[7], merged_past(_at(7))[0])


def _at(step: int) -> Observation:
    one = episode(1)
    past = past_at(one.proprio_TP, one.actions_TA, step)
    return Observation({}, one.proprio_TP[step : step + 1], np.zeros(1, np.int64), past)


def test_the_learner_gives_each_rollout_the_probability_it_was_drawn_with() -> None:
    policy = policy_of(row_by_row=False)
    scored = sampler()(policy, np.random.default_rng(0))
    drawn = rollout_log_probs(policy, scored.rollouts, np.arange(len(scored.rollouts.instructions)))
    np.testing.assert_allclose(drawn.detach().numpy().ravel(), scored.rollouts.log_probs_BTA.ravel(), atol=1e-5)


def test_it_is_imitated_saved_loaded_and_reinforced_by_the_same_jobs(tmp_path: Path) -> None:
    config = SftConfig(iterations=4, batch_size=8, warmup=1)
    manifest = train_sft([episode(seed) for seed in range(4)], config, tmp_path / "base", policy_config=SIZES)
    assert manifest.architecture == "compact_history"
    policy = load_policy(tmp_path / "base")
    again = load_trainable(tmp_path / "base")
    np.testing.assert_allclose(probabilities(policy, seen(1)), probabilities(again, seen(1)), atol=1e-6)
    learned = run_grpo(tmp_path / "base", sampler(), CONFIG, tmp_path / "candidates")
    changed = load_policy(learned.candidates[-1].folder)
    assert not np.array_equal(probabilities(policy, seen(1)), probabilities(changed, seen(1)))


def test_a_past_reaches_the_process_and_the_check_that_ask_the_policy() -> None:
    observation = seen(2)
    there = observation_of(arrays_of(observation), ["over_shoulder"])
    assert there.past is not None
    assert observation.past is not None
    for name, array in vars(observation.past).items():
        np.testing.assert_array_equal(vars(there.past)[name], array)
    assert observation_of(arrays_of(dataclasses.replace(observation, past=None)), ["over_shoulder"]).past is None
    checked = [asked.past for asked, _ in _spread(episode(1))]
    assert [int(past.valid_BH.sum()) for past in checked if past is not None] == [0, 5, 10, 15]


def test_sizes_and_shapes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="past_steps must be 0 to 16"):
        HistoryPolicyConfig(past_steps=17)
    with pytest.raises(ContractError, match="past must be"):
        policy_of().logits(np.zeros((1, 64, 64, 3), np.uint8), ["lift"], np.zeros((1, 3, 15), np.float32))
