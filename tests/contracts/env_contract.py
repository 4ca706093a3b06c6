"""What every gymnast_core.env.Env must do. Inherit EnvContract, override make_env, and its tests run on yours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gymnast_core.env import Env
from gymnast_core.errors import ActionOutOfBoundsError, ContractError, EpisodeOverError, ShapeError
from gymnast_core.types import Observation, StepResult


def frozen(observation: Observation) -> dict[str, np.ndarray]:
    """Everything one observation holds, copied, so that it can be compared later."""
    arrays = {f"image/{camera}": np.array(observation.images[camera]) for camera in observation.images}
    return {**arrays, "proprio": observation.proprio_BP.copy(), "time": observation.time_ns_B.copy()}


def assert_same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


class EnvContract:
    """Inherit as `class TestMyEnv(EnvContract)` and override make_env; the attributes say what your env can do."""

    instruction = "lift the red cube"
    """An instruction the environment takes."""
    seeds = (3, 4)
    """Two seeds that start differently, unless seeds_matter is False."""
    seeds_matter = True
    """False for a replay, whose start is the recorded one whatever the seed."""
    actions_matter = True
    """False for a replay, which shows what was recorded whatever is commanded."""

    def make_env(self) -> Env:
        raise NotImplementedError("override make_env() with a factory of the environment under test")

    @pytest.fixture
    def env(self) -> Iterator[Env]:
        env = self.make_env()
        yield env
        env.close()

    def action(self, env: Env, *, step: int = 0) -> np.ndarray:
        """A small legal action, another one every step, (B, 7) float32."""
        rng = np.random.default_rng(100 + step)
        action_BA = rng.uniform(-0.01, 0.01, (env.spec.batch_size, 7))
        action_BA[:, 3:6] = 0.0
        action_BA[:, 6] = 1.0
        return action_BA.astype(np.float32)

    def play(self, env: Env, steps: int, *, seed: int | None = None) -> list[StepResult]:
        env.reset(self.instruction, seed=self.seeds[0] if seed is None else seed)
        return [env.step(self.action(env, step=step)) for step in range(steps)]

    def check_observation(self, env: Env, observation: Observation) -> None:
        spec = env.spec
        assert tuple(observation.images) == spec.cameras
        for camera in spec.cameras:
            frames = observation.images[camera]
            assert frames.shape == (spec.batch_size, spec.image_height, spec.image_width, 3)
            assert frames.dtype == np.uint8
        assert observation.proprio_BP.shape == (spec.batch_size, 7)
        assert observation.proprio_BP.dtype == np.float32
        assert np.isfinite(observation.proprio_BP).all()
        assert observation.time_ns_B.shape == (spec.batch_size,)
        assert observation.time_ns_B.dtype == np.int64

    def test_first_observation_has_the_shapes_the_spec_promises(self, env: Env) -> None:
        self.check_observation(env, env.reset(self.instruction, seed=self.seeds[0]))

    def test_step_result_has_the_shapes_the_spec_promises(self, env: Env) -> None:
        (result,) = self.play(env, 1)
        self.check_observation(env, result.observation)
        batch = env.spec.batch_size
        assert result.terminated_B.shape == result.truncated_B.shape == (batch,)
        assert result.terminated_B.dtype == result.truncated_B.dtype == np.bool_
        assert result.commanded_BA.shape == (batch, 7)
        assert result.commanded_BA.dtype == np.float32

    def test_unknown_camera_is_a_key_error(self, env: Env) -> None:
        observation = env.reset(self.instruction, seed=self.seeds[0])
        with pytest.raises(KeyError):
            observation.images["no_such_camera"]

    def test_one_instruction_per_row_is_the_same_as_one_for_all(self, env: Env) -> None:
        one = frozen(env.reset(self.instruction, seed=self.seeds[0]))
        assert_same(one, frozen(env.reset([self.instruction] * env.spec.batch_size, seed=self.seeds[0])))

    def test_wrong_number_of_instructions_is_refused(self, env: Env) -> None:
        with pytest.raises(ContractError):
            env.reset([self.instruction] * (env.spec.batch_size + 1), seed=self.seeds[0])

    def test_blank_instruction_is_refused(self, env: Env) -> None:
        with pytest.raises(ContractError):
            env.reset("  ", seed=self.seeds[0])

    def test_step_before_reset_is_refused(self, env: Env) -> None:
        with pytest.raises(EpisodeOverError):
            env.step(self.action(env))

    def test_same_seed_and_actions_give_the_same_observations(self, env: Env) -> None:
        first = [frozen(result.observation) for result in self.play(env, 3)]
        second = [frozen(result.observation) for result in self.play(env, 3)]
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)

    def test_another_seed_starts_elsewhere(self, env: Env) -> None:
        if not self.seeds_matter:
            pytest.skip("this environment has one start")
        first, second = (frozen(env.reset(self.instruction, seed=seed)) for seed in self.seeds)
        assert any(not np.array_equal(first[name], second[name]) for name in first if name != "time")

    def test_actions_move_the_arm(self, env: Env) -> None:
        if not self.actions_matter:
            pytest.skip("this environment shows what was recorded")
        still = np.zeros((env.spec.batch_size, 7), np.float32)
        still[:, 6] = 1.0
        up = still.copy()
        up[:, 2] = 0.03
        env.reset(self.instruction, seed=self.seeds[0])
        rested = env.step(still).observation.proprio_BP
        env.reset(self.instruction, seed=self.seeds[0])
        raised = env.step(up).observation.proprio_BP
        assert (raised[:, 2] - rested[:, 2] > 0.01).all()

    def test_legal_action_is_executed_as_asked(self, env: Env) -> None:
        if not self.actions_matter:
            pytest.skip("this environment shows what was recorded")
        action_BA = self.action(env)
        env.reset(self.instruction, seed=self.seeds[0])
        np.testing.assert_allclose(env.step(action_BA).commanded_BA, action_BA, atol=1e-6)

    def test_step_leaves_the_action_array_alone(self, env: Env) -> None:
        env.reset(self.instruction, seed=self.seeds[0])
        action_BA = self.action(env)
        asked = action_BA.copy()
        env.step(action_BA)
        np.testing.assert_array_equal(action_BA, asked)

    def test_later_steps_leave_earlier_observations_alone(self, env: Env) -> None:
        first = env.reset(self.instruction, seed=self.seeds[0])
        copy = frozen(first)
        env.step(self.action(env, step=0))
        env.step(self.action(env, step=1))
        assert_same(copy, frozen(first))

    def test_frame_looked_at_late_shows_its_own_step(self, env: Env) -> None:
        at_once = [frozen(result.observation) for result in self.play(env, 2)]
        results = self.play(env, 2)
        for copy, result in zip(at_once, results, strict=True):
            assert_same(copy, frozen(result.observation))

    def test_time_advances_with_every_step(self, env: Env) -> None:
        before = env.reset(self.instruction, seed=self.seeds[0]).time_ns_B.copy()
        for step in range(2):
            after = env.step(self.action(env, step=step)).observation.time_ns_B
            assert (after > before).all()
            before = after.copy()

    @pytest.mark.parametrize("wrong", ["rows", "columns", "dtype"])
    def test_wrong_action_array_is_refused(self, env: Env, wrong: str) -> None:
        batch = env.spec.batch_size
        arrays: dict[str, Any] = {
            "rows": np.zeros((batch + 1, 7), np.float32),
            "columns": np.zeros((batch, 6), np.float32),
            "dtype": np.zeros((batch, 7), np.float64),
        }
        env.reset(self.instruction, seed=self.seeds[0])
        with pytest.raises(ShapeError):
            env.step(arrays[wrong])

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_action_that_is_not_finite_is_refused_and_changes_nothing(self, env: Env, value: float) -> None:
        clean = frozen(self.play(env, 1)[0].observation)
        env.reset(self.instruction, seed=self.seeds[0])
        bad = self.action(env)
        bad[0, 2] = value
        with pytest.raises(ActionOutOfBoundsError):
            env.step(bad)
        assert_same(clean, frozen(env.step(self.action(env)).observation))

    def test_episode_ends_at_max_steps_and_finished_rows_freeze(self, env: Env) -> None:
        env.reset(self.instruction, seed=self.seeds[0])
        done_B = np.zeros(env.spec.batch_size, bool)
        held: dict[str, np.ndarray] = {}
        for step in range(env.spec.max_steps):
            result = env.step(self.action(env, step=step))
            now = frozen(result.observation)
            assert not (done_B & ~result.done_B).any(), "a finished row came back to life"
            for name, value in held.items():
                np.testing.assert_array_equal(now[name][done_B], value[done_B], err_msg=name)
            done_B, held = result.done_B.copy(), now
            if done_B.all():
                break
        assert done_B.all()

    def test_finished_episode_refuses_steps_until_reset(self, env: Env) -> None:
        env.reset(self.instruction, seed=self.seeds[0])
        for step in range(env.spec.max_steps):
            if env.step(self.action(env, step=step)).done_B.all():
                break
        with pytest.raises(EpisodeOverError):
            env.step(self.action(env))
        self.check_observation(env, env.reset(self.instruction, seed=self.seeds[1]))
        assert not env.step(self.action(env)).done_B.all()

    def test_close_twice_is_safe(self) -> None:
        env = self.make_env()
        env.reset(self.instruction, seed=self.seeds[0])
        env.close()
        env.close()
