"""One call from a checkpoint folder and held-out episodes to a report and a page; `gymnast wm audit` is this."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cloud_trainer.world_model.audit import AuditBounds, AuditReport, audit, write_audit
from cloud_trainer.world_model.audit_cases import Dreamer, EnvDreamer, dit_dreamer, imagine_cases
from cloud_trainer.world_model.checkpoint import ARCHITECTURE, load_world_model
from cloud_trainer.world_model.codec import build_codec
from cloud_trainer.world_model.compact_data import clips_of, starts_of
from cloud_trainer.world_model.compact_env import CompactWorldModelEnv
from cloud_trainer.world_model.compact_model import CompactWorldModel
from cloud_trainer.world_model.env import WorldModelEnvConfig
from cloud_trainer.world_model.metrics import GripperTracker
from cloud_trainer.world_model.sampler import SamplerConfig
from gymnast_core.env import Env
from gymnast_core.errors import ConfigError
from gymnast_core.judge import Judge
from gymnast_core.manifest import read_manifest
from gymnast_core.types import Episode


def dreamer_of(folder: Path, *, config: WorldModelEnvConfig | None = None, batch_size: int = 40) -> Dreamer:
    """Return the dreamer of a checkpoint, whichever of the two architectures it is.

    Args:
        folder: a world_model checkpoint.
        config: how a DiT is sampled; default 10 steps in its whole window, first frame pinned.
        batch_size: episodes dreamt together.

    Raises:
        CheckpointError: no world model, or altered.
    """
    if read_manifest(folder).architecture == ARCHITECTURE:
        world = load_world_model(folder)
        window = world.model.config.max_frames
        sampler = SamplerConfig(window=window, pinned=1 if window > 2 else 0)
        fitted = config or WorldModelEnvConfig(
            batch_size=batch_size, context_frames=min(5, window - 1), sampler=sampler
        )
        return dit_dreamer(world, build_codec(world.codec_config), fitted)
    compact = CompactWorldModel.load(folder)

    def make_env(episodes: Sequence[Episode], start: int) -> Env:
        starts = starts_of(clips_of(episodes, compact.config.image_size), steps=(start,))
        return CompactWorldModelEnv(compact, starts, max_steps=max(e.steps for e in episodes), in_order=True)

    return EnvDreamer(make_env, batch_size=batch_size)


def run_audit(
    folder: Path,
    held_out: Sequence[Episode],
    *,
    judge: Judge | None,
    tracker_episodes: Sequence[Episode],
    out: Path | None = None,
    bounds: AuditBounds | None = None,
    dreamer: Dreamer | None = None,
    draws: int = 2,
    start: int = 0,
    seed: int = 0,
) -> AuditReport:
    """Audit a checkpoint on episodes it was not trained on, and write audit.json and audit.html.

    Args:
        folder: the checkpoint.
        held_out: labelled real episodes.
        judge: says success or failure; None leaves the outcome bounds broken.
        tracker_episodes: other real episodes of the same camera, to learn reading the gripper from; empty leaves
            the fidelity bounds broken.
        out: where the report and page go; None writes nothing.
        bounds: what is demanded.
        dreamer: instead of the checkpoint's own.
        draws: dreams per episode.
        start: step from which the model goes on alone.
        seed: of everything random.

    Raises:
        ConfigError: an episode is in both sets.
        CheckpointError: no world model, or altered.
    """
    both = {e.episode_id for e in held_out} & {e.episode_id for e in tracker_episodes}
    if both:
        raise ConfigError(f"episodes {sorted(both)[:3]} are held out and train the tracker; keep the sets apart")
    cases = imagine_cases(dreamer or dreamer_of(folder), held_out, draws=draws, start=start, seed=seed)
    tracker = GripperTracker.fit(tracker_episodes, seed=seed) if tracker_episodes else None
    model = read_manifest(folder).id
    report = audit(cases, judge=judge, tracker=tracker, bounds=bounds, model=model, seed=seed)
    if out is not None:
        write_audit(out, report, cases)
    return report
