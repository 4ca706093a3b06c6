"""`gymnast wm train-planner`, `adopt-planner` and `plan`: plans from words and a picture, and the actions they take."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from gymnast_cli.connect import emit
from gymnast_core.errors import ConfigError


def add_arguments(actions: Any) -> None:
    """Declare them."""
    train = actions.add_parser("train-planner", help="teach a compact planner what recorded successes look like")
    train.add_argument("episodes", type=Path, nargs="+", help="labelled .mcap files or folders; failures teach it "
                       "which action moves what")  # fmt: skip
    train.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="checkpoint folder to write; a run "
                       "that was stopped goes on")  # fmt: skip
    train.add_argument("--iterations", type=int, default=2000, help="of the planner (default %(default)s)")
    train.add_argument("--inverse-iterations", type=int, default=800, help="of inverse dynamics (default %(default)s)")
    train.add_argument("--seed", type=int, default=0, help="of everything")
    _adopt_arguments(actions.add_parser("adopt-planner", help="a planner that draws with a Wan image-to-video model, "
                                        "or a Large Video Planner"))  # fmt: skip
    plan = actions.add_parser("plan", help="a video of how it could be done, and the actions it takes")
    plan.add_argument("--planner", type=Path, required=True, metavar="FOLDER", help="checkpoint of a planner")
    plan.add_argument("--image", type=Path, required=True, metavar="FILE", help="a square picture of the scene, or an "
                      "episode's .mcap file: where it began")  # fmt: skip
    plan.add_argument("--instruction", default="", metavar="TEXT", help="what to do (default: the episode's)")
    plan.add_argument("--best-of", type=int, default=1, metavar="N", help="plans to choose from (default %(default)s)")
    plan.add_argument("--judge", type=Path, metavar="FOLDER|FILE", help="who chooses")
    plan.add_argument("--world-model", type=Path, metavar="FOLDER", help="let the judge see the plan's actions done in "
                      "this one (default: it sees the plan)")  # fmt: skip
    plan.add_argument("--camera", type=Path, metavar="FOLDER", help="a compact world model that was trained on this "
                      "camera: path.png shows the gripper's path in what it sees (default: --world-model)")  # fmt: skip
    plan.add_argument("--seed", type=int, default=0, help="of the plans")
    plan.add_argument("--out", type=Path, default=Path("plan"), metavar="FOLDER", help="plan.mp4, path.png, "
                      "actions.json and plan.json go here (default %(default)s)")  # fmt: skip


def _adopt_arguments(adopt: argparse.ArgumentParser) -> None:
    adopt.add_argument("folder", type=Path, help="of the video model, in diffusers' layout (transformer/, vae/, "
                       "text_encoder/ and so on); it is named by the planner, not copied")  # fmt: skip
    adopt.add_argument("--inverse", type=Path, required=True, metavar="FOLDER", help="compact planner whose inverse "
                       "dynamics reads the actions off the frames (gymnast wm train-planner)")  # fmt: skip
    adopt.add_argument("--network", type=Path, metavar="FILE", help="tensors under Wan's own names, as Large Video "
                       "Planner publishes them, as .safetensors (default: the folder's)")  # fmt: skip
    adopt.add_argument("--settings", type=Path, metavar="FILE", help=".json or .toml with image_size, height, width, "
                       "frames, sampling_steps, flow_shift, text_guidance, history_guidance or forced (default: Large "
                       "Video Planner's)")  # fmt: skip
    adopt.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="checkpoint folder to write")


def adopt_planner(args: argparse.Namespace, console: Console) -> int:
    """Check every tensor of the video model, and write the planner's checkpoint."""
    from cloud_trainer.jobs.desk.plans import adopt_planner as adopt

    manifest = adopt(args.folder, args.inverse, args.out, network=args.network, settings=args.settings)
    found = {"id": manifest.id, "folder": str(args.out), "files": len(manifest.config["files"])}
    emit(args, console, found, f"{manifest.id} in {args.out}: plan with gymnast wm plan --planner {args.out}")
    return 0


def train_planner(args: argparse.Namespace, console: Console) -> int:
    """Train one, and say where it is."""
    from cloud_trainer.jobs.desk.plans import PlannerTraining, train
    from gymnast_cli.stages import Stages

    if args.out.exists():
        raise ConfigError(f"{args.out} exists; checkpoints are immutable, choose another folder")
    config = PlannerTraining(iterations=args.iterations, inverse_iterations=args.inverse_iterations, seed=args.seed)
    with Stages(console) as stages, stages.stage("train planner") as advance:
        manifest = train(
            args.episodes, args.out, config,
            progress=lambda event: advance(event.step, event.total, f"{event.stage} {event.metrics['loss']:.3f}"),
        )  # fmt: skip
    found = {"id": manifest.id, "folder": str(args.out), "bytes": manifest.weights_bytes,
             "successes": manifest.lineage["successes"], "episodes": len(manifest.lineage["episodes"])}  # fmt: skip
    text = f"{manifest.id} in {args.out}, from {found['successes']} successes of {found['episodes']} episodes"
    emit(args, console, found, text)
    return 0


def plan(args: argparse.Namespace, console: Console) -> int:
    """Plan, and say how to play it."""
    from cloud_trainer.jobs.desk.plans import PlanSettings, make_plan

    settings = PlanSettings(
        planner=args.planner, judge=args.judge, world_model=args.world_model, best_of=args.best_of, seed=args.seed
    )
    found = make_plan(settings, args.image, args.instruction, args.out, camera=args.camera)
    judged = f"; the best of {len(found.scores)} scores {found.scores[found.best]:.2f}" if found.scores else ""
    path = f"in {found.path}" if found.path else f"not drawn into the camera's picture: {found.no_path}"
    text = (
        f"{found.planner}: {found.steps} steps in {found.video}{judged}\n"
        f"the gripper's path: {path}\n"
        f"on a started robot, real or simulated: gymnast evaluate replay:{found.actions.resolve()} --count 1"
    )
    value = {"planner": found.planner, "video": str(found.video), "actions": str(found.actions), "steps": found.steps,
             "scores": list(found.scores), "best": found.best, "path": None if found.path is None else str(found.path),
             "no_path": found.no_path}  # fmt: skip
    emit(args, console, value, text)
    return 0
