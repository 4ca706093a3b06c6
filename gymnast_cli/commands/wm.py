"""`gymnast wm`: convert a published model, check a dataset's actions, train, roll out, audit.

The audit says how far a world model may be trusted, measured on recorded episodes it never saw.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from gymnast_cli import wm_lab
from gymnast_cli.connect import add_override_argument, emit
from gymnast_cli.wm_data import add_data_arguments, recorded
from gymnast_core.errors import ConfigError, NotTrustedError

if TYPE_CHECKING:
    from rich.table import Table

    from cloud_trainer.world_model.audit.report import AuditReport
    from cloud_trainer.world_model.worlds import World
    from gymnast_core.types import Episode

REFUSED = 3
TRACKER_EVERY = 4
"""Without --tracker every fourth episode is set apart to learn reading the gripper from."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    wm_lab.add_arguments(actions)
    audit = actions.add_parser("audit", help="real against imagined, with a page of videos")
    audit.add_argument("episodes", type=Path, nargs="+", help=".mcap files, or folders of data; held out of training")
    add_data_arguments(audit)
    audit.add_argument("--world-model", type=Path, required=True, metavar="FOLDER", help="checkpoint to audit")
    audit.add_argument("--judge", type=Path, metavar="FOLDER", help="checkpoint that judges the dreams")
    audit.add_argument("--parent", type=Path, metavar="FOLDER", help="checkpoint it must not audit worse than")
    audit.add_argument(
        "--tracker", type=Path, nargs="+", default=[], metavar="PATH",
        help="other episodes of the same camera, to read the gripper by (default: every fourth of those given)",
    )  # fmt: skip
    audit.add_argument(
        "--parts", nargs="+", metavar="PART",
        help="measure and demand only these of: outcomes pictures objects motion gripper trust (default: all)",
    )  # fmt: skip
    audit.add_argument("--pictures", type=int, metavar="N", help="dream at most N of them frame by frame (default all)")
    audit.add_argument("--start", type=int, default=0, help="step from which the model goes on alone")
    add_override_argument(audit)
    audit.add_argument("--out", type=Path, default=Path("audit"), help="folder for audit.json and audit.html")
    audit.add_argument("--seed", type=int, default=0, help="of the model's noise")
    bounds = actions.add_parser(
        "bounds", help="calibrate the gates to a world model that is known to be good: writes its bounds.json"
    )
    bounds.add_argument("episodes", type=Path, nargs="+", help=".mcap files or folders; held out of training, labelled")
    bounds.add_argument("--world-model", type=Path, required=True, metavar="FOLDER", help="as it is known to be good")
    bounds.add_argument("--judge", type=Path, required=True, metavar="FOLDER", help="checkpoint that judges the dreams")
    bounds.add_argument("--seed", type=int, default=0, help="of the model's noise and of the draws")


def run(args: argparse.Namespace, console: Console) -> int:
    """Do one action."""
    here = {"audit": _audit, "bounds": _bounds}
    return here[args.action](args, console) if args.action in here else wm_lab.run(args, console)


def _bounds(args: argparse.Namespace, console: Console) -> int:
    """Audit the untouched model over and over, and write what each gate may demand of it and its children."""
    from cloud_trainer.jobs.calibrate import calibrate_gate, require_enough
    from cloud_trainer.jobs.calibrated import GATES, write_bounds
    from cloud_trainer.jobs.scene_amounts import TRACKER_EPISODES
    from cloud_trainer.judge.learned import LearnedJudge
    from cloud_trainer.world_model.audit.cases import imagine_cases, spread_over
    from cloud_trainer.world_model.audit.metrics import GripperTracker
    from cloud_trainer.world_model.worlds import load_world
    from gymnast_cli.stages import Stages

    world, judge = load_world(args.world_model), LearnedJudge.load(args.judge)
    episodes = _not_learned_from(labelled_episodes(args.episodes, world.image_size), (args.world_model, args.judge))
    held_out = [episode for row, episode in enumerate(episodes) if row % TRACKER_EVERY]
    require_enough(held_out)
    tracker = GripperTracker.fit(spread_over(episodes[::TRACKER_EVERY], TRACKER_EPISODES), seed=args.seed)
    gates = {}
    with Stages(console) as stages:
        with stages.stage(f"dream {len(held_out)} episodes"):
            cases = imagine_cases(world.dreamer(), held_out, draws=1, seed=args.seed)
        for gate in GATES:
            with stages.stage(f"calibrate {gate}"):
                gates[gate] = calibrate_gate(gate, cases, judge, tracker, seed=args.seed)
    found = {"world_model": world.version, "judge": judge.version, "episodes": len(held_out), "gates": gates}
    path = write_bounds(args.world_model, found)
    emit(args, console, {**found, "file": str(path)}, f"bounds of {world.version} are in {path}")
    return 0


