"""What a researcher distils at a desk, without a service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cloud_trainer.jobs.calibrated import inherit
from cloud_trainer.jobs.desk.lab import TRACKER_EVERY, Read
from cloud_trainer.jobs.distil import Compared, compare
from cloud_trainer.progress import ProgressEvent
from cloud_trainer.world_model.capabilities import image_size_of
from cloud_trainer.world_model.distillation import Distilling, distil_world
from gymnast_core.errors import ConfigError, NotTrustedError
from gymnast_core.jobs import DistilSettings
from gymnast_core.policies.placement import device_of
from gymnast_core.records.manifest import read_manifest

HELD_OUT_EVERY = TRACKER_EVERY
"""Of the episodes given, every fourth is held out to compare student and teacher on."""


def distil_checkpoint(
    teacher: Path, episodes: Sequence[Path], settings: DistilSettings, out: Path, *, read: Read, seed: int,
    report: Callable[[str], None],
) -> tuple[Compared, str]:  # fmt: skip
    """Distil a world model; a run that was stopped goes on where it was.

    Args:
        teacher: checkpoint folder.
        episodes: paths of recorded ones; every fourth is held out.
        settings: how.
        out: checkpoint folder to write; the run's state lies beside it until it is there.
        read: see lab.Read.
        seed: of everything random.
        report: called with a line of progress.

    Returns:
        How student and teacher dream the episodes held out, and why the student should not take the teacher's place;
        empty where it may.

    Raises:
        ConfigError: out exists, too few episodes, or a setting that the world model does not have.
        CheckpointError: no world model that can be distilled.
    """
    if out.exists():
        raise ConfigError(f"{out} exists, with {read_manifest(out).id}; name another folder, or delete it")
    known = read(episodes, image_size_of(read_manifest(teacher)))
    held_out, learned = known[::HELD_OUT_EVERY], [e for n, e in enumerate(known) if n % HELD_OUT_EVERY]
    if not learned:
        raise ConfigError(f"{len(known)} episodes are too few to distil on and to hold one out; name at least 2")

    def show(event: ProgressEvent) -> None:
        report(f"{event.step}/{event.total} loss {event.metrics.get('loss', float('nan')):.4f}")

    state = out.with_name(f"{out.name}.state")
    taught = distil_world(teacher, learned, Distilling(settings, seed, state, device_of(settings.device), show), out)
    inherit(teacher, out)
    found = compare(out, taught, held_out, settings, seed=seed)
    try:
        found.require(settings.most_lost_db)
    except NotTrustedError as error:
        return found, str(error)
    return found, ""
