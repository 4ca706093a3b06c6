"""Held-out recorded episodes, dreamt again: what every part of the audit looks at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from cloud_trainer.world_model.dit.checkpoint import WorldModel
from cloud_trainer.world_model.dit.codec import Codec
from cloud_trainer.world_model.dit.env import WorldModelEnv, WorldModelEnvConfig
from cloud_trainer.world_model.starts import start_from_episode
from gymnast_core.env import Env
from gymnast_core.errors import ConfigError, ShapeError
from gymnast_core.images import area_downsample
from gymnast_core.robots import arm_of_all
from gymnast_core.types import ByteArray, Episode, IntArray, Outcome, RolloutBatch


@dataclass(frozen=True)
class AuditCase:
    """One real episode and its dreams.

    Attributes:
        episode: the real one; outcome, actions and proprioception are read off it.
        real_FHWC: (T+1, H, W, 3) uint8, at the size of the dreams.
        imagined_KFHWC: (K, T+1, H, W, 3) uint8, K dreams of the same actions; equal to the real one up to `start`.
        start: last frame the model was shown.
        flipped_FHWC: like the first dream, noise included, but with the opposite gripper command throughout: what
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
    def succeeded(self) -> bool:
        """The arm really succeeded."""
        return self.episode.outcome is Outcome.SUCCESS


class Dreamer(Protocol):
    """Dreams recorded actions from a recorded step."""

    def dream(self, episodes: Sequence[Episode], *, start: int, seed: int, ends_only: bool = False) -> list[ByteArray]:
        """Return per episode (T+1, H, W, 3) frames; those up to `start` may be anything.

        With ends_only nobody looks between `start` and the end, so that nothing need be drawn there: (2, H, W, 3).
        """
        ...


class EnvDreamer:
    """Dreams in any environment whose row b starts at the b-th of the given episodes."""

    def __init__(
        self, make_env: Callable[[Sequence[Episode], int], Env], *, batch_size: int | None = 40, look_every: int = 5
    ) -> None:
        """Take a factory of environments.

        Args:
            make_env: (episodes, start step) -> an Env of that many rows and at least the longest remaining steps.
            batch_size: episodes dreamt together; None is all.
            look_every: steps between looks when only ends are wanted: as often as a policy would look.
        """
        self._make_env, self._batch_size, self._look_every = make_env, batch_size, look_every

    def dream(self, episodes: Sequence[Episode], *, start: int, seed: int, ends_only: bool = False) -> list[ByteArray]:
        """Replay the recorded actions."""
        dreams: list[ByteArray] = []
        size = self._batch_size or len(episodes)
        for first in range(0, len(episodes), size):
            dreams += self._dream_batch(episodes[first : first + size], start, seed + first, ends_only)
        return dreams

    def _dream_batch(self, episodes: Sequence[Episode], start: int, seed: int, ends_only: bool) -> list[ByteArray]:
        steps = max(episode.steps for episode in episodes)
        actions_BTA = np.zeros((len(episodes), steps, 7), np.float32)
        for row, episode in enumerate(episodes):
            actions_BTA[row, : episode.steps] = episode.actions_TA
        wanted = {episode.steps for episode in episodes} | set(range(start, steps + 1, self._look_every))
        env = self._make_env(episodes, start)
        camera = env.spec.cameras[0]
        observation = env.reset([episode.instruction for episode in episodes], seed=seed)
        frames = {step: observation.images[camera] for step in range(start + 1)}
        for step in range(start, steps):
            result = env.step(np.ascontiguousarray(actions_BTA[:, step]))
            if not ends_only or step + 1 in wanted or result.done_B.all():
                frames[step + 1] = result.observation.images[camera]
            if result.done_B.all():
                frames |= {later: frames[step + 1] for later in range(step + 2, steps + 1)}
                break
        env.close()
        return [
            np.stack([frames[moment][row] for moment in ((start, e.steps) if ends_only else range(e.steps + 1))])
            for row, e in enumerate(episodes)
        ]


def dit_dreamer(
    world: WorldModel, codec: Codec, config: WorldModelEnvConfig, *, camera: str | None = None
) -> EnvDreamer:
    """Return a dreamer over a DiT checkpoint; config's batch size and length are set per batch."""

    def make_env(episodes: Sequence[Episode], start: int) -> Env:
        starts = [start_from_episode(episode, start, camera=camera) for episode in episodes]
        steps = max(episode.steps for episode in episodes) - start
        fitted = replace(
            config, batch_size=len(episodes), max_steps=max(1, steps), group_size=1, in_order=True,
            robot=arm_of_all(episode.metadata for episode in episodes),
        )  # fmt: skip
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
    """Dream every episode `draws` times, and once more with the opposite gripper command.

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


def imagined_ends(dreamer: Dreamer, episodes: Sequence[Episode], *, start: int = 0, seed: int = 0) -> RolloutBatch:
    """Dream every episode once and return first real and last imagined frame, as a judge takes them.

    Args:
        dreamer: the model.
        episodes: held-out, real; longer than `start`.
        start: step from which the model goes on alone.
        seed: of the dream.
    """
    with torch.no_grad():
        dreams = dreamer.dream(episodes, start=start, seed=seed, ends_only=True)
    pairs = []
    for episode, dream in zip(episodes, dreams, strict=True):
        first = area_downsample(next(iter(episode.images.values()))[:1], dream.shape[1])
        pairs.append(np.concatenate((first, dream[-1:])))
    return _ends(episodes, np.stack(pairs))


def recorded_ends(episodes: Sequence[Episode], size: int) -> RolloutBatch:
    """Return first and last recorded frame of every episode, as a judge takes them."""
    ends = [area_downsample(next(iter(episode.images.values()))[[0, -1]], size) for episode in episodes]
    return _ends(episodes, np.stack(ends))


def _ends(episodes: Sequence[Episode], frames_BFHWC: ByteArray) -> RolloutBatch:
    steps = max(episode.steps for episode in episodes)
    actions_BTA = np.zeros((len(episodes), steps, 7), np.float32)
    for row, episode in enumerate(episodes):
        actions_BTA[row, : episode.steps] = episode.actions_TA
    return RolloutBatch(
        instructions=tuple(episode.instruction for episode in episodes),
        frame_steps_F=np.array([0, steps], np.int64),
        frames_BFHWC=frames_BFHWC,
        actions_BTA=actions_BTA,
        log_probs_BTA=np.zeros_like(actions_BTA),
        length_B=np.array([episode.steps for episode in episodes], np.int64),
        policy_version="recorded",
        group_B=np.arange(len(episodes), dtype=np.int64),
    )


def spread_over(episodes: Sequence[Episode], most: int | None) -> list[Episode]:
    """Return up to `most` of the episodes, evenly spread."""
    if most is None or len(episodes) <= most:
        return list(episodes)
    return [episodes[int(row)] for row in np.unique(np.linspace(0, len(episodes) - 1, most).round())]


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
        log_probs_BTA=np.zeros((len(cases), steps, 7), np.float32),
        length_B=np.array([case.episode.steps for case in cases], np.int64),
        policy_version="recorded",
        group_B=index,
    )
