from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from cloud_trainer.world_model.capabilities import ActionKind
from cloud_trainer.world_model.data.mixture import Clip, ClipStream, MixtureConfig, stack_clips
from cloud_trainer.world_model.data.source import MemorySource, Origin, SourceInfo
from cloud_trainer.world_model.dit.actions import frame_conditions
from gymnast_core.errors import ConfigError
from tests.world_model.tiny import tiny_episode

MIX = {Origin.EXPERT: 0.5, Origin.ON_POLICY: 0.2, Origin.FAILURE: 0.2, Origin.RANDOM: 0.1}


def sources() -> list[MemorySource]:
    return [
        MemorySource(SourceInfo(origin.value, origin=origin), [tiny_episode(10 * number + i) for i in range(3)])
        for number, origin in enumerate(Origin)
    ]


def stream(rank: int = 0, world_size: int = 1, seed: int = 1) -> ClipStream:
    return ClipStream(sources(), MixtureConfig(frames=4, proportions=MIX, seed=seed), rank=rank, world_size=world_size)


def key(clip: Clip) -> tuple[str, str, int]:
    return clip.source, clip.episode_id, clip.first


def test_declared_proportions_are_kept() -> None:
    counts = Counter(clip.origin for clip in stream().next_clips(200))
    for origin, share in MIX.items():
        assert abs(counts[origin] - 200 * share) <= 3


def test_ranks_share_one_stream_without_overlap() -> None:
    whole = [key(clip) for clip in stream().next_clips(12)]
    ranks = [[key(clip) for clip in stream(rank, 3).next_clips(4)] for rank in range(3)]
    assert [ranks[number % 3][number // 3] for number in range(12)] == whole


def test_resumes_at_the_exact_sample() -> None:
    straight = stream()
    expected = [key(clip) for clip in straight.next_clips(9)][4:]
    first = stream()
    first.next_clips(4)
    again = stream()
    again.restore(first.state())
    assert [key(clip) for clip in again.next_clips(5)] == expected


def test_resuming_on_other_data_is_refused() -> None:
    state = stream().state()
    with pytest.raises(ConfigError, match="changed"):
        stream(seed=2).restore(state)


def test_resuming_on_other_processes_goes_on_where_all_of_them_stopped() -> None:
    expected = [key(clip) for clip in stream().next_clips(8)][4:]
    first = stream()
    first.next_clips(4)
    ranks = [stream(rank, 2) for rank in range(2)]
    for half in ranks:
        half.restore(first.state())
    drawn = [[key(clip) for clip in half.next_clips(2)] for half in ranks]
    assert [drawn[number % 2][number // 2] for number in range(4)] == expected
    odd = stream()
    odd.next_clips(3)
    with pytest.raises(ConfigError, match="evenly"):
        ranks[0].restore(odd.state())


def test_clip_pairs_each_frame_with_the_action_that_led_to_it() -> None:
    clip = next(clip for clip in stream().next_clips(40) if clip.first > 0)
    episode = next(e for s in sources() for e in s.episodes if e.episode_id == clip.episode_id)
    np.testing.assert_array_equal(clip.frames_FHWC, episode.images["main"][clip.first : clip.first + 4])
    expected = frame_conditions(episode.actions_TA)[clip.first : clip.first + 4]
    np.testing.assert_array_equal(clip.conditions_FC, expected)


def test_short_episodes_stand_still_at_first() -> None:
    episode = tiny_episode(steps=2)
    clip = ClipStream([MemorySource(SourceInfo("m"), [episode])], MixtureConfig(frames=5)).next_clips(1)[0]
    np.testing.assert_array_equal(clip.frames_FHWC, episode.images["main"][[0, 0, 0, 1, 2]])
    assert not clip.conditions_FC[:3].any()
    np.testing.assert_array_equal(clip.conditions_FC[3:], frame_conditions(episode.actions_TA)[1:])


def test_video_without_actions_is_trained_under_the_null_action() -> None:
    source = MemorySource(SourceInfo("video", actions=ActionKind.NONE), [tiny_episode()])
    clip = ClipStream([source], MixtureConfig(frames=3)).next_clips(1)[0]
    np.testing.assert_array_equal(clip.conditions_FC, np.eye(10, dtype=np.float32)[[9, 9, 9]])


def test_missing_origins_and_mixed_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\['failure'\]"):
        ClipStream(sources()[:1], MixtureConfig(proportions={Origin.EXPERT: 1, Origin.FAILURE: 1}))
    small = MemorySource(SourceInfo("small"), [tiny_episode(size=4)])
    large = MemorySource(SourceInfo("large"), [tiny_episode(size=8)])
    clips = [ClipStream([s], MixtureConfig(frames=2)).next_clips(1)[0] for s in (small, large)]
    with pytest.raises(ConfigError, match=r"small.*large"):
        stack_clips(clips)
    with pytest.raises(ConfigError, match="positive sum"):
        MixtureConfig(proportions={Origin.EXPERT: 0.0})


def test_decoded_frames_are_bounded_and_samples_do_not_depend_on_it() -> None:
    one = sum(frames.nbytes for frames in tiny_episode(0).images.values())
    tight = ClipStream(sources(), MixtureConfig(frames=4, proportions=MIX, seed=1, cached_bytes=2 * one))
    for low in range(0, 40, 4):
        for mine, other in zip(
            tight.next_clips(4), [stream().sample(number) for number in range(low, low + 4)], strict=True
        ):
            np.testing.assert_array_equal(mine.frames_FHWC, other.frames_FHWC)
        assert tight._cached_bytes == sum(f.nbytes for e in tight._cache.values() for f in e.images.values()) <= 2 * one
