"""Episodes of a served environment as files: what `gymnast env collect` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gymnast_core.episodes import EpisodeRecorder
from gymnast_core.errors import ConfigError, EnvLostError
from gymnast_core.policy import Policy
from gymnast_core.rollout import run_episode
from gymnast_core.sampling import sampled_at
from gymnast_core.spec import RobotSpec
from gymnast_core.types import ActionChunk, FloatArray, Observation, Outcome
from gymnast_core.wire.env_client import RemoteEnv

LABELLED_BY = "operator:env"
"""The labeller of what the environment itself calls success."""


@dataclass(frozen=True)
class CollectedEpisode:
    """What became of one start.

    Attributes:
        seed: of the start.
        file: the episode.
        success: as the environment says; None where it ended before the episode did.
        reason: why it did, else empty.
    """

    seed: int
    file: Path
    success: bool | None
    reason: str = ""


class RandomPolicy:
    """Keeps gymnast_core.policy.Policy: chunks that drift one way, drawn anew each time; to see what can be reached."""

    version, chunk_length = "random", 5

    def __init__(self, robot: RobotSpec) -> None:
        self._limit_A: FloatArray = robot.action_high_A[:6]

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Draw a direction a row for the whole chunk, with some noise on it; see Policy."""
        rng, rows = rng or np.random.default_rng(0), len(instruction)
        drift = rng.uniform(-0.6, 0.6, (rows, 1, 6)) + rng.uniform(-0.4, 0.4, (rows, self.chunk_length, 6))
        grip = np.repeat(rng.integers(0, 2, (rows, 1, 1)), self.chunk_length, axis=1)
        actions = np.concatenate([drift * self._limit_A, grip], axis=2).astype(np.float32)
        return ActionChunk(actions, self.version)


def collect_episodes(
    env: RemoteEnv, policy: Policy, folder: Path, seeds: Sequence[int], *, sample: int = 0,
    progress: Callable[[CollectedEpisode], None] = lambda _: None,
) -> list[CollectedEpisode]:  # fmt: skip
    """Run one episode per seed and record each; one whose environment is lost is kept as cut short.

    Args:
        env: of one row.
        policy: what drives it.
        folder: where the files go.
        seeds: of the starts.
        sample: seed of the policy's exploration; negative is greedy.
        progress: called after every episode.

    Raises:
        ConfigError: several rows.
        EnvLostError: it could not be started anew.
        StorageError: the disk failed.
    """
    if env.spec.batch_size != 1:
        raise ConfigError(
            f"episodes are recorded one at a time, this has {env.spec.batch_size} rows; serve it --rows 1"
        )
    robot = env.spec.robot
    recorder = EpisodeRecorder(folder, robot=robot.name, control_hz=robot.control_hz)
    done = []
    for seed in seeds:
        rng = None if sample < 0 else np.random.default_rng((sample, seed))
        sampled = sampled_at(policy, greedy=rng is None)
        recorder.begin(seed=seed, metadata={"task": env.instruction, "seed": seed, **sampled})
        found = _episode(env, policy, recorder, seed, rng)
        progress(found)
        done.append(found)
    return done


def _episode(
    env: RemoteEnv, policy: Policy, recorder: EpisodeRecorder, seed: int, rng: np.random.Generator | None
) -> CollectedEpisode:
    try:
        run_episode(env, policy, env.instruction, seed=seed, rng=rng, observers=[recorder])
    except EnvLostError as error:
        if recorder.episode_id is None:  # it was lost before it began
            raise
        reason = str(error)
        file = recorder.finish(truncated_reason="env_lost", metadata={"reason": reason})
        return CollectedEpisode(seed, file, None, reason)
    (won,) = env.succeeded()
    outcome = Outcome.SUCCESS if won else Outcome.FAILURE
    return CollectedEpisode(seed, recorder.finish(outcome, LABELLED_BY), won)
