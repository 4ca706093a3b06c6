"""The world keeps the environment's contract, and a robot whose world it is records episodes in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from examples.installing import Terminal
from examples.my_policy.my_policy import save
from examples.my_simulator.my_simulator import TASK, Dots
from gymnast_core.episodes import read_episode
from gymnast_core.types import Outcome
from tests.contracts.env_contract import EnvContract

HERE = Path(__file__).parent


class TestDots(EnvContract):
    instruction = TASK

    def make_env(self) -> Dots:
        return Dots(max_steps=5)


def test_an_episode_succeeds_when_the_gripper_comes_to_the_dot() -> None:
    world = Dots()
    world.reset(TASK, seed=3)
    for _ in range(world.spec.max_steps):
        action = np.zeros((1, 7), np.float32)
        action[0, :2] = np.clip(world._dot_X - world.arm_target()[0].position_m[:2], -0.03, 0.03)
        world.step(action)
    assert world.succeeded()


def test_a_robot_records_episodes_in_it_with_a_policy_of_my_own(terminal: Terminal) -> None:
    """`gymnast up` and `gymnast collect`, both packages installed as a user installs them. Slow: it starts a robot."""
    manifest = save(terminal.folder / "policy", (0.26, 0.0, 0.15))
    up = ("up", "--robot", "sim", "--parameters", str(HERE / "robot.yaml"), "--policy", "policy", "--folder", "robot")
    terminal.start(*up).wait_for("ready; one episode", 90.0)
    terminal.run("collect", "--tasks", TASK, "--count", "2", "--keep-local")
    episodes = [read_episode(path) for path in (terminal.folder / "robot" / "spool" / "pending").glob("*.mcap")]
    assert [episode.instruction for episode in episodes] == [TASK, TASK]
    assert {version for episode in episodes for version in episode.policy_versions} == {manifest.id}
    assert {episode.outcome for episode in episodes} <= {Outcome.SUCCESS, Outcome.FAILURE}
