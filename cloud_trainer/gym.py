"""Registers our environments with Gymnasium; importing it is enough, and imports no network.

>>> import gymnasium
>>> where = {"episodes": episodes, "checkpoint": checkpoint, "max_steps": 2}
>>> env = gymnasium.make_vec("cloud_trainer.gym:gymnast/Dream-v0", num_envs=4, **where)
>>> observation, info = env.reset(seed=0)
>>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
>>> observation["proprio"].shape, info["commanded"].shape, truncated.tolist()
((4, 7), (4, 7), [False, False, False, False])
>>> env.close()
"""

from __future__ import annotations

import gymnasium

DREAM, REPLAY, ANY = "gymnast/Dream-v0", "gymnast/Replay-v0", "gymnast/Env-v0"
_MADE = "cloud_trainer.practice.gym:"
_ENTRY_POINTS = {
    DREAM: (f"{_MADE}dream", f"{_MADE}dreams"),
    REPLAY: (f"{_MADE}replay", f"{_MADE}replays"),
    ANY: ("cloud_trainer.world_model.gym:GymnastGymEnv", f"{_MADE}several"),
}


def register() -> None:
    """Make the ids known to gymnasium.make and make_vec; may be called again.

    DREAM: a world model's checkpoint and recorded episodes (cloud_trainer.practice.gym.dream has the arguments).
    REPLAY: recorded episodes. ANY wraps any Env: make(ANY, env=...), make_vec(ANY, num_envs, make_env=...).
    """
    for name, (plain, vector) in _ENTRY_POINTS.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=plain, vector_entry_point=vector, disable_env_checker=True)


register()
