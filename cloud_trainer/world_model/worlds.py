"""One interface over both world models, for whoever practises, judges or audits in them.

load_world() reads the architecture off the checkpoint's manifest. Starts and episodes are those of
world_model.starts.StartState and gymnast_core.types.Episode, with frames of World.image_size pixels a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Protocol

import torch

from cloud_trainer.world_model.audit.cases import EnvDreamer, dit_dreamer
from cloud_trainer.world_model.capabilities import (
    declared_by,
    image_size_of,
    require_dream,
    require_practice,
    require_rollouts,
)
from cloud_trainer.world_model.compact import model as compact_model
from cloud_trainer.world_model.compact.data import Clips, clips_of, median_background, starts_of
from cloud_trainer.world_model.compact.env import CompactWorldModelEnv
from cloud_trainer.world_model.compact.model import CompactWorldModel
from cloud_trainer.world_model.dit import checkpoint
from cloud_trainer.world_model.dit.checkpoint import WorldModel, load_world_model
from cloud_trainer.world_model.dit.codec import Codec, build_codec
from cloud_trainer.world_model.dit.env import WorldModelEnv, WorldModelEnvConfig
from cloud_trainer.world_model.dit.sampler import SamplerConfig
from cloud_trainer.world_model.starts import StartState
from gymnast_core.env import Env
from gymnast_core.errors import CheckpointError
from gymnast_core.extensions import WORLD_MODELS, extension, installed
from gymnast_core.jobs.practice import DreamConfig
from gymnast_core.policies.placement import device_of
from gymnast_core.records.manifest import read_manifest
from gymnast_core.robots import arm_of_all
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.types import Episode


class World(Protocol):
    """A world model that environments are made of."""

    @property
    def version(self) -> str:
        """Id of the checkpoint."""
        ...

    @property
    def image_size(self) -> int:
        """Pixels a side of the frames it begins with and draws."""
        ...

    @property
    def batch_size(self) -> int | None:
        """Rows an environment should have at most; None is any number."""
        ...

    def env(self, starts: Sequence[StartState]) -> Env:
        """Return an environment whose row b begins at starts[b] and ends at that start's step."""
        ...

    def dreamer(self) -> EnvDreamer:
        """Return what an audit dreams held-out episodes with."""
        ...

    def in_scene(self, clips: Clips, *, seed: int) -> World:
        """Return the same model as it looks in the scene that clips were recorded in."""
        ...


class CompactWorld:
    """World over the compact world model."""

    batch_size = None

    def __init__(self, model: CompactWorldModel, robot: RobotSpec = WIDOWX_250S) -> None:
        """Wrap a model to command an arm in."""
        self.model, self._robot = model, robot

    @classmethod
    def load(cls, folder: Path, config: DreamConfig | None = None, robot: RobotSpec = WIDOWX_250S) -> CompactWorld:
        """Read the model's checkpoint folder."""
        return cls(CompactWorldModel.load(folder), robot)

    @property
    def version(self) -> str:
        """See World."""
        return self.model.version

    @property
    def image_size(self) -> int:
        """See World."""
        return self.model.config.image_size

    def env(self, starts: Sequence[StartState]) -> Env:
        """See World."""
        return self._env(starts, self._robot)

    def dreamer(self) -> EnvDreamer:
        """See World; all episodes in one batch, so that a row's noise is its place's."""

        def make_env(episodes: Sequence[Episode], start: int) -> Env:
            clips, robot = clips_of(episodes, self.image_size), arm_of_all(e.metadata for e in episodes)
            return self._env(starts_of(clips, steps=(start,), ends=clips.length_N), robot)

        return EnvDreamer(make_env, batch_size=None, look_every=self.model.config.horizon)

    def in_scene(self, clips: Clips, *, seed: int) -> CompactWorld:
        """See World; the scene's background replaces the model's."""
        background = median_background(clips.frames_NTHWC, seed=seed)
        model = CompactWorldModel(self.model.network, background, version=self.version, domains=self.model.domains)
        return CompactWorld(model, self._robot)

    def _env(self, starts: Sequence[StartState], robot: RobotSpec) -> Env:
        return CompactWorldModelEnv(self.model, starts, max_steps=_last_step(starts), in_order=True, robot=robot)


