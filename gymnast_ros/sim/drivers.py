"""Episodes of the simulated arm under several kinds of driver: what `make pretrain` learns from.

Every episode depends on (kind, task, seed) alone, so the work can be spread over processes in any way.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from gymnast_core.episodes.archive import Share
from gymnast_core.policies import load_policy
from gymnast_core.policies.processor import use_threads
from gymnast_core.policy import Policy
from gymnast_core.types import ActionChunk, Episode, Observation
from gymnast_ros.sim.actuation import TWO_TRIES, ActuatedEnv, ActuationRange, CompensatingExpert
from gymnast_ros.sim.collect import collect
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.expert import ScriptedExpert
from gymnast_ros.sim.scene import STANDARD, SceneConfig

DEMO_OFFSET_M = (0.026, 0.0)
"""The flaw of the demonstrations: every place is aimed at 2.6 cm too far from the arm's base."""

KINDS = ("flawed", "expert", "offset", "noisy", "wander", "varied", "policy", "policy_greedy", "erring")


class Wanderer:
    """Moves at random: a velocity and a gripper command per chunk, jitter per step."""

    version = "wanderer"
    chunk_length = 5

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Return a random chunk, downwards a little more often than up."""
        actions = np.zeros((1, 5, 7), np.float32)
        actions[..., :3] = self._rng.normal((0.0, 0.0, -0.004), 0.018, 3) + self._rng.normal(0, 0.006, (1, 5, 3))
        actions[..., :3] = actions[..., :3].clip(-0.05, 0.05)
        actions[..., 6] = float(self._rng.random() < 0.5)
        return ActionChunk(actions, self.version)


def collect_shares(shares: Sequence[Share], workers: int) -> list[Episode]:
    """Collect shares in parallel; the episodes come back in the order asked for."""
    parts = [
        replace(share, seeds=share.seeds[low : low + 25]) for share in shares for low in range(0, len(share.seeds), 25)
    ]
    if workers == 1:
        return [episode for part in parts for episode in fill(part)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        return [episode for episodes in pool.map(fill, parts) for episode in episodes]


def fill(share: Share) -> list[Episode]:
    """Collect one share in this process."""
    if share.kind == "erring":
        return _fill_erring(share)
    use_threads()
    policy = load_policy(share.policy) if share.policy is not None else None
    env = SimEnv()
    episodes = []
    for seed in share.seeds:
        rng = np.random.default_rng((KINDS.index(share.kind), seed))
        if share.kind == "varied":
            env.close()
            env = SimEnv(scene=_varied_scene(rng))
        driver = policy if policy is not None else _driver(share.kind, env, rng)
        sampled = rng if share.kind == "policy" else None
        (episode,) = collect(env, driver, share.task, [seed], rng=sampled)
        episodes.append(replace(episode, episode_id=f"{share.kind}-{share.task}-{seed}"))
    env.close()
    return episodes


def _fill_erring(share: Share) -> list[Episode]:
    """Arms that err, another one in every episode, under an operator who knows how once the first chunk is done."""
    env, episodes = ActuatedEnv(SimEnv(max_steps=TWO_TRIES), ActuationRange()), []
    for seed in share.seeds:
        rng = np.random.default_rng((KINDS.index(share.kind), seed))
        (episode,) = collect(env, CompensatingExpert(env, rng=rng), share.task, [seed])
        episodes.append(replace(episode, episode_id=f"{share.kind}-{share.task}-{seed}"))
    env.close()
    return episodes


def _driver(kind: str, env: SimEnv, rng: np.random.Generator) -> Policy:
    if kind == "wander":
        return Wanderer(rng)
    if kind == "varied":
        kind = ("expert", "offset", "noisy")[int(rng.integers(3))]
    offset, aim, action = (0.0, 0.0), 0.004, 0.003
    if kind == "flawed":
        offset, action = DEMO_OFFSET_M, 0.002
    elif kind == "offset":
        offset, action = (float(rng.uniform(-0.010, 0.036)), float(rng.normal(0.0, 0.008))), 0.005
    elif kind == "noisy":
        aim, action = 0.02, 0.010
    return ScriptedExpert(env, aim_offset_m=offset, aim_noise_m=aim, action_noise_m=action, rng=rng)


def _varied_scene(rng: np.random.Generator) -> SceneConfig:
    """A random look around the standard one; the named novel scenes are never among them."""

    def near(colour: Sequence[float], spread: float) -> tuple[float, float, float]:
        return _triple(np.clip(np.array(colour) + rng.normal(0, spread, 3), 0.02, 1.0))

    return replace(
        STANDARD,
        name="varied",
        cube_colour=near(STANDARD.cube_colour, 0.1),
        block_colour=near(STANDARD.block_colour, 0.1),
        plate_colour=near(STANDARD.plate_colour, 0.1),
        drawer_colour=near(STANDARD.drawer_colour, 0.1),
        table_colour=near(STANDARD.table_colour, 0.12),
        light=float(rng.uniform(0.6, 1.25)),
        light_position_m=_triple(rng.uniform((-0.3, -0.5, 0.8), (0.6, 0.5, 1.4))),
        camera_shift_m=_triple(rng.normal(0, 0.012, 3)),
        distractors=int(rng.integers(3)),
    )


def _triple(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
