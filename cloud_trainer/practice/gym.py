"""What gymnasium.make() and make_vec() make of our ids (cloud_trainer.gym): dreams, replays, any Env."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cloud_trainer.judge.choice import read_judge
from cloud_trainer.practice.judge_reward import JudgeReward
from cloud_trainer.world_model.capabilities import declared_by
from cloud_trainer.world_model.dit.sampler import SamplerConfig
from cloud_trainer.world_model.gym import GymnastGymEnv, GymnastVectorEnv, Named
from cloud_trainer.world_model.imagined import imagined_envs
from gymnast_core.env import Env
from gymnast_core.episodes import read_episode
from gymnast_core.errors import ConfigError
from gymnast_core.faulty_env import Faults, FaultyEnv
from gymnast_core.judge import Judge
from gymnast_core.records.manifest import read_manifest
from gymnast_core.replay_env import ReplayEnv
from gymnast_core.types import ByteArray, Episode

Episodes = str | Path | Sequence[Episode]
"""A folder of .mcap files, one of them, or episodes in memory."""


def dream(*, render_mode: str | None = None, **settings: Any) -> GymnastGymEnv:
    """Make one dream behind Gymnasium's plain interface; the settings are those of dreams()."""
    env, given = _dreaming(1, **settings)
    return GymnastGymEnv(env, render_mode=render_mode, **given)


def dreams(
    num_envs: int, *, render_mode: str | None = None, autoreset_mode: str = "NextStep", seed: int = 0, **settings: Any
) -> GymnastVectorEnv:
    """Make a batch of dreams.

    Args:
        num_envs: rows.
        render_mode: None or "rgb_array".
        autoreset_mode: Gymnasium's NextStep, SameStep or Disabled.
        seed: see GymnastVectorEnv.
        **settings: checkpoint, a world model's folder; episodes (see Episodes), where dreams may begin, and whose
            instructions the rows draw from unless instruction names one; judge, a checkpoint's folder, a settings file
            or a Judge, None rewards nothing; reward, "sparse" or "shaped", and its discount (see JudgeReward);
            max_steps; start_step, the recorded step at which dreams begin; sampler, of a DiT; faults by name (see
            Faults).

    Raises:
        ConfigError: a setting that does not exist or fit, or no episodes.
        CheckpointError: no world model or judge, or an altered one.
    """
    env, given = _dreaming(num_envs, **settings)
    return GymnastVectorEnv(env, render_mode=render_mode, autoreset_mode=autoreset_mode, seed=seed, **given)


def replay(
    *, episodes: Episodes, faults: Mapping[str, float] | None = None, render_mode: str | None = None
) -> GymnastGymEnv:
    """Make one recorded episode behind Gymnasium's plain interface; see replays()."""
    env, given = _replaying(1, episodes, faults)
    return GymnastGymEnv(env, render_mode=render_mode, **given)


def replays(
    num_envs: int, *, episodes: Episodes, faults: Mapping[str, float] | None = None, render_mode: str | None = None,
    autoreset_mode: str = "Disabled",
) -> GymnastVectorEnv:  # fmt: skip
    """Make a batch of recorded episodes, row b playing the b-th; nothing that is commanded changes them.

    Args:
        num_envs: rows.
        episodes: see Episodes.
        faults: see Faults, by name.
        render_mode: None or "rgb_array".
        autoreset_mode: see dreams(); episodes of several lengths end apart, which only Disabled allows.
    """
    env, given = _replaying(num_envs, episodes, faults)
    return GymnastVectorEnv(env, render_mode=render_mode, autoreset_mode=autoreset_mode, **given)


def several(num_envs: int, make_env: Callable[[int], Env], **options: Any) -> GymnastVectorEnv:
    """Make a vector environment from a factory that takes the batch size."""
    return GymnastVectorEnv(make_env(num_envs), **options)


def _dreaming(
    rows: int, *, episodes: Episodes, checkpoint: str | Path, judge: str | Path | Judge | None = None,
    instruction: str | Sequence[str] | None = None, reward: str = "sparse", discount: float = 0.99,
    faults: Mapping[str, float] | None = None, max_steps: int = 15, start_step: int = 0,
    sampler: SamplerConfig | None = None,
) -> tuple[Env, Named]:  # fmt: skip
    """The environment, and what the Gymnasium form of it takes."""
    folder = Path(checkpoint)
    recorded = _recorded(episodes, size=declared_by(read_manifest(folder)).image_size)
    dreaming = imagined_envs(folder, recorded, max_steps=max_steps, start_step=start_step, sampler=sampler)(rows)

    def first_frames() -> ByteArray:
        return np.stack([start.first_HWC for start in dreaming.chosen])

    given: Named = {"instruction": instruction or list(dict.fromkeys(one.instruction for one in recorded))}
    if judge is not None:
        opened = read_judge(Path(judge)) if isinstance(judge, str | Path) else judge
        given["reward"] = JudgeReward(opened, kind=reward, discount=discount, first_frames=first_frames)
    return _faulty(dreaming, faults), given


def _replaying(rows: int, episodes: Episodes, faults: Mapping[str, float] | None) -> tuple[Env, Named]:
    recorded = _recorded(episodes)
    if len(recorded) < rows:
        raise ConfigError(f"{rows} rows need as many episodes, got {len(recorded)}")
    return _faulty(ReplayEnv(recorded[:rows]), faults), {"instruction": [one.instruction for one in recorded[:rows]]}


def _faulty(env: Env, faults: Mapping[str, float] | None) -> Env:
    return env if faults is None else FaultyEnv(env, Faults.of(faults))


def _recorded(episodes: Episodes, *, size: int | None = None) -> Sequence[Episode]:
    if not isinstance(episodes, str | Path):
        return episodes
    path = Path(episodes)
    files = [path] if path.is_file() else sorted(path.rglob("*.mcap"))
    if not files:
        raise ConfigError(f"no episodes (.mcap) in {path}; record some, or fetch them with `gymnast episodes`")
    return [read_episode(file, image_size=None if size is None else (size, size)) for file in files]
