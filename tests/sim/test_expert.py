"""The scripted expert does every task, and a mis-aimed one does not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from gymnast_core.errors import ContractError
from gymnast_core.types import Outcome
from gymnast_ros.sim.collect import LABELLED_BY, collect, evaluate
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.expert import ScriptedExpert
from gymnast_ros.sim.tasks import RESET_OF, RESETS, TASKS, task_for


@pytest.fixture(scope="module")
def env() -> Iterator[SimEnv]:
    env = SimEnv(image_size=64)
    yield env
    env.close()


def rates(env: SimEnv, seeds: range, **errors: object) -> dict[str, float]:
    expert = ScriptedExpert(env, rng=np.random.default_rng(0), **errors)  # type: ignore[arg-type]
    trials = evaluate(env, expert, seeds)
    return {name: float(np.mean([t.succeeded for t in trials if t.task == name])) for name in TASKS}


def test_expert_does_every_task(env: SimEnv) -> None:
    assert min(rates(env, range(20)).values()) >= 0.95


def test_expert_undoes_every_task_that_can_be_undone(env: SimEnv) -> None:
    trials = evaluate(env, ScriptedExpert(env), range(10), tasks=tuple(RESETS))
    for name in RESETS:
        assert np.mean([trial.succeeded for trial in trials if trial.task == name]) >= 0.9


@pytest.mark.parametrize(("forward", "backward"), RESET_OF.items())
def test_what_one_of_a_pair_leaves_is_where_the_other_begins(env: SimEnv, forward: str, backward: str) -> None:
    """From each start that task alone of the two can be begun; done, the other one can."""
    for name, other in ((forward, backward), (backward, forward)):
        for seed in range(3):
            env.reset(name, seed=seed)
            assert (name in env.ready(), other in env.ready()) == (True, False)
            collect(env, ScriptedExpert(env), name, [seed], frame_steps=())
            assert env.succeeded()
            assert task_for(other).ready(env.oracle())
            assert name not in env.ready()


@pytest.mark.slow
def test_expert_does_every_task_from_a_hundred_starts(env: SimEnv) -> None:
    assert min(rates(env, range(1000, 1100)).values()) >= 0.95


def test_one_centimetre_of_misaim_is_forgiven(env: SimEnv) -> None:
    assert min(rates(env, range(10), aim_offset_m=(0.01, 0.0)).values()) >= 0.9


@pytest.mark.parametrize("offset_m", [0.026, 0.031])
def test_three_centimetres_of_misaim_fail_every_task(env: SimEnv, offset_m: float) -> None:
    assert max(rates(env, range(10), aim_offset_m=(offset_m, 0.0)).values()) <= 0.35


def test_misaim_with_scatter_succeeds_now_and_then(env: SimEnv) -> None:
    overall = np.mean(list(rates(env, range(20), aim_offset_m=(0.026, 0.0), aim_noise_m=0.01).values()))
    assert 0.1 <= overall <= 0.45


def test_same_generator_gives_the_same_demonstration(env: SimEnv) -> None:
    def demonstrate() -> np.ndarray:
        expert = ScriptedExpert(env, aim_noise_m=0.01, action_noise_m=0.004, rng=np.random.default_rng(5))
        return collect(env, expert, "put", [1, 2], frame_steps=())[1].actions_TA

    np.testing.assert_array_equal(demonstrate(), demonstrate())


def test_expert_stays_within_the_step_limits(env: SimEnv) -> None:
    for name in TASKS:
        expert = ScriptedExpert(env, action_noise_m=0.01, rng=np.random.default_rng(0))
        observation = env.reset(name, seed=4)
        for _ in range(3):
            for action_BA in expert.act(observation, [name]).actions_BKA.transpose(1, 0, 2):
                result = env.step(action_BA)
                np.testing.assert_allclose(result.commanded_BA, action_BA, atol=1e-6)
            observation = result.observation


def test_expert_asked_in_the_middle_says_so(env: SimEnv) -> None:
    observation = env.reset("lift", seed=0)
    env.step(np.zeros((1, 7), np.float32))
    with pytest.raises(ContractError, match="step 0"):
        ScriptedExpert(env).act(observation, ["lift"])


def test_collected_episode_is_labelled_aligned_and_small(env: SimEnv) -> None:
    episode = collect(env, ScriptedExpert(env), "close the drawer", [12], frame_size=32)[0]
    assert episode.outcome is Outcome.SUCCESS
    assert episode.labelled_by == LABELLED_BY
    assert episode.images["over_shoulder"].shape == (16, 32, 32, 3)
    assert episode.actions_TA.shape == (15, 7)
    assert set(episode.policy_versions) == {"scripted-expert"}
    assert episode.metadata["task"] == "drawer"
    assert episode.metadata["seed"] == 12
    assert episode.metadata["scene"] == "standard"


def test_undrawn_frames_repeat_the_last_drawn_one(env: SimEnv) -> None:
    full, sparse = (
        collect(env, ScriptedExpert(env), "lift", [3], frame_steps=steps)[0].images["over_shoulder"]
        for steps in (None, (0, 5, 10, 15))
    )
    for step in range(16):
        np.testing.assert_array_equal(sparse[step], full[step - step % 5])


def test_outcome_of_a_failed_episode_is_failure(env: SimEnv) -> None:
    expert = ScriptedExpert(env, aim_offset_m=(0.031, 0.0))
    assert collect(env, expert, "lift", [3], frame_steps=())[0].outcome is Outcome.FAILURE
