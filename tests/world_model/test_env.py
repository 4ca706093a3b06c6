from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cloud_trainer.world_model.dit.actions import condition
from cloud_trainer.world_model.dit.codec import IdentityCodec
from cloud_trainer.world_model.dit.diffusion import VPrediction
from cloud_trainer.world_model.dit.env import WorldModelEnv, WorldModelEnvConfig
from cloud_trainer.world_model.dit.sampler import RolloutSampler, SamplerConfig
from cloud_trainer.world_model.dit.starts import known_frames
from cloud_trainer.world_model.starts import start_from_episode
from gymnast_core.arm.targets import commanded_proprioception
from gymnast_core.errors import ConfigError, EpisodeOverError
from tests.world_model.tiny import tiny_env, tiny_episode, tiny_model, tiny_starts


def actions(batch: int, value: float = 0.01) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.full((batch, 7), value, np.float32)


class CountingCodec(IdentityCodec):
    def __init__(self) -> None:
        self.decoded = 0

    def decode(self, latents: Tensor) -> Tensor:
        self.decoded += 1
        return super().decode(latents)


def test_frames_are_decoded_only_when_somebody_looks() -> None:
    codec = CountingCodec()
    config = WorldModelEnvConfig(batch_size=2, context_frames=2, sampler=SamplerConfig(steps=2, window=5))
    env = WorldModelEnv(tiny_model(), VPrediction(), codec, tiny_starts(), config)
    env.reset("put the block on the plate", seed=0)
    results = [env.step(actions(2)) for _ in range(3)]
    assert codec.decoded == 0
    late, again = results[0].observation.images["main"], results[0].observation.images["main"]
    assert late is again
    assert codec.decoded == 1
    assert not np.array_equal(late, results[2].observation.images["main"])


def test_start_frame_is_the_recorded_one() -> None:
    env = tiny_env(batch_size=2, in_order=True)
    observation = env.reset("x", seed=0)
    expected = tiny_episode(1).images["main"][4]
    assert np.array_equal(observation.images["main"][1], expected)
    np.testing.assert_array_equal(observation.proprio_BP[1], tiny_episode(1).proprio_TP[4])
    assert observation.time_ns_B[1] == 800_000_000


def test_rollout_equals_the_sampler_called_by_hand() -> None:
    env = tiny_env(batch_size=1, max_steps=2, in_order=True)
    env.reset("x", seed=5)
    shown = [env.step(actions(1, v)).observation.images["main"] for v in (0.01, -0.02)]
    frames, conditions = known_frames(tiny_starts()[0], 3)
    sampler = RolloutSampler(tiny_model(), VPrediction(), SamplerConfig(steps=2, window=5, pinned=1))
    sampler.start(IdentityCodec().encode(torch.from_numpy(frames))[None], torch.from_numpy(conditions)[None])
    words = np.random.SeedSequence((5, 0, 0)).generate_state(2, np.uint32)
    noise = torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))
    for image, value in zip(shown, (0.01, -0.02), strict=True):
        frame = sampler.next_frame(
            torch.from_numpy(condition(actions(1, value))), torch.randn(8, 8, 3, generator=noise)[None]
        )
        np.testing.assert_array_equal(image, IdentityCodec().decode(frame).numpy())


def test_groups_share_a_start_and_rows_differ_by_noise() -> None:
    env = tiny_env(batch_size=4, group_size=2)
    begun = env.reset("put the block on the plate", seed=3).proprio_BP
    assert np.array_equal(begun[0], begun[1])
    assert np.array_equal(begun[2], begun[3])
    images = env.step(actions(4)).observation.images["main"]
    assert not np.array_equal(images[0], images[1])


def test_forty_rollouts_run_in_one_batch() -> None:
    env = tiny_env(batch_size=40)
    env.reset("put the block on the plate", seed=0)
    assert env.step(actions(40)).observation.images["main"].shape == (40, 8, 8, 3)


def test_proprioception_is_dead_reckoned_from_what_was_executed() -> None:
    env = tiny_env(batch_size=1, in_order=True)
    start = env.reset("x", seed=0).proprio_BP[0]
    wanted = np.array([[0.2, -0.01, 0.0, 0.1, 0.0, 0.0, 1.0]], np.float32)
    result = env.step(wanted)
    np.testing.assert_allclose(result.commanded_BA[0], [0.05, -0.01, 0, 0.1, 0, 0, 1], atol=1e-7)
    expected = commanded_proprioception(start[None], wanted[None])[0, 1]
    np.testing.assert_allclose(expected[:3] - start[:3], [0.05, -0.01, 0], atol=1e-6)
    np.testing.assert_allclose(result.observation.proprio_BP[0], expected, atol=1e-6)


def test_rows_whose_draws_disagree_end_and_freeze() -> None:
    calm = tiny_env(batch_size=2, draws=2)
    calm.reset("put the block on the plate", seed=0)
    calm.step(actions(2))
    limit = float(calm.disagreement_B.mean())
    assert calm.disagreement_B.min() > 0
    env = tiny_env(batch_size=2, draws=2, trust_limit=limit)
    env.reset("put the block on the plate", seed=0)
    first = env.step(actions(2))
    assert first.terminated_B.tolist() == (calm.disagreement_B > limit).tolist()
    assert sorted(first.terminated_B.tolist()) == [False, True]
    row = int(first.terminated_B.argmax())
    second = env.step(actions(2))
    assert np.array_equal(first.observation.images["main"][row], second.observation.images["main"][row])
    assert first.observation.time_ns_B[row] == second.observation.time_ns_B[row]
    assert not second.commanded_BA[row].any()


def test_horizon_ends_where_trust_ends() -> None:
    env = tiny_env(batch_size=1, max_steps=4, trusted_steps=2)
    assert env.spec.max_steps == 2
    env.reset("x", seed=0)
    assert not env.step(actions(1)).done_B.any()
    assert env.step(actions(1)).truncated_B.all()
    with pytest.raises(EpisodeOverError):
        env.step(actions(1))
    with pytest.raises(ConfigError, match="trusts no step"):
        WorldModelEnvConfig(trusted_steps=0)


def test_starts_keep_the_anchor_and_the_frames_before_the_step() -> None:
    episode = tiny_episode(steps=8)
    start = start_from_episode(episode, 6)
    frames, conditions = known_frames(start, 5)
    assert np.array_equal(frames, episode.images["main"][[0, 3, 4, 5, 6]])
    assert not conditions[0].any()
    np.testing.assert_array_equal(conditions[1:], condition(episode.actions_TA[[2, 3, 4, 5]]))
    frames, conditions = known_frames(start, 7)
    assert np.array_equal(frames, episode.images["main"][[0, 0, 0, 3, 4, 5, 6]])
    assert not conditions[:3].any()
    assert np.array_equal(known_frames(start, 2)[0], episode.images["main"][[0, 6]])
    with pytest.raises(ConfigError, match="lacks the frames before it"):
        known_frames(replace(start, past_FHWC=None), 5)
    with pytest.raises(ConfigError, match=r"steps 0\.\.8"):
        start_from_episode(episode, 9)


def test_impossible_configurations_are_refused() -> None:
    with pytest.raises(ConfigError, match="below the window"):
        WorldModelEnvConfig(context_frames=5, sampler=SamplerConfig(window=5))
    with pytest.raises(ConfigError, match="draws >= 2"):
        WorldModelEnvConfig(trust_limit=0.1)
    with pytest.raises(ConfigError, match="image size"):
        WorldModelEnv(tiny_model(), VPrediction(), IdentityCodec(), [], WorldModelEnvConfig())
