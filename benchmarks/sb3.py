"""Stable-Baselines3's PPO in a dream: `python -m benchmarks.sb3 EPISODES --out FILE`.

The last steps of a task in the shipped world model, reward by the shipped judge at the end alone. Before and after
training, the share of dreams that the judge finds successful, sampled from the policy, from starts it also trained on
but with seeds of their own. Needs `pip install stable-baselines3`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

import cloud_trainer.gym  # noqa: F401  (registers gymnast/Dream-v0)
from gymnast_core.episodes import read_episode
from gymnast_core.evaluation.statistics import wilson_interval
from gymnast_core.shipped import shipped_checkpoints
from gymnast_core.types import Outcome

ROWS = 32


def flat(seen: dict[str, Any]) -> np.ndarray:
    """Proprioception and every eighth pixel, (B, 199) float32: small enough for a processor without a GPU."""
    pixels = seen["camera"][..., ::8, ::8, :].astype(np.float32) / 255.0 - 0.5
    return np.concatenate([seen["proprio"], pixels.reshape(*seen["proprio"].shape[:-1], -1)], axis=-1)


class Rows(VecEnv):  # type: ignore[misc]
    """Gymnasium's vector interface in SameStep mode, as Stable-Baselines3 wants it; actions scaled to -1..1."""

    def __init__(self, env: gymnasium.vector.VectorEnv) -> None:
        self._env, self._high = env, env.single_action_space.high
        box = gymnasium.spaces.Box(-1.0, 1.0, (len(self._high),), np.float32)
        super().__init__(env.num_envs, gymnasium.spaces.Box(-np.inf, np.inf, (199,), np.float32), box)

    def reset(self) -> Any:
        """Begin all rows."""
        return self.begin(None)

    def begin(self, seed: int | None) -> np.ndarray:
        """Begin all rows, by a seed."""
        return flat(self._env.reset(seed=seed)[0])

    def step_async(self, actions: np.ndarray) -> None:
        """Remember what to do."""
        self._actions = np.clip(actions, -1, 1).astype(np.float32) * self._high

    def step_wait(self) -> Any:
        """Do it."""
        seen, reward, terminated, truncated, info = self._env.step(self._actions)
        done = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in done]
        for row in np.flatnonzero(done):
            infos[row] = {"terminal_observation": flat(info["final_obs"][row]), "TimeLimit.truncated": False}
        return flat(seen), reward, done, infos

    def close(self) -> None:
        """Close the dreams."""
        self._env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """One value for all rows."""
        return [getattr(self._env, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Nothing can be set."""

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Nothing can be called."""
        return []

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Nothing is wrapped."""
        return [False] * self.num_envs


def successes(model: PPO, env: Rows, batches: int, seed: int) -> list[bool]:
    """Whether each of batches x ROWS dreams succeeds, the policy sampled."""
    won: list[bool] = []
    seen = env.begin(seed)
    while len(won) < batches * ROWS:
        actions, _ = model.predict(seen, deterministic=False)
        seen, reward, done, _ = env.step(actions)
        if done.all():
            won += (reward > 0).tolist()
    return won


def share(won: Sequence[bool]) -> dict[str, Any]:
    """Successes with their 95 % Wilson interval."""
    interval = wilson_interval(sum(won), len(won))
    return {"successes": sum(won), "of": len(won), "interval": [round(interval.low, 3), round(interval.high, 3)]}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("episodes", type=Path, help="folder of recorded episodes")
    parser.add_argument("--task", default="lift the red cube")
    parser.add_argument("--start-step", type=int, default=9)
    parser.add_argument("--steps", type=int, default=6_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    read = (read_episode(path) for path in sorted(args.episodes.glob("*.mcap")))
    episodes = [one for one in read if one.instruction == args.task and one.outcome is Outcome.SUCCESS][:24]
    shipped = shipped_checkpoints()
    env = Rows(gymnasium.make_vec(
        "gymnast/Dream-v0", num_envs=ROWS, checkpoint=shipped / "world_model", judge=shipped / "judge",
        episodes=episodes, start_step=args.start_step, autoreset_mode="SameStep", seed=args.seed,
    ))  # fmt: skip
    model = PPO("MlpPolicy", env, n_steps=6, batch_size=64, n_epochs=6, learning_rate=1e-3, gamma=1.0,
                ent_coef=0.0, seed=args.seed, policy_kwargs={"log_std_init": -0.7})  # fmt: skip
    began = time.process_time()
    before = successes(model, env, 3, seed=10_000)
    model.learn(args.steps)
    after = successes(model, env, 3, seed=20_000)
    table = {
        "task": args.task, "start_step": args.start_step, "starts": len(episodes), "steps": model.num_timesteps,
        "seed": args.seed, "before": share(before), "after": share(after),
        "cpu_s": round(time.process_time() - began, 1),
    }  # fmt: skip
    args.out.write_text(json.dumps(table, indent=1))
    print(json.dumps(table))


if __name__ == "__main__":
    main()
