"""`gymnast weights export` and `import`: checkpoints as folders that the Hugging Face Hub takes."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from rich.console import Console

from gymnast_cli.connect import add_trainer_arguments, emit, trainer
from gymnast_cli.releases import fetched
from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.text import one_line


def add_arguments(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare export and import."""
    export = actions.add_parser(
        "export", help="write a checkpoint as a Hub folder: config.json, model.safetensors, README.md"
    )
    export.add_argument("checkpoint", help="folder, or id of one that the trainer released: then with what "
                        "its trials and gates found")  # fmt: skip
    export.add_argument("out", type=Path, help="folder to write; must not exist")
    add_trainer_arguments(export)
    importing = actions.add_parser(
        "import", help="read such a folder: into the trainer, recorded as made elsewhere (admin), or into a checkpoint"
    )
    importing.add_argument("folder", type=Path, help="with config.json and model.safetensors; none of it is executed")
    importing.add_argument("--into", type=Path, metavar="CHECKPOINT",
                           help="write a checkpoint folder, and ask no trainer; must not exist")  # fmt: skip
    add_trainer_arguments(importing)


def export(args: argparse.Namespace, console: Console) -> int:
    """Write the folder, with everything that is known of how good the checkpoint is."""
    from gymnast_core.records.hub_folder import write_hub_folder
    from gymnast_core.records.model_card import measured_in_gates, measured_on_arms

    if (folder := Path(args.checkpoint)).is_dir():
        manifest = write_hub_folder(folder, args.out)
    elif not args.trainer:
        raise ConfigError(f"{args.checkpoint!r} is no folder; if it is an id, give --trainer HOST:PORT to ask for it")
    elif args.out.exists():  # before anything is downloaded
        raise CheckpointError(f"{args.out} exists; name a folder that does not")
    else:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with trainer(args) as there, tempfile.TemporaryDirectory(prefix=".export-", dir=args.out.parent) as work:
            fetched(there.checkpoints, args, args.checkpoint, checkpoint := Path(work) / "checkpoint")
            measured = measured_on_arms(args.checkpoint, there.trials.cards(args.checkpoint))
            measured += measured_in_gates(args.checkpoint, there.checkpoints.gates(args.checkpoint))
            manifest = write_hub_folder(checkpoint, args.out, measured)
    emit(args, console, {"checkpoint_id": manifest.id, "folder": str(args.out)}, f"{args.out}: {manifest.id}")
    return 0


def take_in(args: argparse.Namespace, console: Console) -> int:
    """Read the folder, open what it holds, and hand it over."""
    from cloud_trainer.jobs.desk.opening import check_opens
    from gymnast_core.records.hub_folder import read_hub_folder
    from gymnast_core.records.manifest import BOUNDS_NAME

    if args.into is None and not args.trainer:
        raise ConfigError("where to? give --trainer HOST:PORT to take it in there, or --into FOLDER for a checkpoint")
    if args.into is not None and args.into.exists():
        raise ConfigError(f"{args.into} exists; checkpoints are immutable, name a folder that does not")
    with tempfile.TemporaryDirectory(prefix=".import-", dir=_beside(args.into)) as work:
        checkpoint = Path(work) / "checkpoint"
        manifest, origin = read_hub_folder(args.folder, checkpoint)
        try:
            check_opens(checkpoint)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(checkpoint), str(args.folder))) from error
        bounds = (
            "; its bounds.json stays there: `gymnast wm bounds` calibrates it to your episodes"
            * (args.folder / BOUNDS_NAME).is_file()
        )
        said = {"checkpoint_id": manifest.id, "from": origin.name, "card_sha256": origin.card_sha256}
        if args.into is not None:
            checkpoint.rename(args.into)
            emit(args, console, {**said, "folder": str(args.into)}, f"{args.into}: {manifest.id}, verified{bounds}")
            return 0
        with trainer(args) as there:
            known = there.checkpoints.import_checkpoint(checkpoint, origin)
    what = "was known already; its record stays" if known else f"taken in, recorded as made elsewhere{bounds}"
    emit(args, console, {**said, "known": known}, one_line(f"{manifest.id}: {what}"))
    return 0


def _beside(into: Path | None) -> Path | None:
    """Where the copy is made: on the disk it is to stay on; None is the usual place."""
    if into is None:
        return None
    into.parent.mkdir(parents=True, exist_ok=True)
    return into.parent
