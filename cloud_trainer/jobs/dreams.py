"""Held-out episodes beside their dreams, kept in a job's folder for people to look at."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from cloud_trainer.jobs.imagine import replay_clips
from cloud_trainer.world_model.compact_data import Clips
from cloud_trainer.world_model.compact_model import CompactWorldModel
from gymnast_core.judge import Judge


def keep_dreams(
    model: CompactWorldModel, judge: Judge, held_out: Clips, folder: Path, *, seed: int, per_task: int = 2
) -> None:
    """Write dreams.json and dreams.safetensors: the first held-out episodes of every task, real and imagined.

    dreams.json lists {episode_id, instruction, real, imagined, score, frame_steps}; the tensors real_N and imagined_N
    are (F, 64, 64, 3) uint8 at those steps.
    """
    rows = [row for name in dict.fromkeys(held_out.instructions) for row in _first(held_out, name, per_task)]
    clips = held_out.take(rows)
    rollouts = replay_clips(model, clips, seed=seed)
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
                "real": "success" if clips.success_N[n] else "failure",
                "imagined": verdict.outcome.value,
                "score": round(float(verdict.score), 4),
                "frame_steps": steps,
            }
        )
    save_file(tensors, folder / "dreams.safetensors")
    (folder / "dreams.json").write_text(json.dumps(index, indent=1))


def _first(clips: Clips, instruction: str, count: int) -> list[int]:
    return [row for row, text in enumerate(clips.instructions) if text == instruction][:count]
