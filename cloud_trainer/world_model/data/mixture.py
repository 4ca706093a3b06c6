"""A stream of training clips: declared proportions, sharded over ranks, resumable at the exact sample.

Sample number k is a function of (seed, k) and the datasets alone, so the only state is a counter. Origins follow a
golden-ratio sequence: after n samples every share is within a few samples of its proportion, without a random walk.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, TypedDict

import numpy as np
from pydantic import Field, model_validator

from cloud_trainer.world_model.capabilities import ActionKind, learned
from cloud_trainer.world_model.data.source import EpisodeSource, Origin
from cloud_trainer.world_model.dit.actions import ConditionLayout
from gymnast_core.errors import ConfigError
from gymnast_core.settings import Count, NotNegative, Seed, Settings
from gymnast_core.types import ByteArray, Episode, FloatArray

_GOLDEN_RATIO = (5**0.5 - 1) / 2


class MixtureConfig(Settings):
    """What a training stream is made of."""

    where: ClassVar[str] = "mixture"

    frames: Annotated[int, Field(ge=2, le=10_000)] = 10
    """F, per clip."""
    proportions: dict[Annotated[Origin, Field(strict=False)], NotNegative] = Field(
        default_factory=lambda: {Origin.EXPERT: 1.0}
    )
    """Share of each origin; they need not sum to 1, origins left out are not used."""
    seed: Seed = 0
    """Of the draw."""
    camera: str | None = None
    """Which one; none is each dataset's first."""
    cached_episodes: Count = 64
    """Decoded episodes kept in memory."""
    cached_bytes: Annotated[int, Field(ge=0)] = 1 << 30
    """And at most so many bytes of their frames; one episode is always kept."""

    @model_validator(mode="after")
    def _some_share(self) -> MixtureConfig:
        if sum(self.proportions.values()) <= 0:
            raise ConfigError(f"mixture: proportions must have a positive sum, got {self.proportions}")
        return self


@dataclass(frozen=True)
class Clip:
    """One training sample.

    Attributes:
        frames_FHWC: (F, H, W, 3) uint8.
        conditions_FC: (F, 10 or more) float32, see actions.ConditionLayout.
        source: dataset name.
        episode_id: episode.
        first: index of the first frame.
        origin: kind of policy that acted.
        number: of the sample in the whole stream; seeds whatever is random about it.
    """

    frames_FHWC: ByteArray
    conditions_FC: FloatArray
    source: str
    episode_id: str
    first: int
    origin: Origin
    number: int = 0


class StreamState(TypedDict):
    """Where a stream is, as JSON values."""

    samples: int
    """Drawn so far, by all processes."""
    fingerprint: str


