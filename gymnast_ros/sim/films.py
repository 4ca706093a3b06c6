"""Episodes for people to look at: the same start in the simulator under two policies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gymnast_core.policies import load_policy
from gymnast_core.types import Episode
from gymnast_ros.sim.collect import collect
from gymnast_ros.sim.env import SimEnv

IMAGE_SIZE = 256
FRAME_SIZE = 128


def before_and_after(before: Path, after: Path, tasks: Sequence[str], seed: int) -> dict[str, tuple[Episode, Episode]]:
    """Run one start of every task under both policies.

    Args:
        before: checkpoint folder.
        after: another one.
        tasks: names.
        seed: of the start state.

    Returns:
        Task -> (episode of the first, of the second); frames of FRAME_SIZE pixels a side.
    """
    env = SimEnv(image_size=IMAGE_SIZE)
    try:
        films = {}
        for task in tasks:
            first, second = (
                collect(env, load_policy(folder), task, [seed], frame_size=FRAME_SIZE)[0] for folder in (before, after)
            )
            films[task] = (first, second)
        return films
    finally:
        env.close()
