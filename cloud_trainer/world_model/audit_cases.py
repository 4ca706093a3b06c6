"""Held-out recorded episodes, dreamt again: what every part of the audit looks at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from cloud_trainer.world_model.checkpoint import WorldModel
from cloud_trainer.world_model.codec import Codec
from cloud_trainer.world_model.env import WorldModelEnv, WorldModelEnvConfig
from cloud_trainer.world_model.starts import start_from_episode
from gymnast_core.env import Env
from gymnast_core.errors import ConfigError, ShapeError
from gymnast_core.images import area_downsample
from gymnast_core.types import ByteArray, Episode, IntArray, Outcome, RolloutBatch


@dataclass(frozen=True)
class AuditCase:
    """One real episode and its dreams.

    Attributes:
        episode: the real one; outcome, actions and proprioception are read off it.
        real_FHWC: (T+1, H, W, 3) uint8, at the size of the dreams.
        imagined_KFHWC: (K, T+1, H, W, 3) uint8, K dreams of the same actions; equal to the real one up to `start`.
        start: last frame the model was shown.
        flipped_FHWC: like the first dream, noise included, but with the gripper told the opposite throughout: what
            differs between the two is the model's answer to the gripper command. None when not dreamt.
    """

    episode: Episode
    real_FHWC: ByteArray
    imagined_KFHWC: ByteArray
    start: int = 0
    flipped_FHWC: ByteArray | None = None

    def __post_init__(self) -> None:
        """Refuse dreams of another shape than the episode."""
        if self.imagined_KFHWC.ndim != 5 or self.imagined_KFHWC.shape[1:] != self.real_FHWC.shape:
            raise ShapeError(
                f"episode {self.episode.episode_id}: dreams {self.imagined_KFHWC.shape} do not fit the real frames "
                f"{self.real_FHWC.shape}"
            )

    @property
    def failed(self) -> bool:
        """The arm really failed."""
        return self.episode.outcome is Outcome.FAILURE

    @property
    def succeeded(self) -> bool:
        """The arm really succeeded."""
        return self.episode.outcome is Outcome.SUCCESS

    @property
    def policy(self) -> str:
        """Who acted."""
        named = self.episode.metadata.get("policy")
        versions = [version for version in self.episode.policy_versions if version]
        return str(named) if named else (versions[0] if versions else "unknown")


class Dreamer(Protocol):
    """Dreams recorded actions from a recorded step."""

    def dream(self, episodes: Sequence[Episode], *, start: int, seed: int) -> list[ByteArray]:
        """Return per episode (T+1, H, W, 3) frames; those up to `start` may be anything."""
        ...


class EnvDreamer:
    """Dreams in any environment whose row b starts at the b-th of the given episodes."""

    def __init__(self, make_env: Callable[[Sequence[Episode], int], Env], *, batch_size: int = 40) -> None:
        """Take a factory of environments.

        Args:
            make_env: (episodes, start step) -> an Env of that many rows and at least the longest remaining steps.
            batch_size: episodes dreamt together.
        """
        self._make_env, self._batch_size = make_env, batch_size

    def dream(self, episodes: Sequence[Episode], *, start: int, seed: int) -> list[ByteArray]:
        """Replay the recorded actions."""
        dreams: list[ByteArray] = []
        for first in range(0, len(episodes), self._batch_size):
            dreams += self._dream_batch(episodes[first : first + self._batch_size], start, seed + first)
        return dreams

    def _dream_batch(self, episodes: Sequence[Episode], start: int, seed: int) -> list[ByteArray]:
        steps = max(episode.steps for episode in episodes)
        actions_BTA = np.zeros((len(episodes), steps, 7), np.float32)
        for row, episode in enumerate(episodes):
            actions_BTA[row, : episode.steps] = episode.actions_TA
        env = self._make_env(episodes, start)
        camera = env.spec.cameras[0]
        observation = env.reset([episode.instruction for episode in episodes], seed=seed)
        frames = [observation.images[camera]] * (start + 1)
        for step in range(start, steps):
            result = env.step(np.ascontiguousarray(actions_BTA[:, step]))
            frames.append(result.observation.images[camera])
            if result.done_B.all():
                frames += [frames[-1]] * (steps + 1 - len(frames))
                break
        env.close()
        return [np.stack([f[row] for f in frames[: e.steps + 1]]) for row, e in enumerate(episodes)]


def dit_dreamer(
    world: WorldModel, codec: Codec, config: WorldModelEnvConfig, *, camera: str | None = None, recent: int = 4
) -> EnvDreamer:
    """Return a dreamer over a DiT checkpoint; config's batch size and length are set per batch."""

    def make_env(episodes: Sequence[Episode], start: int) -> Env:
        starts = [start_from_episode(episode, start, recent=recent, camera=camera) for episode in episodes]
        steps = max(episode.steps for episode in episodes) - start
        fitted = replace(config, batch_size=len(episodes), max_steps=max(1, steps), group_size=1, in_order=True)
        return WorldModelEnv(world.model, world.objective, codec, starts, fitted)

    return EnvDreamer(make_env, batch_size=config.batch_size)