class DiTWorld:
    """World over a WorldGym-class DiT: first frame pinned, recent frames and their actions as context.

    Frames are decoded when a policy or a judge looks at them.
    """

    def __init__(self, world: WorldModel, codec: Codec, config: DreamConfig, robot: RobotSpec = WIDOWX_250S) -> None:
        """Wrap a loaded checkpoint; the window is the longest its network knows."""
        self._world, self._codec, self.batch_size = world, codec, config.batch_size
        self._image_size = config.image_size
        window = world.model.config.max_frames
        sampler = SamplerConfig(
            steps=config.steps or world.sampling_steps,
            guidance=config.guidance,
            window=window,
            pinned=1 if window > 2 else 0,
        )
        self._env = WorldModelEnvConfig(
            config.batch_size, context_frames=min(5, window - 1), sampler=sampler, robot=robot
        )

    @classmethod
    def load(cls, folder: Path, config: DreamConfig | None = None, robot: RobotSpec = WIDOWX_250S) -> DiTWorld:
        """Read a checkpoint folder; bfloat16 on a GPU, float32 elsewhere."""
        config = config or DreamConfig()
        device = device_of(config.device)
        return cls.of(load_world_model(folder, device=device, dtype=_dtype_on(device)), config, robot)

    @classmethod
    def of(cls, world: WorldModel, config: DreamConfig, robot: RobotSpec = WIDOWX_250S) -> DiTWorld:
        """Dream in a model that is loaded already, which goes to the configuration's device."""
        device = device_of(config.device)
        world.model.to(device, _dtype_on(device))
        return cls(world, build_codec(world.codec_config, device=device), config, robot)

    @property
    def version(self) -> str:
        """See World."""
        return self._world.manifest.id

    @property
    def image_size(self) -> int:
        """See World.

        Raises:
            ConfigError: nobody says which image size it was trained on.
        """
        return self._image_size or image_size_of(self._world.manifest)

    def env(self, starts: Sequence[StartState]) -> Env:
        """See World; neighbouring rows with the same start share its encoding and its first pass."""
        runs = [list(rows) for _, rows in groupby(starts, key=id)]
        group = len(runs[0]) if runs and len({len(rows) for rows in runs}) == 1 else 1
        last = _last_step(starts)
        rows = max(1, len(starts))
        config = replace(self._env, batch_size=rows, max_steps=last, group_size=group, in_order=True)
        return WorldModelEnv(self._world.model, self._world.objective, self._codec, starts[::group], config)

    def dreamer(self) -> EnvDreamer:
        """See World."""
        return dit_dreamer(self._world, self._codec, self._env)

    def in_scene(self, clips: Clips, *, seed: int) -> DiTWorld:
        """See World; what the scene looks like is in the context frames."""
        return self


_WORLDS: dict[str, type[CompactWorld] | type[DiTWorld]] = {
    compact_model.ARCHITECTURE: CompactWorld,
    checkpoint.ARCHITECTURE: DiTWorld,
}


def load_world(
    folder: Path, config: DreamConfig | None = None, *, seeded: bool = True, robot: RobotSpec | None = None
) -> World:
    """Read a world model checkpoint to command an arm in it, whichever architecture it is.

    Args:
        folder: of the checkpoint.
        config: how a DiT dreams.
        seeded: what is dreamt must be had again: to practise in it, and to measure it or a judge.
        robot: the arm that is commanded; None is the one that the model is for.

    Raises:
        CheckpointError: no world model, altered, or of an unknown architecture.
        ConfigError: it declares that it takes no actions of the arm, or cannot be seeded; it does not heed a setting
            of the dream; or a package adds the architecture, but it cannot be imported.
    """
    manifest = read_manifest(folder)
    architecture = manifest.architecture
    if manifest.kind == "world_model":
        (require_practice if seeded else require_rollouts)(declared_by(manifest), manifest.id, robot=robot)
        require_dream(manifest, config or DreamConfig())
    if architecture in _WORLDS:
        return _WORLDS[architecture].load(folder, config, robot or declared_by(manifest).arm)
    if architecture not in (others := installed(WORLD_MODELS)):
        known = ", ".join((*_WORLDS, *others))
        raise CheckpointError(f"{folder} is a {architecture}, not a world model ({known})")
    world: World = extension(WORLD_MODELS, architecture).load(folder, config)
    return world


def _dtype_on(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _last_step(starts: Sequence[StartState]) -> int:
    return max((start.episode_steps for start in starts), default=1)
