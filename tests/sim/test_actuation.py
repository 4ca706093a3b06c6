"""Arms that err: what they do to a command, what is recorded of it, and that one who knows makes up for it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from gymnast_core.errors import ShapeError
from gymnast_core.rollout import run_episode
from gymnast_ros.sim.actuation import ActuatedEnv, Actuation, ActuationRange, CompensatingExpert
from gymnast_ros.sim.env import SimEnv
from tests.contracts.env_contract import EnvContract

HARD = ActuationRange(aim_offset_m=(0.015, 0.015), gain=(0.75, 1.25))
LIFT = "lift the red cube"


@pytest.fixture(scope="module")
def env() -> Iterator[ActuatedEnv]:
    env = ActuatedEnv(SimEnv(max_steps=30, image_size=64), HARD)
    yield env
    env.close()


class TestActuatedEnv(EnvContract):
    instruction = LIFT

    def make_env(self) -> ActuatedEnv:
        return ActuatedEnv(SimEnv(image_size=64), ActuationRange())


def test_a_command_made_for_an_arm_takes_it_where_it_was_wanted() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        arm, wanted_X = ActuationRange().draw(rng), rng.uniform(-0.02, 0.02, 3)
        np.testing.assert_allclose(arm.moved(arm.commanded(wanted_X, 0.05), 0.05), wanted_X, atol=1e-5)
    assert not Actuation((0.02, 0.0), 0.7).moved(np.zeros(3), 0.05).any(), "an arm that holds does not move"


def test_every_episode_has_its_own_arm_and_the_same_seed_the_same(env: ActuatedEnv) -> None:
    arms = []
    for seed in (1, 2, 1):
        env.reset(LIFT, seed=seed)
        arms.append(env.actuation)
    assert arms[0] == arms[2] != arms[1]
    assert all(abs(np.hypot(*arm.aim_offset_m) - 0.015) < 1e-9 for arm in arms)


def test_a_late_arm_holds_first_and_what_is_recorded_is_what_was_asked(env: ActuatedEnv) -> None:
    seed = next(s for s in range(99) if HARD.draw(np.random.default_rng([s, 16])).latency_steps == 2)
    before = env.reset(LIFT, seed=seed).proprio_BP[0, :3]
    action = np.array([[0.03, 0.0, 0.0, 0, 0, 0, 1]], np.float32)
    results = [env.step(action) for _ in range(4)]
    travelled = [float(np.linalg.norm(r.observation.proprio_BP[0, :3] - before)) for r in results]
    assert max(travelled[:2]) < 0.003 < 0.01 < travelled[3]
    for result in results:
        np.testing.assert_array_equal(result.commanded_BA, action)
    with pytest.raises(ShapeError):
        env.step(action[0])


def test_an_operator_who_knows_the_arm_does_what_one_who_does_not_cannot(env: ActuatedEnv) -> None:
    done = {}
    for name, knows_from in (("knows", 5), ("does not", 99)):
        won = []
        for seed in range(24):
            expert = CompensatingExpert(env, knows_from=knows_from, rng=np.random.default_rng(seed))
            run_episode(env, expert, LIFT, seed=seed)
            won.append(env.inner.succeeded())
        done[name] = sum(won)
    assert done["knows"] >= 20, done
    assert done["does not"] <= 14, done


def test_friction_is_of_the_episode(env: ActuatedEnv) -> None:
    model = env.inner._model
    seen = set()
    for seed in (1, 2, 1):
        env.reset(LIFT, seed=seed)
        seen.add((seed, round(float(model.geom_friction.max()), 6)))
    assert len(seen) == 2
    assert len({friction for _, friction in seen}) == 2