def imagine_cases(
    dreamer: Dreamer,
    episodes: Sequence[Episode],
    *,
    draws: int = 2,
    start: int = 0,
    seed: int = 0,
    flip_gripper: bool = True,
) -> list[AuditCase]:
    """Dream every episode `draws` times, and once more with the gripper told the opposite.

    Args:
        dreamer: the model.
        episodes: held-out, real; longer than `start`.
        draws: dreams per episode; 2 or more allow a trust score.
        start: step from which the model goes on alone.
        seed: of the first draw; the others follow.
        flip_gripper: whether to dream the opposite gripper command too.

    Raises:
        ConfigError: no episodes, or one that is too short.
    """
    short = [episode.episode_id for episode in episodes if episode.steps <= start]
    if not episodes or short:
        raise ConfigError(f"the audit needs episodes longer than {start} steps; too short: {short[:3]}")
    with torch.no_grad():
        drawn = [dreamer.dream(episodes, start=start, seed=seed + 100_003 * draw) for draw in range(draws)]
        opposite = [_flipped(episode) for episode in episodes] if flip_gripper else []
        flipped = dreamer.dream(opposite, start=start, seed=seed) if flip_gripper else [None] * len(episodes)
    cases = []
    for row, episode in enumerate(episodes):
        dreams = np.stack([frames[row] for frames in drawn])
        real = area_downsample(episode.images[next(iter(episode.images))], dreams.shape[2])
        dreams[:, : start + 1] = real[: start + 1]
        cases.append(AuditCase(episode, real, dreams, start, flipped[row]))
    return cases


def _flipped(episode: Episode) -> Episode:
    actions_TA = episode.actions_TA.copy()
    actions_TA[:, 6] = 1 - actions_TA[:, 6]
    return replace(episode, actions_TA=actions_TA)


def as_rollouts(cases: Sequence[AuditCase], *, imagined: bool) -> RolloutBatch:
    """Return the frames as a judge takes them; shorter episodes repeat their last frame."""
    steps = max(case.episode.steps for case in cases)
    frames, actions = [], np.zeros((len(cases), steps, 7), np.float32)
    for row, case in enumerate(cases):
        shown = case.imagined_KFHWC[0] if imagined else case.real_FHWC
        frames.append(np.concatenate((shown, np.repeat(shown[-1:], steps + 1 - len(shown), axis=0))))
        actions[row, : case.episode.steps] = case.episode.actions_TA
    index: IntArray = np.arange(len(cases), dtype=np.int64)
    return RolloutBatch(
        instructions=[case.episode.instruction for case in cases],
        frame_steps_F=np.arange(steps + 1, dtype=np.int64),
        frames_BFHWC=np.stack(frames),
        actions_BTA=actions,
        tokens_BTA=np.zeros((len(cases), steps, 7), np.int64),
        log_probs_BTA=np.zeros((len(cases), steps, 7), np.float32),
        length_B=np.array([case.episode.steps for case in cases], np.int64),
        policy_version="recorded",
        group_B=index,
    )
