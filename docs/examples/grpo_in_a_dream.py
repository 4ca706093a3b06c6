"""GRPO in a dream: python docs/examples/grpo_in_a_dream.py EPISODES WORLD_MODEL JUDGE [ITERATIONS] [START_STEP]."""

import sys
from pathlib import Path

import gymnasium
import numpy as np
import torch

import cloud_trainer.gym  # noqa: F401  (registers gymnast/Dream-v0)

folder, checkpoint, judge = map(Path, sys.argv[1:4])
iterations, start_step = (int(word) for word in [*sys.argv[4:], "20", "9"][:2])
parts = {"checkpoint": checkpoint, "judge": judge, "start_step": start_step, "autoreset_mode": "Disabled"}
files = sorted(folder.glob("*.mcap"))[:4]  # a group is many dreams of one start: here, of one episode
groups = [gymnasium.make_vec("gymnast/Dream-v0", num_envs=16, episodes=file, **parts) for file in files]
box = groups[0].single_action_space
policy = torch.nn.Sequential(torch.nn.Linear(7 + 192, 64), torch.nn.Tanh(), torch.nn.Linear(64, 7))
log_std = torch.nn.Parameter(torch.full((7,), -1.0))
optimizer = torch.optim.Adam([*policy.parameters(), log_std], lr=3e-3)


def rollout(env: gymnasium.vector.VectorEnv, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One group: log-probabilities (N,) of its rollouts, and the judge's rewards (N,)."""
    observation, _ = env.reset(seed=seed)
    log_probs, done = torch.zeros(env.num_envs), False
    while not done:
        seen = observation["camera"][:, ::8, ::8].reshape(env.num_envs, -1) / 255.0 - 0.5
        seen = torch.as_tensor(np.concatenate([observation["proprio"], seen], axis=1), dtype=torch.float32)
        normal = torch.distributions.Normal(policy(seen), log_std.exp())
        drawn = normal.sample()
        log_probs = log_probs + normal.log_prob(drawn).sum(-1)
        observation, reward, _, truncated, _ = env.step(np.clip(drawn.numpy(), -1, 1) * box.high)
        done = truncated.all()
    return log_probs, torch.as_tensor(reward)


for iteration in range(iterations):
    outcomes = [rollout(env, seed=iteration) for env in groups]
    scored = [(logs, (won - won.mean()) / (won.std() + 1e-6)) for logs, won in outcomes]  # group-relative advantage
    loss = -sum((advantage * logs).mean() for logs, advantage in scored) / len(scored)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    succeed = np.mean([won.mean() for _, won in outcomes])
    print(f"iteration {iteration}: {succeed:.2f} of the dreams succeed", flush=True)