def _not_learned_from(episodes: list[Episode], checkpoints: tuple[Path, ...]) -> list[Episode]:
    """Return the episodes, if none of them taught one of the checkpoints: a model is too good at what it was shown.

    Raises:
        ConfigError: one did.
    """
    from gymnast_core.records.manifest import read_manifest

    for checkpoint in checkpoints:
        taught = set(read_manifest(checkpoint).lineage.get("episodes", ()))
        if seen := sorted(taught & {episode.episode_id for episode in episodes}):
            raise ConfigError(
                f"{len(seen)} of these episodes, {seen[0]} among them, were learned from by {checkpoint}; name others"
            )
    return episodes


def _audit(args: argparse.Namespace, console: Console) -> int:
    """Audit; 3 when reinforcement learning would be refused, or the parent is better."""
    from cloud_trainer.judge.learned import LearnedJudge
    from cloud_trainer.world_model.audit.audit import require_no_worse, require_trust
    from cloud_trainer.world_model.audit.run import run_audit
    from cloud_trainer.world_model.worlds import load_world
    from gymnast_core.jobs.audit import PARTS, AuditConfig

    config = AuditConfig(parts=tuple(args.parts or PARTS), pictures=args.pictures, start=args.start)
    if args.kind == "mcap":
        episode_files([*args.episodes, *args.tracker])  # a wrong path is told before a large model is read
    world = load_world(args.world_model)
    held_out, others = _split(args, world, tracked=bool({"motion", "gripper"} & set(config.parts)))
    judge = None if args.judge is None else LearnedJudge.load(args.judge)

    def audited(world: World, out: Path | None) -> AuditReport:
        return run_audit(
            world.dreamer(), held_out, judge=judge, tracker_episodes=others, config=config, out=out,
            model=world.version, seed=args.seed,
        )  # fmt: skip

    report, refusal = audited(world, args.out), ""
    try:
        require_trust(report, overrides=dict(args.override))
        if args.parent is not None:
            require_no_worse(
                report, audited(load_world(args.parent), None), seed=args.seed, overrides=dict(args.override)
            )
    except NotTrustedError as error:
        refusal = str(error)
    result = {**report.summary(), "world_model": report.model, "trusted": not refusal, "refusal": refusal,
              "overridden": {name: why for name, why in args.override if name in report.broken},
              "page": str(args.out / "audit.html")}  # fmt: skip
    emit(args, console, result, table(report))
    console.print(f"{refusal or 'within the bounds'}; page: {args.out / 'audit.html'}", markup=False)
    return REFUSED if refusal else 0


def _split(args: argparse.Namespace, world: World, *, tracked: bool) -> tuple[list[Episode], list[Episode]]:
    """Held-out episodes, and those the gripper tracker learns from: none where no pose was recorded."""

    def read(paths: list[Path]) -> list[Episode]:
        if args.kind != "mcap":
            return recorded(args, paths)
        return labelled_episodes(paths, args.size or world.image_size)

    episodes = read(args.episodes)
    if args.tracker:
        return episodes, read(args.tracker)
    if not tracked or not all(episode.metadata.get("proprioception", True) for episode in episodes):
        return episodes, []
    apart = range(TRACKER_EVERY - 1, len(episodes), TRACKER_EVERY)
    return [e for row, e in enumerate(episodes) if row not in apart], [episodes[row] for row in apart]


def episode_files(paths: list[Path]) -> list[Path]:
    """Every .mcap named or inside a named folder.

    Raises:
        ConfigError: there is none.
    """
    from cloud_trainer.world_model.data.files import below

    files = [file for path in paths for file in (below(path, ".mcap") if path.is_dir() else [path])]
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        raise ConfigError(f"no episode files: {', '.join(missing or map(str, paths))}; name .mcap files or folders")
    return files


def labelled_episodes(paths: list[Path], image_size: int) -> list[Episode]:
    """Read the labelled episodes, whatever their length, frames of image_size pixels a side.

    Raises:
        ConfigError: there is none.
    """
    from gymnast_core.episodes import read_episode
    from gymnast_core.types import Outcome

    files = episode_files(paths)
    episodes = [read_episode(path, image_size=(image_size, image_size)) for path in files]
    labelled = [episode for episode in episodes if episode.outcome in (Outcome.SUCCESS, Outcome.FAILURE)]
    if not labelled:
        raise ConfigError(f"none of {len(files)} episodes is labelled; label some")
    return labelled


def table(report: AuditReport) -> Table:
    """The bounded numbers for people."""
    from rich.table import Table

    from cloud_trainer.world_model.audit.report import scalars

    shown = Table(title=f"Audit of {report.model}")
    for column in ("bound", "measured", "demanded", ""):
        shown.add_column(column, justify="left" if column == "bound" else "right")
    for name, value in scalars(report).items():
        demanded = report.bounds[name]
        measured = "–" if value != value else f"{value:.3g}"
        shown.add_row(name, measured, "" if demanded is None else f"{demanded:.3g}", "broken" * (name in report.broken))
    if report.trust is not None:
        broken = "broken" * ("coverage" in report.broken)
        shown.add_row("coverage", f"{report.trust['coverage']:.0%} {report.trust['verdict']}", "85-95 %", broken)
    return shown
