"""`gymnast judge calibrate`: a judge's verdicts against operator labels."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from gymnast_cli.connect import emit

if TYPE_CHECKING:
    from rich.table import Table

    from cloud_trainer.judge.trust import JudgeCalibration
    from cloud_trainer.world_model.compact.data import Clips
    from cloud_trainer.world_model.worlds import World
    from gymnast_core.judge import Verdict
    from gymnast_core.types import RolloutBatch

REFUSED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare calibrate."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    calibrate = actions.add_parser("calibrate", help="precision and recall per task, with intervals")
    calibrate.add_argument("episodes", type=Path, nargs="+", help="labelled .mcap files or folders; held out")
    calibrate.add_argument(
        "--judge",
        type=Path,
        required=True,
        metavar="FOLDER|FILE",
        help="a checkpoint; or a .json/.toml naming an endpoint or a local model, see cloud_trainer/judge/choice.py",
    )
    calibrate.add_argument(
        "--world-model",
        type=Path,
        metavar="FOLDER",
        help="judge the episodes' dreams instead of their recordings: what RL will show it",
    )
    calibrate.add_argument("--floor", type=float, help="exit 3 unless every task's precision is proven above this")
    calibrate.add_argument("--out", type=Path, metavar="FILE", help="write the calibration here, for RL to ask")
    calibrate.add_argument("--seed", type=int, default=0, help="of the dreams")


def run(args: argparse.Namespace, console: Console) -> int:
    """Calibrate; 3 when the floor is not reached, another failure when the judge could not be asked."""
    from cloud_trainer.judge.choice import read_judge
    from cloud_trainer.judge.learned import JudgeConfig
    from cloud_trainer.judge.trust import compare, require_trusted
    from cloud_trainer.world_model.compact.data import clips_of
    from cloud_trainer.world_model.worlds import load_world
    from gymnast_cli.commands.wm import labelled_episodes
    from gymnast_core.errors import NotTrustedError

    world = None if args.world_model is None else load_world(args.world_model)
    size = JudgeConfig().image_size if world is None else world.image_size
    clips = clips_of(labelled_episodes(args.episodes, size), size)
    judge = read_judge(args.judge)
    labels = [clips.outcome_of(row) for row in range(len(clips))]
    rollouts = _rollouts(clips, world, args.seed)
    verdicts = judge.judge(rollouts)
    _require_answers(verdicts)
    report = compare(judge.version, verdicts, labels, rollouts.instructions)
    if args.out is not None:
        report.write(args.out)
    refusal = ""
    if args.floor is not None:
        try:
            require_trusted(report, judge.version, clips.instructions, floor=args.floor)
        except NotTrustedError as error:
            refusal = str(error)
    emit(args, console, {**report.to_json(), "refusal": refusal}, table(report))
    if refusal:
        console.print(refusal, style="red", markup=False)
    return REFUSED if refusal else 0


def _require_answers(verdicts: Sequence[Verdict]) -> None:
    """Refuse a calibration in which silence would count as doubt: the judge could not be asked.

    Raises:
        RejectedBridgeError: some calls failed; carries how many rollouts that left open, and the first failure.
    """
    from gymnast_core.errors import RejectedBridgeError

    failed = [verdict.evidence["errors"] for verdict in verdicts if verdict.evidence.get("abstained") == "outage"]
    if failed:
        raise RejectedBridgeError(
            f"the judge could not be asked about {len(failed)} of {len(verdicts)} rollouts, nothing is calibrated; "
            f"the first failure: {failed[0][0]}"
        )


def _rollouts(clips: Clips, world: World | None, seed: int) -> RolloutBatch:
    """The recordings, or what the world model makes of them."""
    import numpy as np

    from cloud_trainer.practice.imagine import replay_clips
    from gymnast_core.types import RolloutBatch

    if world is not None:
        return replay_clips(world, clips, seed=seed)
    steps = clips.actions_NTA.shape[1]
    kept = np.unique(np.append(np.arange(0, steps, 5), steps)).astype(np.int64)
    return RolloutBatch(
        instructions=clips.instructions, frame_steps_F=kept, frames_BFHWC=clips.frames_NTHWC[:, kept],
        actions_BTA=clips.actions_NTA, log_probs_BTA=np.zeros_like(clips.actions_NTA),
        length_B=clips.length_N, policy_version="recorded", group_B=np.arange(len(clips)),
    )  # fmt: skip


def table(report: JudgeCalibration) -> Table:
    """The calibration for people."""
    from rich.table import Table

    shown = Table(title=f"{report.judge}, {report.confidence:.0%} intervals")
    for column in ("task", "labelled", "abstained", "precision", "recall"):
        shown.add_column(column, justify="left" if column == "task" else "right")
    for row in report.tasks:
        name = "all" if row.task == "*" else row.task
        shown.add_row(name, str(row.labelled), str(row.abstained), _interval(row.precision), _interval(row.recall))
    return shown


def _interval(interval: Any) -> str:
    return f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]" if interval else "never said success"
