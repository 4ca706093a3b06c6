from __future__ import annotations

import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from cloud_trainer.gym import ANY, register
from cloud_trainer.world_model.gym import GymnastGymEnv, GymnastVectorEnv, StepReward
from gymnast_core.errors import ConfigError
from tests.world_model.tiny import tiny_env


def test_single_row_passes_gymnasiums_own_checker() -> None:
    register()
    env = gymnasium.make(ANY, env=tiny_env(batch_size=1), render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # advice on infinite bounds of proprioception
        check_env(env.unwrapped, skip_close_check=True)
    env.close()


def test_registered_vector_env_steps_all_rows() -> None:
    register()
    env = gymnasium.make_vec(ANY, num_envs=3, make_env=tiny_env)
    observation, _ = env.reset(seed=1)
    assert env.observation_space.contains(observation)
    for step in range(4):
        action = env.action_space.sample()
        observation, reward, terminated, truncated, info = env.step(action)
        assert observation["main"].shape == (3, 8, 8, 3)
        assert info["commanded"].shape == (3, 7)
        assert reward.tolist() == [0.0] * 3
        assert truncated.tolist() == [step == 3] * 3
        assert not terminated.any()
    env.close()


def test_a_recorded_video_runs_at_the_arms_rate(tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    env = gymnasium.make_vec(ANY, num_envs=2, make_env=tiny_env, render_mode="rgb_array")
    recorder = gymnasium.wrappers.vector.RecordVideo(env, str(tmp_path), episode_trigger=lambda _: True)
    assert recorder.frames_per_sec == 5
    recorder.close()


def test_a_vector_env_takes_gymnasiums_render_mode() -> None:
    env = gymnasium.make_vec(ANY, num_envs=2, make_env=tiny_env, render_mode="rgb_array")
    assert (env.render_mode, env.metadata["render_fps"]) == ("rgb_array", 5)
    env.reset(seed=0)
    assert [frame.shape for frame in env.render()] == [(8, 8, 3)] * 2
    env.close()
    with pytest.raises(ConfigError, match="render_mode must be one of"):
        gymnasium.make_vec(ANY, num_envs=2, make_env=tiny_env, render_mode="human")


def test_seeds_name_episodes_and_rewards_are_the_callers() -> None:
    env = GymnastVectorEnv(tiny_env(2), reward=StepReward(lambda result: result.commanded_BA[:, 6]))
    action = np.zeros((2, 7), np.float32)
    action[:, 6] = 1
    frames = []
    for seed in (4, 4, 5):
        env.reset(seed=seed, options={"instruction": ["put the block on the plate"] * 2})
        observation, reward, *_ = env.step(action)
        frames.append(observation["main"])
        assert reward.tolist() == [1.0, 1.0]
    assert np.array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[0], frames[2])
    rendered = env.render()
    assert rendered is not None
    assert rendered[0].shape == (8, 8, 3)


def test_partial_resets_and_wrong_batches_are_refused() -> None:
    env = GymnastVectorEnv(tiny_env(2))
    with pytest.raises(ConfigError, match="partial"):
        env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ConfigError, match="one seed"):
        env.reset(seed=[1, 2])
    with pytest.raises(ConfigError, match="batch size 1, got 2"):
        GymnastGymEnv(tiny_env(2))
