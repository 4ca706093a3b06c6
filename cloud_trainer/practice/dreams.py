"""What people look at, kept in a job's folder: held-out episodes beside their dreams, and the newest rollouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file

from cloud_trainer.practice.grpo.scored import Scored
from cloud_trainer.practice.imagine import replay_clips
from cloud_trainer.practice.kept_rollouts import keep_rollouts
from cloud_trainer.world_model.compact.data import Clips
from cloud_trainer.world_model.worlds import World
from gymnast_core.judge import Judge

if TYPE_CHECKING:
    from cloud_trainer.practice.train import Sampler
    from gymnast_core.policies.trainable import LearningPolicy


def keep_dreams(world: World, judge: Judge, held_out: Clips, folder: Path, *, seed: int, per_task: int = 2) -> None:
    """Write dreams.json and dreams.safetensors: the first held-out episodes of every task, real and imagined.

    dreams.json lists {episode_id, instruction, real, imagined, score, frame_steps}; the tensors real_N and imagined_N
    are (F, H, W, 3) uint8 at those steps.
    """
    rows = [row for name in dict.fromkeys(held_out.instructions) for row in _first(held_out, name, per_task)]
    clips = held_out.take(rows)
    rollouts = replay_clips(world, clips, seed=seed)
    verdicts = judge.judge(rollouts)
    steps = [int(step) for step in rollouts.frame_steps_F]
    tensors, index = {}, []
    for n, verdict in enumerate(verdicts):
        tensors[f"real_{n}"] = np.ascontiguousarray(clips.frames_NTHWC[n, steps])
        tensors[f"imagined_{n}"] = np.ascontiguousarray(rollouts.frames_BFHWC[n])
        index.append(
            {
                "episode_id": clips.episode_ids[n],
                "instruction": clips.instructions[n],
                "real": clips.outcome_of(n).value,
                "imagined": verdict.outcome.value,
                "score": round(float(verdict.score), 4),
                "frame_steps": steps,
            }
        )
    save_file(tensors, folder / "dreams.safetensors")
    (folder / "dreams.json").write_text(json.dumps(index, indent=1))


def _first(clips: Clips, instruction: str, count: int) -> list[int]:
    return [row for row, text in enumerate(clips.instructions) if text == instruction][:count]


def watched(sampler: Sampler, folder: Path) -> Sampler:
    """Return the same sampler; a few of what it imagined last lie in the folder for people to look at."""

    def sample(policy: LearningPolicy, rng: np.random.Generator) -> Scored:
        scored = sampler(policy, rng)
        keep_rollouts(folder, scored)
        return scored

    return sample
