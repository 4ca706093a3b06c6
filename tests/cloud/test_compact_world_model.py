import numpy as np
import pytest
import torch

from cloud_trainer.practice.imagine import RecordedActions, imagine, replay_clips
from cloud_trainer.world_model.compact.data import clips_of, join, looking_into, median_background, starts_of
from cloud_trainer.world_model.compact.env import CompactWorldModelEnv
from cloud_trainer.world_model.compact.model import CompactWorldModel
from cloud_trainer.world_model.compact.network import pose_maps
from cloud_trainer.world_model.compact.train import (
    WorldModelTrainer,
    WorldModelTraining,
    draw_windows,
    train_world_model,
    window_conditions,
)
from gymnast_core.errors import ConfigError
from tests.cloud.learning_fakes import CAMERA, episode, tiny_policy, tiny_world, tiny_world_model
from tests.contracts.env_contract import EnvContract

CLIPS = clips_of([episode(seed) for seed in range(6)], 64)


class TestCompactWorldModelEnv(EnvContract):
    def make_env(self):
        return CompactWorldModelEnv(tiny_world_model(), starts_of(CLIPS), batch_size=3, max_steps=7)


def dream(starts, **kwargs):
    return CompactWorldModelEnv(tiny_world_model(), starts, in_order=True, **kwargs)


def test_looking_at_every_frame_changes_no_frame():
    actions = CLIPS.actions_NTA[:2]
    frames = []
    for look in (True, False):
        env = dream(starts_of(CLIPS)[:2])
        env.reset("lift the red cube", seed=1)
        for step in range(15):
            result = env.step(np.ascontiguousarray(actions[:, step]))
            if look:
                _ = result.observation.images["camera"]
        frames.append(result.observation.images["camera"])
    np.testing.assert_array_equal(*frames)


def test_a_stale_observation_keeps_showing_its_own_dream():
    env = dream(starts_of(CLIPS)[:2])
    env.reset("lift", seed=1)
    result = env.step(np.ascontiguousarray(CLIPS.actions_NTA[:2, 0]))
    env.reset("lift", seed=2)
    stale = result.observation.images["camera"]
    env.reset("lift", seed=1)
    fresh = env.step(np.ascontiguousarray(CLIPS.actions_NTA[:2, 0])).observation.images["camera"]
    np.testing.assert_array_equal(stale, fresh)


def test_noise_of_a_row_does_not_depend_on_the_other_rows():
    starts = starts_of(CLIPS)[:3]
    frames = {}
    for rows in (1, 3):
        env = dream(starts[:rows])
        env.reset("lift", seed=4)
        for step in range(5):
            result = env.step(np.ascontiguousarray(CLIPS.actions_NTA[:rows, step]))
        frames[rows] = result.observation.images["camera"][0].astype(int)
    assert np.abs(frames[1] - frames[3]).max() <= 2  # bfloat16 products round differently in another batch size


def test_proprioception_is_the_commanded_pose_the_model_was_trained_on():
    env = dream(starts_of(CLIPS)[:2])
    env.reset("lift", seed=1)
    for step in range(15):
        result = env.step(np.ascontiguousarray(CLIPS.actions_NTA[:2, step]))
    np.testing.assert_allclose(result.observation.proprio_BP, CLIPS.poses_NTP[:2, 15], atol=1e-5)


def test_keyframe_start_has_only_the_steps_that_were_left_and_pins_the_first_frame():
    late = starts_of(CLIPS, steps=(10,))[:2]
    np.testing.assert_array_equal(late[0].first_HWC, CLIPS.frames_NTHWC[0, 0])
    np.testing.assert_array_equal(late[0].frame_HWC, CLIPS.frames_NTHWC[0, 10])
    env = dream([*starts_of(CLIPS)[:1], late[0]])
    rollouts = imagine(env, tiny_policy(), "lift", seed=1, rng=np.random.default_rng(0))
    assert rollouts.length_B.tolist() == [15, 5]
    assert rollouts.frame_steps_F.tolist() == [0, 5, 10, 15]
    np.testing.assert_array_equal(rollouts.frames_BFHWC[1, 1], rollouts.frames_BFHWC[1, 3])
    assert (rollouts.actions_BTA[1, 5:] == 0).all()
    with pytest.raises(ConfigError):
        dream(late, max_steps=10)


def test_replayed_clips_play_the_recorded_actions():
    rollouts = replay_clips(tiny_world(), CLIPS, seed=0)
    np.testing.assert_allclose(rollouts.actions_BTA, CLIPS.actions_NTA, atol=1e-6)
    np.testing.assert_array_equal(rollouts.frames_BFHWC[:, 0], CLIPS.frames_NTHWC[:, 0])
    late = replay_clips(tiny_world(), CLIPS, seed=0, step=10)
    np.testing.assert_allclose(late.actions_BTA, CLIPS.actions_NTA[:, 10:], atol=1e-6)


