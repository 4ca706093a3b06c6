"""`gymnast audit`: how far a world model may be trusted, measured on recorded episodes it never saw."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from gymnast_cli.connect import emit
from gymnast_core.errors import ConfigError, NotTrustedError

if TYPE_CHECKING:
    from rich.table import Table

    from cloud_trainer.world_model.compact_data import Clips

REFUSED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("episodes", type=Path, nargs="+", help=".mcap files, or folders of them; held out of training")
    parser.add_argument("--world-model", type=Path, required=True, metavar="FOLDER", help="checkpoint to audit")
    parser.add_argument("--judge", type=Path, required=True, metavar="FOLDER", help="checkpoint that judges the dreams")
    parser.add_argument("--out", type=Path, default=Path("audit"), help="folder for audit.json, audit.html and dreams")
    parser.add_argument("--seed", type=int, default=0, help="of the model's noise")


def run(args: argparse.Namespace, console: Console) -> int:
    """Audit; 3 when reinforcement learning would be refused."""
    from cloud_trainer.jobs.audit import audit
    from cloud_trainer.jobs.dreams import keep_dreams
    from cloud_trainer.judge.learned import LearnedJudge
    from cloud_trainer.world_model.audit_compact import AuditBounds, check_audit
    from cloud_trainer.world_model.compact_model import CompactWorldModel

    clips = labelled_clips(args.episodes)
    model, judge = CompactWorldModel.load(args.world_model), LearnedJudge.load(args.judge)
    report = audit(model, judge, clips, seed=args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    keep_dreams(model, judge, clips, args.out, seed=args.seed)
    refusal = ""
    try:
        check_audit(report, AuditBounds())
    except NotTrustedError as error:
        refusal = str(error)
    result = {**report.to_json(), "world_model": model.version, "judge": judge.version, "trusted": not refusal,
              "refusal": refusal}  # fmt: skip
    (args.out / "audit.json").write_text(json.dumps(result, indent=1))
    write_page(result, args.out)
    emit(args, console, {**result, "page": str(args.out / "audit.html")}, table(result))
    console.print(f"{refusal or 'within the bounds'}; page: {args.out / 'audit.html'}")
    return REFUSED if refusal else 0


def episode_files(paths: list[Path]) -> list[Path]:
    """Every .mcap named or inside a named folder.

    Raises:
        ConfigError: there is none.
    """
    files = [file for path in paths for file in (sorted(path.rglob("*.mcap")) if path.is_dir() else [path])]
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        raise ConfigError(f"no episode files: {', '.join(missing or map(str, paths))}; name .mcap files or folders")
    return files


def labelled_clips(paths: list[Path]) -> Clips:
    """Read the labelled, full-length episodes at the compact models' size.

    Raises:
        ConfigError: there is none.
    """
    from cloud_trainer.jobs.pipeline import EPISODE_STEPS, IMAGE_SIZE
    from cloud_trainer.world_model.compact_data import clips_of
    from gymnast_core.episodes import read_episode
    from gymnast_core.types import Outcome

    files = episode_files(paths)
    episodes = [read_episode(path, image_size=(IMAGE_SIZE, IMAGE_SIZE)) for path in files]
    usable = [episode for episode in episodes
              if episode.steps == EPISODE_STEPS and episode.outcome in (Outcome.SUCCESS, Outcome.FAILURE)]  # fmt: skip
    if not usable:
        raise ConfigError(f"none of {len(files)} episodes is labelled and {EPISODE_STEPS} steps long; label some")
    return clips_of(usable, IMAGE_SIZE)


def table(result: dict[str, Any]) -> Table:
    """The numbers for people."""
    from rich.table import Table

    shown = Table(title=f"Imagined against real, {result['episodes']} held-out episodes")
    for column in ("task", "episodes", "agreement", "imagined success", "real success"):
        shown.add_column(column, justify="left" if column == "task" else "right")
    for name, row in result["by_task"].items():
        shown.add_row(name, str(int(row["episodes"])), *_rates(row))
    shown.add_section()
    shown.add_row("all", str(result["episodes"]), *_rates(result), style="bold")
    return shown


def _rates(row: dict[str, Any]) -> list[str]:
    return [f"{row[name]:.0%}" for name in ("agreement", "imagined_success", "real_success")]


def write_page(result: dict[str, Any], folder: Path) -> Path:
    """Write audit.html: the numbers, and recorded episodes beside their dreams; no external assets."""
    from safetensors.numpy import load_file

    from gymnast_cli.audit_page import Dream, audit_page

    frames = load_file(folder / "dreams.safetensors")
    index = json.loads((folder / "dreams.json").read_text())
    dreams = [Dream(entry, frames[f"real_{n}"], frames[f"imagined_{n}"]) for n, entry in enumerate(index)]
    page = folder / "audit.html"
    page.write_text(audit_page(result, dreams), encoding="utf-8")
    return page
