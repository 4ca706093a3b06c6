from __future__ import annotations

import numpy as np
import pytest

from gymnast_core.errors import ConfigError
from gymnast_core.replay_env import ReplayEnv
from tests.contracts.env_contract import EnvContract
from tests.world_model.tiny import tiny_episode


class TestReplayEnv(EnvContract):
    seeds_matter = actions_matter = False

    def make_env(self) -> ReplayEnv:
        return ReplayEnv([tiny_episode(seed, steps=steps) for seed, steps in ((0, 5), (1, 8), (2, 3))])


def test_it_shows_what_was_recorded_and_ends_where_that_ends() -> None:
    episodes = [tiny_episode(0, steps=2), tiny_episode(1, steps=3)]
    env = ReplayEnv(episodes)
    env.reset("whatever", seed=0)
    for step in range(3):
        result = env.step(np.zeros((2, 7), np.float32))
        assert result.truncated_B.tolist() == [step >= 1, step >= 2]
        np.testing.assert_array_equal(result.commanded_BA[1], episodes[1].actions_TA[step])
        np.testing.assert_array_equal(result.observation.images["main"][1], episodes[1].images["main"][step + 1])
    np.testing.assert_array_equal(result.observation.proprio_BP[0], episodes[0].proprio_TP[2])
    assert not result.commanded_BA[0].any()


def test_episodes_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="no episodes"):
        ReplayEnv([])
    with pytest.raises(ConfigError, match="one image size"):
        ReplayEnv([tiny_episode(0), tiny_episode(1, size=16)])
    with pytest.raises(ConfigError, match="tiny-3 has no steps"):
        ReplayEnv([tiny_episode(3, steps=0)])
