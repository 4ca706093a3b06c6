"""A checkpoint and recorded episodes as a factory of environments to dream in, whichever architecture it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from cloud_trainer.world_model.capabilities import capabilities_of, require_horizon, require_practice
from cloud_trainer.world_model.compact.data import clips_of, starts_of
from cloud_trainer.world_model.compact.env import CompactWorldModelEnv
from cloud_trainer.world_model.compact.model import CompactWorldModel
from cloud_trainer.world_model.dit.checkpoint import ARCHITECTURE, load_world_model
from cloud_trainer.world_model.dit.codec import build_codec
from cloud_trainer.world_model.dit.env import WorldModelEnv, WorldModelEnvConfig
from cloud_trainer.world_model.dit.sampler import SamplerConfig
from cloud_trainer.world_model.starts import StartState, start_from_episode
from gymnast_core.env import Env
from gymnast_core.errors import ConfigError
from gymnast_core.records.manifest import read_manifest
from gymnast_core.types import Episode


class DreamingEnv(Env, Protocol):
    """An environment that began somewhere in recorded episodes."""

    @property
    def chosen(self) -> list[StartState]:
        """The start state of every row of the current batch; empty before the first reset."""
        ...


def imagined_envs(
    checkpoint: Path, episodes: Sequence[Episode], *, max_steps: int = 15, start_step: int = 0,
    sampler: SamplerConfig | None = None,
) -> Callable[[int], DreamingEnv]:  # fmt: skip
    """Return make_env(rows): an environment that begins in recorded episodes.

    Args:
        checkpoint: folder of a world model, compact or DiT.
        episodes: where dreams may begin; for a DiT at the size it was trained on.
        max_steps: step of an episode at which every row is truncated.
        start_step: step of the episodes at which dreams begin; shorter ones are left out.
        sampler: of a DiT; default as many steps as it was distilled to, else 10, in its whole window, first frame
            pinned.

    Raises:
        CheckpointError: no world model, or altered.
        ConfigError: no episodes that reach start_step, or of several image sizes, or no step is left; or the world
            model takes no actions, cannot be seeded, or was not audited for so many steps.
    """
    able, model = capabilities_of(checkpoint), read_manifest(checkpoint).id
    require_practice(able, model)
    require_horizon(able, model, max_steps, "max_steps")
    episodes = [one for one in episodes if one.steps > start_step]
    if not episodes or not 0 <= start_step < max_steps:
        raise ConfigError(f"{len(episodes)} episodes go on after step {start_step}, and dreams end at step {max_steps}")
    if read_manifest(checkpoint).architecture != ARCHITECTURE:
        compact = CompactWorldModel.load(checkpoint)
        clips = clips_of(episodes, compact.config.image_size)
        compact_starts = starts_of(clips, steps=(start_step,), ends=max_steps)
        return lambda rows: CompactWorldModelEnv(compact, compact_starts, batch_size=rows, max_steps=max_steps)
    world = load_world_model(checkpoint)
    codec, starts = (
        build_codec(world.codec_config),
        [start_from_episode(episode, start_step, ends=max_steps) for episode in episodes],
    )
    window = world.model.config.max_frames
    drawn = sampler or SamplerConfig(steps=world.sampling_steps, window=window, pinned=1 if window > 2 else 0)

    def make_env(rows: int) -> DreamingEnv:
        config = WorldModelEnvConfig(
            batch_size=rows, max_steps=max_steps, context_frames=min(5, drawn.window - 1), sampler=drawn
        )
        return WorldModelEnv(world.model, world.objective, codec, starts, config)

    return make_env
