"""Why a dream takes failures of the policy that practised in it for successes: the judge, or what is drawn?

`python -m benchmarks.sight_cause` looks at the 600 episodes that `benchmarks.sight` recorded of a seed's practised
policy, none of which world model or judge learned from, in the dream it practised in. The judge sees their recorded
ends; ends dreamt from the first frame, or from a later recorded one; ends with more steps of sampling; the same under
other noise; and, as practice rewards with success masking, the end of every chunk. Beside false and missed success
stands the AUC of the judge's score, which no threshold decides.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.demo_seeds import Seed
from benchmarks.sight import FIRST, PRACTISED
from cloud_trainer.judge.learned import LearnedJudge
from cloud_trainer.practice.imagine import replay_clips
from cloud_trainer.world_model.audit.cases import recorded_ends
from cloud_trainer.world_model.audit.metrics import average_ranks
from cloud_trainer.world_model.audit.outcomes import policy_of
from cloud_trainer.world_model.compact.data import Clips, clips_of
from cloud_trainer.world_model.compact.model import CompactWorldModel
from cloud_trainer.world_model.worlds import CompactWorld
from gymnast_cli.demo.config import DemoConfig
from gymnast_core.episodes import read_episode
from gymnast_core.policies.processor import use_threads
from gymnast_core.records.manifest import read_manifest
from gymnast_core.types import BoolArray, FloatArray

SAMPLING = (1, 4, 8)
"""Steps of sampling beside the checkpoint's own 2."""
LATER = (5, 10)
"""Steps from which a dream goes on alone: the starts of the second and third chunk."""


def main() -> int:
    """Measure every seed and print its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="10,11", help="comma separated")
    parser.add_argument("--out", type=Path, default=Path("runs/ceiling"), help="working folder of benchmarks.ceiling")
    parser.add_argument("--checkpoints", type=Path, default=DemoConfig().checkpoints)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    rows = [row for word in args.seeds.split(",") for row in of_seed(int(word), args)]
    print("| seed | what the judge sees | false success | missed success | AUC |\n|---|---|---|---|---|")
    for row in rows:
        figures = " | ".join(f"{row[name]:.2f}" for name in ("false_success", "missed_success", "auc"))
        print(f"| {row['seed']} | {row['seen']} | {figures} |")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    return 0


def of_seed(number: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a seed's rows."""
    use_threads()
    seed = Seed(DemoConfig(seed=number, checkpoints=args.checkpoints), args.out / f"seed-{number}")
    practised, dream = read_manifest(seed.folder / PRACTISED).id, seed.folder / FIRST
    episodes = [read_episode(entry.path, image_size=(64, 64)) for entry in seed.recorded()]
    own = [episode for episode in episodes if policy_of(episode) == practised]
    clips, judge = clips_of(own, 64), LearnedJudge.load(dream / "judge")
    ends = {"recorded ends": _scores(judge, recorded_ends(own, 64).frames_BFHWC, clips)[:, 0]}
    ends |= dreamt(dream / "world_model", judge, clips)
    return [{"seed": number, "seen": seen, **measured(score, clips, judge)} for seen, score in ends.items()]


def dreamt(folder: Path, judge: LearnedJudge, clips: Clips) -> dict[str, FloatArray]:
    """Return the judge's scores of dreams, by how they were drawn."""
    world = CompactWorld.load(folder)
    drawn = _scores(judge, replay_clips(world, clips, seed=0).frames_BFHWC, clips)
    again = _scores(judge, replay_clips(world, clips, seed=1_000_003).frames_BFHWC, clips)[:, -1]
    found = {"dreamt ends": drawn[:, -1], "dreamt ends, other noise": again}
    found["success under both noises"] = np.minimum(drawn[:, -1], again)
    found["any chunk's dreamt end"] = drawn.max(1)
    for step in LATER:
        late = replay_clips(world, clips, seed=0, step=step).frames_BFHWC
        found[f"dreamt ends, from step {step}"] = _scores(judge, late, clips)[:, -1]
    for steps in SAMPLING:
        finer = CompactWorld(CompactWorldModel.load(folder, sampling_steps=steps))
        found[f"dreamt ends, {steps} sampling steps"] = _scores(
            judge, replay_clips(finer, clips, seed=0).frames_BFHWC, clips
        )[:, -1]
    return found


def _scores(judge: LearnedJudge, frames_BFHWC: np.ndarray, clips: Clips) -> FloatArray:
    """(B, F - 1) scores of every frame after the first."""
    first_BHWC = clips.frames_NTHWC[:, 0]
    later = (frames_BFHWC[:, place] for place in range(1, frames_BFHWC.shape[1]))
    return np.stack([judge.scores(first_BHWC, frames, clips.instructions) for frames in later], axis=1)


def measured(score_N: FloatArray, clips: Clips, judge: LearnedJudge) -> dict[str, float]:
    """Return false and missed success at the judge's threshold, and the AUC (Mann & Whitney 1947)."""
    real_N: BoolArray = clips.success_N
    called, won = score_N >= judge.thresholds.high, int(real_N.sum())
    lost = len(real_N) - won
    above = average_ranks(score_N)[real_N].sum() - won * (won + 1) / 2
    return {
        "false_success": float(called[~real_N].mean()),
        "missed_success": float((~called[real_N]).mean()),
        "auc": float(above / (won * lost)),
    }


if __name__ == "__main__":
    sys.exit(main())
