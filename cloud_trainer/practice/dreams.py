"""What people look at, kept in a job's folder: held-out episodes beside their dreams, and the newest rollouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from cloud_trainer.practice.grpo.scored import Scored
from cloud_trainer.practice.imagine import replay_clips
from cloud_trainer.world_model.compact.data import Clips
from cloud_trainer.world_model.worlds import World
from gymnast_core.judge import Judge
from gymnast_core.types import ByteArray

if TYPE_CHECKING:
    from cloud_trainer.practice.train import Sampler
    from gymnast_core.policies.trainable import LearningPolicy

ROLLOUTS = "imagined.safetensors"
SHOWN_ROLLOUTS = 4


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


def keep_rollouts(folder: Path, scored: Scored) -> None:
    """Write a few rollouts in place of those before; one of each of 4 groups.

    Args:
        folder: of the job.
        scored: what was imagined, and what the judge said of it.
    """
    groups, first = np.unique(scored.rollouts.group_B, return_index=True)
    rows = first[np.linspace(0, len(groups) - 1, min(SHOWN_ROLLOUTS, len(groups))).round().astype(int)].tolist()
    verdicts = np.where(scored.use_B, np.where(scored.reward_B > 0.5, "success", "failure"), "abstain")
    shown = [{"instruction": scored.rollouts.instructions[row], "outcome": str(verdicts[row])} for row in rows]
    films = {str(n): np.ascontiguousarray(scored.rollouts.frames_BFHWC[row]) for n, row in enumerate(rows)}
    partial = folder / f".{ROLLOUTS}.partial"
    save_file(films, partial, metadata={"rows": json.dumps(shown)})
    partial.rename(folder / ROLLOUTS)


def read_rollouts(folder: Path) -> tuple[list[dict[str, Any]], list[ByteArray]]:
    """Return what keep_rollouts() wrote last: {instruction, outcome} and (F, H, W, 3) frames of each; empty before."""
    path = folder / ROLLOUTS
    if not path.exists():
        return [], []
    with safe_open(path, framework="numpy") as file:
        rows, films = json.loads(file.metadata()["rows"]), [file.get_tensor(str(n)) for n in range(len(file.keys()))]
    return rows, films