def test_recorded_actions_repeat_the_last_one_past_the_end():
    actions = np.arange(2 * 7 * 7, dtype=np.float32).reshape(2, 7, 7)
    policy = RecordedActions(actions)
    policy.act(None, ["a", "b"])
    chunk = policy.act(None, ["a", "b"])
    np.testing.assert_array_equal(chunk.actions_BKA[:, 4], actions[:, 6])


def test_commanded_path_is_drawn_where_the_camera_sees_it():
    poses = torch.tensor([[[0.25, 0.0, 0.1, 0, 0, 0, 1.0], [0.35, 0.1, 0.1, 0, 0, 0, 0.0]]])
    maps = pose_maps(poses, torch.tensor(CAMERA).view(3, 4), 64, 2, 0.0)
    start, end = (np.unravel_index(int(maps[0, channel].argmax()), (32, 32)) for channel in (0, 2))
    # pixel row = 60 - 100 x, column = 32 - 100 y; a map cell is two pixels
    assert start == (17, 16)
    assert end == (12, 11)
    assert maps[0, 1].max() > 0.8  # open at the start
    assert maps[0, 3].max() == 0.0  # closed at the end
    assert maps[0, 6].max() > 0.8


def test_windows_never_reach_past_an_episodes_end_and_zero_unused_actions():
    short = clips_of([episode(1, steps=9), episode(2, steps=15)], 64)
    window = draw_windows(short, 500, 5, WorldModelTraining(), np.random.default_rng(0))
    assert (window.step_B + window.ahead_B <= short.length_N[window.episode_B]).all()
    assert (window.ahead_B >= 1).all()
    poses, actions = window_conditions(short, window, 5)
    late = np.arange(5) >= window.ahead_B[:, None]
    assert (actions[late] == 0).all()
    np.testing.assert_array_equal(
        poses[np.arange(500), 5], short.poses_NTP[window.episode_B, window.step_B + window.ahead_B]
    )


def test_recent_episodes_are_drawn_as_often_as_asked():
    config = WorldModelTraining(recent=2, recent_share=0.5)
    window = draw_windows(join(CLIPS, CLIPS.take([0, 1])), 4000, 5, config, np.random.default_rng(0))
    assert (window.episode_B >= len(CLIPS)).mean() == pytest.approx(0.5, abs=0.04)


def test_background_is_the_median_frame():
    background = median_background(CLIPS.frames_NTHWC)
    assert (background == 120).mean() > 0.99


def test_training_resumes_bit_for_bit_and_learns(tmp_path):
    config = WorldModelTraining(iterations=8, batch_size=4, warmup=1, own_context_from=0.0, own_context_share=0.6)
    straight = WorldModelTrainer(tiny_world_model(), CLIPS, config)
    for _ in range(8):
        straight.run_step()
    halves = WorldModelTrainer(tiny_world_model(), CLIPS, config)
    for _ in range(4):
        halves.run_step()
    halves.save(tmp_path / "state")
    resumed = WorldModelTrainer(tiny_world_model(seed=5), CLIPS, config)
    resumed.load(tmp_path / "state")
    for _ in range(4):
        resumed.run_step()
    assert resumed.losses == straight.losses
    for name, tensor in straight.ema.network.state_dict().items():
        assert torch.equal(tensor, resumed.ema.network.state_dict()[name]), name


def test_refining_keeps_the_parent_in_the_lineage_and_stores_half_precision(tmp_path):
    parent = tiny_world_model().save(tmp_path / "a")
    config = WorldModelTraining(iterations=2, batch_size=4, warmup=1)
    refined = train_world_model(CLIPS, config, tmp_path / "b", parent=tmp_path / "a")
    assert refined.parents == (parent.id,)
    assert refined.lineage["episodes"] == list(CLIPS.episode_ids)
    model = CompactWorldModel.load(tmp_path / "b")
    for tensor in model.network.state_dict().values():
        assert torch.equal(tensor, tensor.to(torch.bfloat16).float())
    with pytest.raises(ConfigError, match="camera"):
        train_world_model(CLIPS, config, tmp_path / "c")


def test_episodes_that_look_into_their_clips_show_the_same_and_hold_nothing():
    episodes = [episode(0), episode(1, steps=9)]
    clips = clips_of(episodes, 64)
    for mine, own in zip(looking_into(clips, episodes), episodes, strict=True):
        (seen,) = mine.images.values()
        assert np.shares_memory(seen, clips.frames_NTHWC)
        np.testing.assert_array_equal(seen, own.images["over_shoulder"])
        assert mine.steps == own.steps
