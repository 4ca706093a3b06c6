from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gymnast_core.errors import ConfigError, TransientBridgeError
from gymnast_core.faulty_env import Faults, FaultyEnv
from gymnast_core.replay_env import ReplayEnv
from gymnast_core.types import StepResult
from tests.contracts.env_contract import EnvContract
from tests.world_model.tiny import tiny_env, tiny_episode

STEPS = 40


class TestFaultyEnv(EnvContract):
    instruction = "put the block on the plate"

    def make_env(self) -> FaultyEnv:
        return FaultyEnv(tiny_env(batch_size=3), Faults(frozen=0.3, black=0.2, noise=4.0))


def played(**faults: Any) -> tuple[list[StepResult], list[StepResult]]:
    """The same recording with faults and without."""
    recording = [tiny_episode(seed, steps=STEPS) for seed in range(4)]
    results: list[list[StepResult]] = []
    for env in (FaultyEnv(ReplayEnv(recording), Faults.of(faults)), ReplayEnv(recording)):
        env.reset("look", seed=5)
        results.append([env.step(np.zeros((4, 7), np.float32)) for _ in range(STEPS)])
    return results[0], results[1]


def frames(results: list[StepResult]) -> np.ndarray:
    return np.stack([result.observation.images["main"] for result in results])


def test_frozen_pictures_are_those_of_the_step_before_and_poses_are_not() -> None:
    faulty, clean = played(frozen=0.5)
    shown, true = frames(faulty), frames(clean)
    stale = (shown[1:] == shown[:-1]).all(axis=(2, 3, 4))
    fresh = (shown[1:] == true[1:]).all(axis=(2, 3, 4))
    assert (stale ^ fresh).all()
    assert 0.35 < stale.mean() < 0.65
    assert all((a.observation.proprio_BP == b.observation.proprio_BP).all() for a, b in zip(faulty, clean, strict=True))


def test_black_and_noisy_pictures_come_as_often_and_strong_as_asked() -> None:
    black = (frames(played(black=0.25)[0]) == 0).all(axis=(2, 3, 4))
    assert 0.12 < black.mean() < 0.38
    faulty, clean = played(noise=5.0)
    inside = (frames(clean) > 30) & (frames(clean) < 225)
    assert 4.0 < (frames(faulty).astype(float) - frames(clean))[inside].std() < 6.0


def test_a_held_step_moves_nothing_and_says_so() -> None:
    env = FaultyEnv(tiny_env(batch_size=3), Faults(held=1.0))
    env.reset("put the block on the plate", seed=0)
    action = np.full((3, 7), 0.02, np.float32)
    commanded = env.step(action).commanded_BA
    assert not commanded[:, :6].any()
    np.testing.assert_allclose(commanded[:, 6], 0.02)


def test_a_lost_link_is_the_error_that_a_lost_link_is() -> None:
    with pytest.raises(TransientBridgeError, match="after 3 steps"):
        played(lost_after=3)


def test_what_is_no_fault_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"no fault 'blck'.*'black'"):
        Faults.of({"blck": 0.1})
    with pytest.raises(ConfigError, match="frozen is a share"):
        Faults(frozen=2.0)
    with pytest.raises(ConfigError, match="noise must be at least 0"):
        Faults(noise=-1.0)
