"""Any Gymnasium environment is one of ours by a file that says what its numbers mean."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gymnast_core.errors import ConfigError, EnvLostError
from gymnast_core.foreign.env import GymnasiumEnv, make_gymnasium
from gymnast_core.foreign.mapping import GymnasiumMapping, read_mapping
from tests.contracts.env_contract import EnvContract
from tests.core.toy_gymnasium import MAPPING

TOY = "tests.core.toy_gymnasium:toy/Reach-v0"


def toy(rows: int = 1, **changes: Any) -> GymnasiumEnv:
    return make_gymnasium(TOY, GymnasiumMapping(**{**MAPPING, **changes}), rows=rows)


class TestGymnasiumEnv(EnvContract):
    instruction = MAPPING["instruction"]

    def make_env(self) -> GymnasiumEnv:
        return toy(rows=3)


def test_units_are_those_of_the_mapping() -> None:
    """By hand: 0.04 m are 0.4 of its units in two steps of 0.2, which move it by 0.02 m each."""
    env = toy()
    before = env.reset("reach the goal", seed=0).proprio_BP[0]
    result = env.step(np.array([[0.04, 0, 0, 0.2, 0, 0, 0.0]], np.float32))
    after = result.observation.proprio_BP[0]
    np.testing.assert_allclose(after[:3] - before[:3], [0.04, 0, 0], atol=1e-6)
    assert (before[6], after[6]) == (1.0, 0.0)
    np.testing.assert_allclose(result.commanded_BA[0], [0.04, 0, 0, 0, 0, 0, 0], atol=1e-7)
    assert result.observation.time_ns_B.tolist() == [200_000_000]
    assert -0.6 < before[2] - 0.5 < 0.6


def test_what_does_not_fit_into_its_box_is_not_commanded() -> None:
    env = toy(max_translation_m=0.5)
    env.reset("reach the goal", seed=0)
    commanded = env.step(np.array([[0.5, -0.5, 0.1, 0, 0, 0, 1]], np.float32)).commanded_BA[0]
    np.testing.assert_allclose(commanded[:3], [0.2, -0.2, 0.1], atol=1e-6)


def test_success_is_what_the_environment_calls_so_and_may_end_the_episode() -> None:
    for ends in (False, True):
        env = toy(ends_with_success=ends)
        place = env.reset("reach the goal", seed=1).proprio_BP[0, :3] - [0, 0, 0.5]
        assert env.succeeded() == [False]
        step = np.zeros((1, 7), np.float32)
        step[0, :3] = -place / 2
        result = env.step(step)
        while not env.succeeded()[0]:
            result = env.step(step)
        assert result.terminated_B.tolist() == [ends]


def test_pictures_are_drawn_as_rarely_as_asked() -> None:
    env = toy(image="render", draw_every=3, make={"render_mode": "rgb_array"})
    frames = [env.reset("reach the goal", seed=0).images["front"]]
    for _ in range(5):
        frames.append(env.step(np.array([[0.05, 0, 0, 0, 0, 0, 1]], np.float32)).observation.images["front"])
    changed = [bool((a != b).any()) for a, b in pairwise(frames)]
    assert changed == [False, False, True, False, True]  # the fifth is the last


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"action": [{"of": "dx"}]}, r"takes \(4,\) numbers, \[\[action\]\] has 1"),
        ({"proprioception": ["state[0]"]}, "needs 7 numbers, got 1"),
        ({"proprioception": ["state[9]"] * 7}, r"'state\[9\]': there is an array \(4,\)"),
        ({"proprioception": ["pose[0]"] * 7}, r"has no 'pose'; there is \['pixels', 'state'\]"),
        ({"proprioception": ["state"] * 7}, r"name one number: state\[0\]"),
        ({"image": "state"}, "not RGB uint8"),
        ({"image": "render"}, "not RGB uint8"),
        ({"make": {"colour": 1}}, "cannot make"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        toy(**changes)


def test_a_success_that_nobody_reports_and_another_task_are_refused() -> None:
    env = toy(success="info.won")
    env.reset("reach the goal", seed=0)
    with pytest.raises(ConfigError, match=r"none of \['info.success', 'terminated'"):
        env.step(np.zeros((1, 7), np.float32))
    with pytest.raises(ConfigError, match="task is 'reach the goal', not 'fly'"):
        env.reset("fly", seed=0)


def test_a_setting_that_does_not_exist_is_named_and_a_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown settings"):
        GymnasiumMapping(**{**MAPPING, "instructions": "x"})
    path = tmp_path / "toy.toml"
    path.write_text(
        'instruction = "go"\nproprioception = ["[0]", 0, {at = "[1]", scale = 2}, 0, 0, 0, 1]\n[[action]]\nof = "dx"\n'
    )
    assert read_mapping(path).action[0].of == "dx"


def test_an_environment_that_raises_ends_its_episode_with_the_reason() -> None:
    env = toy(make={"fault": "raises"})
    env.reset("reach the goal", seed=0)
    env.step(np.zeros((1, 7), np.float32))
    with pytest.raises(EnvLostError, match="the physics exploded"):
        env.step(np.zeros((1, 7), np.float32))
