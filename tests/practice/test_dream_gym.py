"""gymnasium.make() and make_vec() make dreams and replays of files alone, with a judge as their reward."""

from __future__ import annotations

import doctest
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from cloud_trainer import gym
from cloud_trainer.judge.learned import JudgeConfig, JudgeNetwork, LearnedJudge
from cloud_trainer.practice.judge_reward import JudgeReward
from cloud_trainer.world_model.dit.checkpoint import save_world_model
from cloud_trainer.world_model.dit.codec import CodecConfig
from gymnast_core.episodes import write_episode
from gymnast_core.errors import ConfigError, ContractError, TransientBridgeError
from gymnast_core.judge import Verdict
from gymnast_core.types import Outcome, RolloutBatch
from tests.cloud.learning_fakes import tiny_world_model
from tests.world_model.tiny import tiny_env, tiny_episode, tiny_model

STEPS = 4


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a user has on the disk: a world model, recorded episodes, a judge."""
    folder = tmp_path_factory.mktemp("dream")
    tiny_world_model().save(folder / "wm", parents=(), lineage={})
    LearnedJudge(JudgeNetwork(JudgeConfig(widths=(8, 8, 8), hidden=8))).save(folder / "judge")
    for seed in range(3):
        write_episode(folder / "episodes", tiny_episode(seed, size=64, instruction=f"do {seed}"), robot="wx250s")
    return {"checkpoint": folder / "wm", "episodes": folder / "episodes", "judge": folder / "judge"}


class Script:
    """A judge that finds of row b what its script says, and a score that grows with the length."""

    version = "script"

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = outcomes
        self.seen: list[RolloutBatch] = []

    def judge(self, rollouts: RolloutBatch) -> Sequence[Verdict]:
        self.seen.append(rollouts)
        scores = [0.1 * float(length) for length in rollouts.length_B]
        return [Verdict(self.outcomes[int(row)], s) for row, s in zip(rollouts.group_B, scores, strict=True)]


def test_the_plain_form_passes_gymnasiums_own_checker(files: dict[str, Any]) -> None:
    env = gymnasium.make("cloud_trainer.gym:gymnast/Dream-v0", render_mode="rgb_array", max_steps=STEPS, **files)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # advice on infinite bounds of proprioception
        check_env(env.unwrapped, skip_close_check=True)
    _, info = env.reset(seed=1)
    assert info["instruction"] in {"do 0", "do 1", "do 2"}
    for _ in range(STEPS):
        *_, truncated, info = env.step(env.action_space.sample())
    assert truncated
    assert info["outcome"] in {one.value for one in Outcome}
    env.close()


@pytest.mark.parametrize("architecture", ["dit", "compact"])
def test_the_example_in_the_docstring_runs(tmp_path: Path, architecture: str) -> None:
    if architecture == "dit":
        model = tiny_model()
        save_world_model(
            tmp_path / "wm", model.state_dict(), model.config, objective_name="v_prediction",
            codec_config=CodecConfig(kind="identity"),
        )  # fmt: skip
    else:
        tiny_world_model().save(tmp_path / "wm", parents=(), lineage={})
    names = {"checkpoint": tmp_path / "wm", "episodes": [tiny_episode(seed, size=64) for seed in range(2)]}
    example = doctest.DocTestParser().get_doctest(gym.__doc__ or "", names, "gym", None, 0)
    found = doctest.DocTestRunner().run(example)
    assert (found.attempted, found.failed) == (7, 0)


def dreams(files: dict[str, Any], judge: Any, **settings: Any) -> Any:
    where = {**files, "judge": judge, "max_steps": STEPS, **settings}
    return gymnasium.make_vec("cloud_trainer.gym:gymnast/Dream-v0", num_envs=3, **where)


def ended(env: Any) -> list[tuple[Any, ...]]:
    env.reset(seed=2)
    return [env.step(np.zeros((3, 7), np.float32)) for _ in range(STEPS)]


def test_success_alone_is_rewarded_and_at_the_end_alone(files: dict[str, Any]) -> None:
    judge = Script(Outcome.SUCCESS, Outcome.FAILURE, Outcome.ABSTAIN)
    env = dreams(files, judge)
    steps = ended(env)
    assert [step[1].tolist() for step in steps] == [[0.0] * 3] * (STEPS - 1) + [[1.0, 0.0, 0.0]]
    assert steps[-1][4]["outcome"].tolist() == ["success", "failure", "abstain"]
    (rollouts,) = judge.seen
    assert rollouts.frame_steps_F.tolist() == [0, STEPS]
    assert rollouts.actions_BTA.shape == (3, STEPS, 7)
    env.close()


def test_shaping_gives_on_the_way_what_the_last_step_takes_back(files: dict[str, Any]) -> None:
    """By hand: scores 0, .1, .2, .3 and then 0; undiscounted the rewards are .1, .1, .1 and outcome - .3."""
    env = dreams(files, Script(*[Outcome.SUCCESS] * 3), reward="shaped", discount=1.0)
    rewards = np.stack([step[1] for step in ended(env)])
    np.testing.assert_allclose(rewards, [[0.1] * 3] * 3 + [[0.7] * 3], atol=1e-6)
    with pytest.raises(ConfigError, match="reward must be one of"):
        JudgeReward(Script(), kind="dense")
    env.close()


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_rows_begin_again_as_gymnasium_says(files: dict[str, Any], mode: str) -> None:
    env = dreams(files, Script(*[Outcome.SUCCESS] * 3), autoreset_mode=mode)
    assert env.metadata["autoreset_mode"].value == mode
    first, _ = env.reset(seed=2)
    last = ended(env)[-1]
    assert last[3].all()
    if mode == "NextStep":
        assert "final_obs" not in last[4]
        observation, reward, _, truncated, info = env.step(np.zeros((3, 7), np.float32))
        assert not truncated.any()
        assert not reward.any()
    else:
        observation, info = last[0], last[4]
        assert info["final_obs"][2]["camera"].shape == (64, 64, 3)
        assert info["final_info"]["outcome"].tolist() == ["success"] * 3
    assert set(info["instruction"]) <= {"do 0", "do 1", "do 2"}
    assert not np.array_equal(observation["camera"], first["camera"])
    assert not env.step(np.zeros((3, 7), np.float32))[3].any()
    env.close()


def test_rows_that_end_apart_are_not_reset_by_themselves() -> None:
    episodes = [tiny_episode(seed, steps=2 + seed) for seed in range(2)]
    env = gymnasium.make_vec("gymnast/Replay-v0", num_envs=2, episodes=episodes, autoreset_mode="NextStep")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    with pytest.raises(ContractError, match="end apart"):
        env.step(env.action_space.sample())
    with pytest.raises(ConfigError, match="autoreset_mode must be one of"):
        gymnasium.make_vec("gymnast/Env-v0", num_envs=2, make_env=tiny_env, autoreset_mode="later")


def test_a_dream_that_begins_late_is_judged_from_the_episodes_first_frame(files: dict[str, Any]) -> None:
    judge = Script(*[Outcome.SUCCESS] * 3)
    env = dreams(files, judge, start_step=2, episodes=[tiny_episode(7, size=64)])
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(observation["camera"][0], tiny_episode(7, size=64).images["main"][2])
    assert [env.step(env.action_space.sample())[3].all() for _ in range(2)] == [False, True]
    np.testing.assert_array_equal(judge.seen[0].frames_BFHWC[0, 0], tiny_episode(7, size=64).images["main"][0])
    env.close()


def test_a_recording_is_replayed_with_faults(files: dict[str, Any]) -> None:
    where = {"episodes": files["episodes"], "faults": {"lost_after": 2}}
    env = gymnasium.make("cloud_trainer.gym:gymnast/Replay-v0", **where)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.step(env.action_space.sample())
    with pytest.raises(TransientBridgeError, match="on purpose"):
        env.step(env.action_space.sample())
    env.close()


def test_what_is_not_there_is_named(tmp_path: Path, files: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="no episodes"):
        dreams(files, None, episodes=tmp_path)
    with pytest.raises(ConfigError, match="0 episodes go on after step 30"):
        dreams(files, None, start_step=30, max_steps=40)
    with pytest.raises(ConfigError, match="as many episodes, got 3"):
        gymnasium.make_vec("gymnast/Replay-v0", num_envs=4, episodes=files["episodes"])
