"""A checkpoint as a folder that the Hugging Face Hub takes: config.json, model.safetensors and a README.md.

config.json is the manifest with three keys more; read back, it is the same checkpoint under the same id. Only JSON and
safetensors are read, whatever else lies in the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gymnast_core.bounds import checked_text, parsed_object
from gymnast_core.errors import CheckpointError, CorruptError
from gymnast_core.records.manifest import (
    BOUNDS_NAME,
    MANIFEST_NAME,
    MAX_CHARACTERS,
    WEIGHTS_NAME,
    Manifest,
    canonical_json,
    verify_checkpoint,
)
from gymnast_core.records.model_card import LIBRARY, Measured, measured_in, model_card
from gymnast_core.records.weights import check_safetensors_file
from gymnast_core.text import is_digest, one_line

CONFIG_NAME, MODEL_NAME, CARD_NAME = "config.json", "model.safetensors", "README.md"
FORMAT_VERSION = 1
MOST_NAME = 128
"""Characters of a folder's name that are kept."""
MOST_BESIDE = 4 << 20
"""Bytes of a card, and of bounds."""
_OURS = ("library_name", "format_version", "checkpoint_id")
_MANIFEST = tuple(each.name for each in fields(Manifest))


@dataclass(frozen=True)
class HubOrigin:
    """Where an imported checkpoint came from.

    Attributes:
        name: of the folder.
        card_sha256: hex digest of its README.md; empty where it has none.
    """

    name: str
    card_sha256: str

    def __post_init__(self) -> None:
        """Refuse what is no name or digest.

        Raises:
            CorruptError: neither.
        """
        checked_text(self.name, "name of an imported folder", MOST_NAME)
        if self.card_sha256 and not is_digest(self.card_sha256):
            raise CorruptError(f"{self.card_sha256[:80]!r} is no SHA-256 of a card; send 64 hex digits, or nothing")


def write_hub_folder(checkpoint: Path, out: Path, measured: Sequence[Measured] = ()) -> Manifest:
    """Write a checkpoint folder as a Hub folder, whole or not at all.

    Args:
        checkpoint: folder with weights.safetensors and manifest.json.
        out: must not exist yet.
        measured: what is known of it beside what its manifest says.

    Raises:
        CheckpointError: the checkpoint is not intact, or `out` exists.
    """
    if out.exists():
        raise CheckpointError(f"{out} exists; name a folder that does not")
    manifest = verify_checkpoint(checkpoint)
    card = model_card(manifest, [*measured_in(manifest), *measured])
    config = {
        "library_name": LIBRARY, "format_version": FORMAT_VERSION, "checkpoint_id": manifest.id,
        **json.loads(manifest.to_bytes()),
    }  # fmt: skip
    with _whole(out) as staging:
        (staging / CONFIG_NAME).write_text(json.dumps(config, indent=1, ensure_ascii=False), encoding="utf-8")
        shutil.copyfile(checkpoint / WEIGHTS_NAME, staging / MODEL_NAME)
        if (checkpoint / BOUNDS_NAME).is_file():
            shutil.copyfile(checkpoint / BOUNDS_NAME, staging / BOUNDS_NAME)
        (staging / CARD_NAME).write_text(card, encoding="utf-8")
    return manifest


