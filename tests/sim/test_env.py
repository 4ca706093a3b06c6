"""The simulated arm keeps the environment contract, repeats itself exactly, and holds its limits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from gymnast_core.arm.targets import DEFAULT_ROTATION, commanded_proprioception
from gymnast_core.errors import ContractError, EpisodeOverError
from gymnast_core.spec import WIDOWX_250S
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.expert import ScriptedExpert
from gymnast_ros.sim.scene import NOVEL_SCENES
from tests.contracts.env_contract import EnvContract


class TestSimEnvKeepsTheContract(EnvContract):
    def make_env(self) -> SimEnv:
        return SimEnv(image_size=64)


@pytest.fixture
def env() -> Iterator[SimEnv]:
    env = SimEnv(image_size=64)
    yield env
    env.close()


def moved(x: float = 0.0, y: float = 0.0, z: float = 0.0, *, yaw: float = 0.0, gripper: float = 1.0) -> np.ndarray:
    return np.array([[x, y, z, 0.0, 0.0, yaw, gripper]], np.float32)


def test_same_seed_gives_same_state_and_pixels_in_another_instance(env: SimEnv) -> None:
    other = SimEnv(image_size=64)
    for each in (env, other):
        each.reset("lift", seed=7)
    for step in range(6):
        action_BA = np.random.default_rng(step).uniform(-0.04, 0.04, (1, 7)).astype(np.float32)
        one, two = env.step(action_BA), other.step(action_BA)
        assert env.state_digest() == other.state_digest()
        np.testing.assert_array_equal(one.observation.proprio_BP, two.observation.proprio_BP)
    np.testing.assert_array_equal(one.observation.images["over_shoulder"], two.observation.images["over_shoulder"])
    other.close()


def test_rehoming_brings_the_arm_home_and_leaves_the_rest_where_it_is(env: SimEnv) -> None:
    """What the arm held falls, and the next episode counts from there; the expert lifts it from there again."""
    with pytest.raises(EpisodeOverError, match="no scene to keep"):
        env.rehome("lift", seed=7)
    start = env.reset("lift", seed=7)
    laid_out, expert = env.oracle(), ScriptedExpert(env)
    for again in (False, True):
        observation = env.rehome("lift", seed=7) if again else start
        here = env.oracle()
        np.testing.assert_allclose(observation.proprio_BP, start.proprio_BP, atol=2e-3)
        assert abs(here.red_cube_X[2] - laid_out.red_cube_X[2]) < 1e-3, "it lies on the table"
        assert (here.step, env.succeeded(), env.success_step) == (0, False, None)
        moved_m = np.abs(here.red_cube_X[:2] - laid_out.red_cube_X[:2]).max()
        assert (0.0 < moved_m < 0.05) if again else moved_m == 0.0
        done = False
        while not done:
            for action_BA in np.moveaxis(expert.act(observation, ["lift"]).actions_BKA, 1, 0):
                result = env.step(action_BA)
                observation, done = result.observation, bool(result.done_B.all())
                if done:
                    break
        assert env.succeeded()
        assert env.oracle().red_cube_X[2] > 0.07, "it is held up when it ends"


def test_digest_depends_on_seed_task_and_action(env: SimEnv) -> None:
    digests = set()
    for instruction, seed, action_BA in (
        ("lift", 1, moved()),
        ("lift", 2, moved()),
        ("push", 1, moved()),
        ("lift", 1, moved(z=0.01)),
    ):
        env.reset(instruction, seed=seed)
        env.step(action_BA)
        digests.add(env.state_digest())
    assert len(digests) == 4


def test_looking_does_not_change_the_world(env: SimEnv) -> None:
    digests = []
    for look in (False, True):
        env.reset("push", seed=5)
        for _ in range(4):
            result = env.step(moved(0.01, -0.02, -0.02))
            if look:
                assert result.observation.images["over_shoulder"].any()
        digests.append(env.state_digest())
    assert digests[0] == digests[1]


def test_start_is_gripper_down_open_and_where_proprioception_says(env: SimEnv) -> None:
    proprio_P = env.reset("lift", seed=11).proprio_BP[0]
    np.testing.assert_allclose(proprio_P[3:6], 0.0, atol=2e-3)
    assert proprio_P[6] == 1.0
    np.testing.assert_allclose(proprio_P[:3], env.oracle().target_X, atol=2e-4)


def test_arm_lags_its_commands_a_little_and_settles_on_them(env: SimEnv) -> None:
    start_P = env.reset("lift", seed=2).proprio_BP[0]
    rng = np.random.default_rng(0)
    actions = rng.uniform(-0.03, 0.03, (14, 7)).astype(np.float32)
    actions[:, 2] = np.abs(actions[:, 2]) * 0.3
    actions[:, 3:6], actions[:, 6] = 0.0, 1.0
    actions[12:, :3] = 0.0
    results = [env.step(action_A[None]) for action_A in actions]
    told = np.stack([result.commanded_BA[0] for result in results])
    poses = commanded_proprioception(start_P[None], told[None])[0]
    measured = np.stack([result.observation.proprio_BP[0] for result in results])
    behind_m = np.abs(measured[:, :3] - poses[1:, :3]).max(axis=1)
    assert behind_m.max() < 0.015
    assert behind_m[-1] < 0.001


def test_step_beyond_the_limits_is_cut_and_logged(env: SimEnv) -> None:
    env.reset("lift", seed=3)
    before = env.oracle().target_X
    told_A = env.step(moved(0.2, -0.3, 0.01, yaw=1.0, gripper=7.0)).commanded_BA[0]
    np.testing.assert_allclose(told_A, [0.05, -0.05, 0.01, 0.0, 0.0, 0.25, 1.0], atol=1e-6)
    np.testing.assert_allclose(env.oracle().target_X - before, told_A[:3], atol=1e-6)


def test_target_stops_at_the_workspace(env: SimEnv) -> None:
    env.reset("lift", seed=3)
    for _ in range(10):
        told_A = env.step(moved(y=0.05)).commanded_BA[0]
    assert env.oracle().target_X[1] == pytest.approx(WIDOWX_250S.workspace_high_m[1])
    assert told_A[1] == pytest.approx(0.0, abs=1e-6)


def test_unreachable_pose_holds_the_arm(env: SimEnv) -> None:
    env.reset("lift", seed=3)
    for _ in range(12):
        result = env.step(moved(0.05, 0.05, 0.05))
    # Gripper-down at the far upper corner is out of reach, so the last commands did not move the target.
    assert result.commanded_BA[0, :3].tolist() == [0.0, 0.0, 0.0]
    assert (env.oracle().target_X < np.array(WIDOWX_250S.workspace_high_m) - 0.01).any()
    np.testing.assert_allclose(result.observation.proprio_BP[0, :3], env.oracle().target_X, atol=3e-3)


def test_gripper_closes_and_opens(env: SimEnv) -> None:
    env.reset("lift", seed=3)
    assert [env.step(moved(gripper=0.0)) for _ in range(2)][-1].observation.proprio_BP[0, 6] < 0.05
    assert [env.step(moved(gripper=1.0)) for _ in range(2)][-1].observation.proprio_BP[0, 6] > 0.95


def test_unknown_instruction_is_refused_with_the_known_ones(env: SimEnv) -> None:
    with pytest.raises(ContractError, match="close the drawer"):
        env.reset("make coffee", seed=0)


def test_nothing_is_done_by_an_idle_arm(env: SimEnv) -> None:
    for task in ("lift", "push", "put", "drawer"):
        env.reset(task, seed=1)
        for _ in range(env.spec.max_steps):
            env.step(moved())
        assert not env.succeeded(), task
        assert env.success_step is None


@pytest.mark.parametrize("name", NOVEL_SCENES)
def test_novel_scene_looks_different_but_moves_alike(env: SimEnv, name: str) -> None:
    novel = SimEnv(NOVEL_SCENES[name], image_size=64)
    frames = [each.reset("put", seed=6).images["over_shoulder"].astype(int) for each in (env, novel)]
    assert np.abs(frames[0] - frames[1]).mean() > 0.2
    np.testing.assert_array_equal(env.oracle().red_cube_X, novel.oracle().red_cube_X)
    novel.close()


def test_default_rotation_points_the_gripper_down() -> None:
    np.testing.assert_array_equal(DEFAULT_ROTATION @ [1.0, 0.0, 0.0], [0.0, 0.0, -1.0])


def test_at_50_hz_ten_steps_lead_where_one_does_at_5_and_take_as_long():
    reached, times_ns = [], []
    for rate_hz, parts in ((5.0, 1), (50.0, 10)):
        env = SimEnv(rate_hz=rate_hz)
        env.reset("lift the red cube", seed=3)
        action = np.array([[0.02, 0.01, -0.01, 0, 0, 0, 1]], np.float32)
        action[:, :6] /= parts
        for _ in range(5 * parts):
            result = env.step(action)
        reached.append(result.observation.proprio_BP[0, :3])
        times_ns.append(int(result.observation.time_ns_B[0]))
        assert env.spec.max_steps == 15 * parts
        env.close()
    assert times_ns == [1_000_000_000] * 2
    np.testing.assert_allclose(reached[0], reached[1], atol=0.003)
