"""What is rewarded where a judge looks at every chunk end: failures called successes, by how the threshold is chosen.

`python -m benchmarks.looks NAME=WORLD_MODEL,JUDGE,EPISODES[,EPISODES] ...` splits the first folder's episodes as the
improve job does, chooses thresholds on dreams of its eighth "thresholds", and measures on dreams of its eighth "audit"
and of every episode of the second folder, a policy that neither world model nor judge learned from. "last" is the
verdict at the last chunk end, which thresholds and audit look at; "any" a success at one chunk end at least, which
practice rewards. Thresholds "of the end" are chosen on the last score, "of an episode" on the best score of each.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cloud_trainer.jobs.splits import split
from cloud_trainer.judge.learned import LearnedJudge
from cloud_trainer.judge.thresholds import Thresholds, calibrate, choose_thresholds
from cloud_trainer.practice.imagine import replay_clips
from cloud_trainer.world_model.compact.data import Clips, clips_of
from cloud_trainer.world_model.worlds import CompactWorld, World
from gymnast_core.episodes import read_episode
from gymnast_core.images import area_downsample
from gymnast_core.policies.processor import use_threads
from gymnast_core.types import BoolArray, Episode, FloatArray, Outcome


def main() -> int:
    """Measure every dream that is named and print its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dreams", nargs="+", metavar="NAME=WORLD_MODEL,JUDGE,EPISODES[,EPISODES]")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    use_threads()
    rows = [row for word in args.dreams for row in of_dream(*word.split("=", 1))]
    print("| dream | episodes | thresholds | look | low, high | false success [95 %] | missed | abstained |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        false, low, high = row["false_success"]
        print(
            f"| {row['dream']} | {row['episodes']} ({row['won']} of {row['count']} won) | {row['thresholds']} | "
            f"{row['look']} | {row['low']:.2f}, {row['high']:.2f} | {false:.2f} [{low:.2f}, {high:.2f}] | "
            f"{row['missed']:.2f} | {row['abstained']:.2f} |"
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    return 0


def of_dream(name: str, parts: str) -> list[dict[str, Any]]:
    """Return a dream's rows."""
    world_model, judge_folder, *folders = (Path(word) for word in parts.split(","))
    world, judge = CompactWorld.load(world_model), LearnedJudge.load(judge_folder)
    own = split(_read(folders[0]))
    choosing = clips_of(own["thresholds"], world.image_size)
    chosen_NF = replayed_scores(world, judge, choosing, seed=1)
    known: dict[str, Thresholds] = {
        "of the end": choose_thresholds(chosen_NF[:, -1], choosing.success_N),
        "of an episode": choose_thresholds(chosen_NF.max(1), choosing.success_N),
    }
    seen = {"audit": clips_of(own["audit"], world.image_size)}
    seen |= {folder.parent.name: clips_of(_read(folder), world.image_size) for folder in folders[1:]}
    rows = []
    for what, clips in seen.items():
        score_NF = replayed_scores(world, judge, clips, seed=2)
        for how, look in (("of the end", "last"), ("of the end", "any"), ("of an episode", "any")):
            score_N = score_NF[:, -1] if look == "last" else score_NF.max(1)
            count = {"count": len(clips), "won": int(clips.success_N.sum())}
            names = {"dream": name, "episodes": what, "thresholds": how, "look": look}
            rows.append({**names, **count, **measured(score_N, clips.success_N, known[how])})
    return rows


def replayed_scores(world: World, judge: LearnedJudge, clips: Clips, *, seed: int) -> FloatArray:
    """Replay episodes in the dream; returns (N, looks) the judge's score at every chunk end, the last at the end."""
    rollouts = replay_clips(world, clips, seed=seed)
    frames_BFHWC = area_downsample(rollouts.frames_BFHWC, judge.config.image_size)
    later = (frames_BFHWC[:, look] for look in range(1, frames_BFHWC.shape[1]))
    return np.stack([judge.scores(frames_BFHWC[:, 0], frames, clips.instructions) for frames in later], axis=1)


def measured(score_N: FloatArray, success_N: BoolArray, thresholds: Thresholds) -> dict[str, Any]:
    """Return false and missed success, abstaining counted as neither, with Wilson intervals."""
    found = calibrate(score_N, success_N, thresholds)
    return {
        "low": thresholds.low,
        "high": thresholds.high,
        "false_success": found.false_success or (np.nan,) * 3,
        "missed": 1 - (found.recall or (np.nan,))[0],
        "abstained": found.abstained,
    }


def _read(folder: Path) -> list[Episode]:
    found = [read_episode(path, image_size=(64, 64)) for path in sorted(folder.glob("**/*.mcap"))]
    return [episode for episode in found if episode.outcome in (Outcome.SUCCESS, Outcome.FAILURE)]


if __name__ == "__main__":
    sys.exit(main())