@contextlib.contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """Lend a folder that becomes the target; what is left where that fails is deleted."""
    staging = target.with_name(f".{target.name}.partial-{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        staging.rename(target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def read_hub_folder(folder: Path, into: Path) -> tuple[Manifest, HubOrigin]:
    """Write the checkpoint of a Hub folder as a checkpoint folder, whole or not at all.

    A bounds.json is left where it is: by its writer's bounds and audited horizon, gates here would refuse and let pass.

    Args:
        folder: with config.json and model.safetensors, as write_hub_folder() makes it; links are followed.
        into: must not exist yet.

    Returns:
        Its manifest, and where it came from.

    Raises:
        CheckpointError: a file or key is missing or unexpected, or weights, configuration and id do not fit together;
            the message names it.
    """
    if into.exists():
        raise CheckpointError(f"{into} exists; checkpoints are immutable, name a folder that does not")
    manifest = _manifest(folder)
    _check_sizes(folder, manifest)
    with _whole(into) as staging:
        shutil.copyfile(folder / MODEL_NAME, staging / WEIGHTS_NAME)
        (staging / MANIFEST_NAME).write_bytes(manifest.to_bytes())
        _check_weights(folder, staging, manifest)
    card = folder / CARD_NAME
    digest = hashlib.sha256(card.read_bytes()).hexdigest() if card.is_file() else ""
    return manifest, HubOrigin(one_line(folder.resolve().name)[:MOST_NAME], digest)


def _manifest(folder: Path) -> Manifest:
    """The manifest in config.json, if it is one and has the id it says."""
    _check_files(folder)
    _check_size(folder / CONFIG_NAME, MAX_CHARACTERS)
    try:
        found = parsed_object((folder / CONFIG_NAME).read_text("utf-8"), f"{folder / CONFIG_NAME}", MAX_CHARACTERS)
    except (UnicodeDecodeError, CorruptError) as error:
        raise CheckpointError(f"{folder / CONFIG_NAME}: {error}; export the checkpoint again") from error
    _check_keys(folder, found)
    if (version := found["format_version"]) != FORMAT_VERSION or isinstance(version, bool):
        raise CheckpointError(
            f"{folder / CONFIG_NAME} has format_version {str(version)[:40]!r}, this version reads {FORMAT_VERSION}; "
            "install a newer gymnast_ros, or export it again"
        )
    manifest = Manifest.from_bytes(canonical_json({name: found[name] for name in _MANIFEST}))
    if found["checkpoint_id"] != manifest.id:
        raise CheckpointError(
            f"{folder / CONFIG_NAME} names checkpoint_id {str(found['checkpoint_id'])[:80]!r}, and what it holds is "
            f"{manifest.id}: it was edited; export the checkpoint again"
        )
    return manifest


def _check_files(folder: Path) -> None:
    missing = [name for name in (CONFIG_NAME, MODEL_NAME) if not (folder / name).is_file()]
    if missing:
        here = sorted(one_line(path.name) for path in folder.iterdir())[:10] if folder.is_dir() else []
        raise CheckpointError(
            f"{folder} has no {' and no '.join(missing)}; it holds {', '.join(here) or 'nothing'}. It must be a folder "
            "of `gymnast weights export`; OpenVLA and pi0 folders are read by `gymnast weights convert`"
        )


def _check_keys(folder: Path, found: dict[str, Any]) -> None:
    wanted = (*_OURS, *_MANIFEST)
    missing = [name for name in wanted if name not in found]
    strange = [one_line(name)[:80] for name in found if name not in wanted]
    if missing or strange or found["library_name"] != LIBRARY:
        parts = [
            f"lacks {', '.join(missing)}" * bool(missing),
            f"has unexpected {', '.join(strange[:10])}" * bool(strange),
            f"names the library {str(found.get('library_name'))[:40]!r}, not {LIBRARY!r}",
        ]
        raise CheckpointError(
            f"{folder / CONFIG_NAME} {' and '.join(filter(None, parts[:2] if missing or strange else parts[2:]))}; it "
            "must be one of `gymnast weights export`. OpenVLA and pi0 folders are read by `gymnast weights convert`"
        )


def _check_sizes(folder: Path, manifest: Manifest) -> None:
    """Before anything is copied or read whole: a file of many terabytes takes no room where it lies, but here."""
    size = (folder / MODEL_NAME).stat().st_size
    if size != manifest.weights_bytes:
        raise CheckpointError(
            f"{folder / MODEL_NAME} has {size} bytes, {CONFIG_NAME} says {manifest.weights_bytes}; fetch it again (a "
            "few hundred bytes are a Git LFS pointer: git lfs pull)"
        )
    if (card := folder / CARD_NAME).is_file():
        _check_size(card, MOST_BESIDE)


def _check_size(path: Path, most: int) -> None:
    if (size := path.stat().st_size) > most:
        raise CheckpointError(f"{path} has {size} bytes, at most {most} are read; leave it out, or fetch it again")


def _check_weights(folder: Path, staging: Path, manifest: Manifest) -> None:
    """The copy is what is checked, and what is used from then on."""
    check_safetensors_file(staging / WEIGHTS_NAME)
    try:
        verify_checkpoint(staging)
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder / MODEL_NAME} is not what {CONFIG_NAME} says (SHA-256 {manifest.weights_sha256}); fetch it again"
        ) from error