class ClipStream:
    """Draws clips for one rank."""

    def __init__(
        self, sources: Sequence[EpisodeSource], config: MixtureConfig, *, rank: int = 0, world_size: int = 1,
        layout: ConditionLayout | None = None,
    ) -> None:  # fmt: skip
        """Sort datasets by origin.

        Args:
            sources: datasets; several may share an origin, weighted by their number of episodes.
            config: proportions, clip length, seed.
            rank: this process.
            world_size: processes that share the stream.
            layout: of what the network takes; the arm's actions alone where nothing else is said.

        Raises:
            ConfigError: an origin with a share has no episodes.
        """
        self._sources, self.config, self._rank, self._world = tuple(sources), config, rank, world_size
        self._layout = layout or ConditionLayout()
        self._pools: dict[Origin, list[tuple[int, int]]] = {}
        for number, source in enumerate(self._sources):
            if config.proportions.get(source.info.origin, 0) > 0:
                pool = self._pools.setdefault(source.info.origin, [])
                pool.extend((number, index) for index in range(len(source)))
        empty = [o.value for o, share in config.proportions.items() if share > 0 and not self._pools.get(o)]
        if empty:
            raise ConfigError(f"the mix asks for {empty} but no dataset of that origin has episodes")
        self._origins = [origin for origin, share in config.proportions.items() if share > 0]
        shares = np.array([config.proportions[origin] for origin in self._origins], np.float64)
        self._edges = np.cumsum(shares / shares.sum())
        self._offset = float(np.random.default_rng(config.seed).random())
        self._position = 0
        self._cache: OrderedDict[tuple[int, int], Episode] = OrderedDict()
        self._cached_bytes = 0

    @property
    def learned(self) -> tuple[set[ActionKind], tuple[str, ...]]:
        """Kinds of actions that are drawn, and the arms behind them."""
        drawn = {number for pool in self._pools.values() for number, _ in pool}
        return learned((self._sources[number].info.actions, self._sources[number].info.robot) for number in drawn)

    @property
    def fingerprint(self) -> str:
        """Digest of what the sample numbers refer to: datasets, sizes, proportions, seed, clip length."""
        described = {
            "sources": [(s.info.name, s.info.origin.value, len(s)) for s in self._sources],
            "mix": [(o.value, self.config.proportions[o]) for o in self._origins],
            "rest": [self.config.frames, self.config.seed],
        }
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]

    def state(self) -> StreamState:
        """What restore() takes."""
        return {"samples": self._position * self._world, "fingerprint": self.fingerprint}

    def restore(self, state: StreamState) -> None:
        """Go on at the exact sample; the number of processes may have changed.

        Raises:
            ConfigError: the datasets or the mix are not those the state was saved with.
        """
        if state["fingerprint"] != self.fingerprint:
            raise ConfigError(
                f"the stream is {self.fingerprint}, the saved one {state['fingerprint']}: datasets, mix, seed or clip "
                "length changed; start a new run from the checkpoint instead of resuming"
            )
        samples = int(state["samples"])
        if samples % self._world:
            raise ConfigError(f"{samples} samples were drawn, which {self._world} processes cannot share evenly")
        self._position = samples // self._world

    def next_clips(self, count: int) -> list[Clip]:
        """Return this rank's next samples."""
        first = self._position
        self._position += count
        return [self.sample(index * self._world + self._rank) for index in range(first, first + count)]

    def sample(self, number: int) -> Clip:
        """Return sample `number` of the whole stream."""
        rng = np.random.default_rng((self.config.seed, number))
        place = (self._offset + number * _GOLDEN_RATIO) % 1.0
        origin = self._origins[min(int(np.searchsorted(self._edges, place, side="right")), len(self._origins) - 1)]
        pool = self._pools[origin]
        key = pool[int(rng.integers(len(pool)))]
        return replace(self._cut(key, self._episode(key), rng), number=number)

    def _episode(self, key: tuple[int, int]) -> Episode:
        if key not in self._cache:
            self._cache[key] = self._sources[key[0]].episode(key[1])
            self._cached_bytes += _frame_bytes(self._cache[key])
            while len(self._cache) > 1 and (
                len(self._cache) > self.config.cached_episodes or self._cached_bytes > self.config.cached_bytes
            ):
                self._cached_bytes -= _frame_bytes(self._cache.popitem(last=False)[1])
        self._cache.move_to_end(key)
        return self._cache[key]

    def _cut(self, key: tuple[int, int], episode: Episode, rng: np.random.Generator) -> Clip:
        info, frames = self._sources[key[0]].info, self.config.frames
        camera = self.config.camera or next(iter(episode.images))
        if camera not in episode.images:
            raise ConfigError(f"dataset {info.name}: episode {episode.episode_id} has no camera {camera!r}")
        conditions = self._layout.of(info.actions, episode.actions_TA, episode.instruction)
        first = int(rng.integers(max(1, episode.steps + 2 - frames)))
        rows = np.arange(first, min(first + frames, episode.steps + 1))
        rows = np.concatenate((np.full(frames - len(rows), rows[0]), rows))  # a short episode stands still at first
        taken = conditions[rows].copy()
        if frames > episode.steps + 1:
            taken[: frames - episode.steps] = conditions[0]
        return Clip(episode.images[camera][rows], taken, info.name, episode.episode_id, first, info.origin)


def _frame_bytes(episode: Episode) -> int:
    return sum(frames.nbytes for frames in episode.images.values())


def stack_clips(clips: Sequence[Clip]) -> tuple[ByteArray, FloatArray]:
    """Return (B, F, H, W, 3) frames and (B, F, C) conditions.

    Raises:
        ConfigError: the clips differ in size; names the datasets.
    """
    sizes = {clip.frames_FHWC.shape[1:3]: clip.source for clip in clips}
    if len(sizes) > 1:
        raise ConfigError(f"datasets give frames of different sizes {sizes}; set one size on their readers")
    return np.stack([clip.frames_FHWC for clip in clips]), np.stack([clip.conditions_FC for clip in clips])
