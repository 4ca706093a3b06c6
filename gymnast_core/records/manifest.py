"""A checkpoint: safetensors plus a manifest of what it is and where it comes from.

A checkpoint folder holds weights.safetensors and manifest.json and is immutable; its id is derived from its
content, so an id can never be reused for something else. Only safetensors are read: nothing is executed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from gymnast_core.bounds import parsed_object
from gymnast_core.errors import CheckpointError, CorruptError
from gymnast_core.spec import ROBOT_MODEL, WIDOWX_250S

WEIGHTS_NAME = "weights.safetensors"
MANIFEST_NAME = "manifest.json"
BOUNDS_NAME = "bounds.json"
"""Beside a world model that was calibrated; no part of it."""
_PIECE_BYTES = 1 << 20
KINDS = ("policy", "world_model", "judge")
MAX_CHARACTERS = 64 << 20
MAX_PARENTS = 64
MAX_NAME_CHARACTERS = 256


def canonical_json(value: object) -> bytes:
    """Return the one byte string for a JSON value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is.

    Attributes:
        kind: policy, world_model or judge.
        architecture: which class reads it, e.g. "compact_policy".
        config: that class's configuration, JSON values.
        weights_sha256: hex digest of weights.safetensors.
        weights_bytes: its size.
        parents: ids of the checkpoints it was made from.
        action_space: name of the action convention.
        normalisation: statistics the class needs to read observations and write actions.
        lineage: what made it: stage, seed, the arm's model, code version, episode ids, world model, judge, audit.
    """

    kind: str
    architecture: str
    config: Mapping[str, Any]
    weights_sha256: str
    weights_bytes: int
    parents: tuple[str, ...] = ()
    action_space: str = "bridge_delta_ee_7"
    normalisation: Mapping[str, Any] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Return the kind and the first 16 hex digits of the SHA-256 of the canonical manifest."""
        return f"{self.kind}-{hashlib.sha256(self.to_bytes()).hexdigest()[:16]}"

    @property
    def robot_model(self) -> str:
        """Arm whose actions it gives or takes, by its model; those that are silent are a WidowX 250s's."""
        return str(self.lineage.get(ROBOT_MODEL, WIDOWX_250S.name))

    def misfit(self, model: str) -> str:
        """Return why an arm of this model may not be driven by it, or an empty string."""
        if self.robot_model == model:
            return ""
        return f"it was made for the {self.robot_model}, and this arm is a {model}; train one on the {model}'s episodes"

    def to_bytes(self) -> bytes:
        """Canonical JSON; what gets hashed and signed."""
        return canonical_json({each.name: getattr(self, each.name) for each in fields(self)})

    @staticmethod
    def from_bytes(data: bytes) -> Manifest:
        """Parse and check a manifest.

        Raises:
            CheckpointError: not JSON, a field missing or unknown, an unknown kind, more parents than anything has, or
                episodes that are no list of ids and records.
        """
        try:
            fields = parsed_object(data.decode(), "manifest", MAX_CHARACTERS)
            manifest = Manifest(**{**fields, "parents": tuple(fields.get("parents", ()))})
        except (UnicodeDecodeError, TypeError, CorruptError) as error:
            raise CheckpointError(f"unreadable manifest: {error}") from error
        for name, kind in _FIELD_TYPES.items():
            if not isinstance(value := getattr(manifest, name), kind) or isinstance(value, bool):
                raise CheckpointError(f"manifest field {name} is a {type(value).__name__}: {str(value)[:80]!r}")
        if manifest.kind not in KINDS:
            raise CheckpointError(f"manifest kind {manifest.kind!r} is not one of {KINDS}")
        names = (manifest.architecture, manifest.action_space, *manifest.parents[: MAX_PARENTS + 1])
        if len(manifest.parents) > MAX_PARENTS or not all(
            isinstance(name, str) and len(name) <= MAX_NAME_CHARACTERS for name in names
        ):
            raise CheckpointError(
                f"a manifest names at most {MAX_PARENTS} parents, architecture and action space in "
                f"{MAX_NAME_CHARACTERS} characters each, got {str(names)[:80]}"
            )
        for role in ("episodes", "starts"):
            _check_members(role, manifest.lineage.get(role) or [])
        return manifest


def _check_members(role: str, members: object) -> None:
    """A data set is a list of episode ids, or of records that hold one."""
    entries = members if isinstance(members, list) else [None]
    ids = [entry.get("id") if isinstance(entry, dict) else entry for entry in entries]
    if not all(isinstance(one, str) and len(one) <= MAX_NAME_CHARACTERS for one in ids):
        raise CheckpointError(f"lineage {role} must be a list of episode ids or of records with an id")


_FIELD_TYPES: dict[str, type] = {
    "kind": str, "architecture": str, "config": dict, "weights_sha256": str, "weights_bytes": int,
    "action_space": str, "normalisation": dict, "lineage": dict,
}  # fmt: skip


def write_checkpoint(
    folder: Path, weights: bytes, *, kind: str, architecture: str, config: Mapping[str, Any], **fields: Any
) -> Manifest:
    """Write a new checkpoint folder and return its manifest; atomic, so a reader never sees half of one.

    Args:
        folder: must not exist yet.
        weights: a safetensors file's bytes (safetensors.torch.save).
        kind: policy, world_model or judge.
        architecture: which class reads it.
        config: its configuration.
        **fields: parents, normalisation, lineage, action_space.

    Raises:
        CheckpointError: the folder exists: checkpoints are immutable.
    """
    if folder.exists():
        raise CheckpointError(f"{folder} exists; checkpoints are immutable, choose another folder")
    manifest = Manifest(kind, architecture, config, hashlib.sha256(weights).hexdigest(), len(weights), **fields)
    staging = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    staging.mkdir(parents=True, exist_ok=True)
    for name, data in ((WEIGHTS_NAME, weights), (MANIFEST_NAME, manifest.to_bytes())):
        with (staging / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    staging.rename(folder)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read a checkpoint's manifest.

    Raises:
        CheckpointError: there is none, or it cannot be parsed.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {MANIFEST_NAME}; is it a checkpoint folder?")
    return Manifest.from_bytes(path.read_bytes())


def read_checkpoint(
    folder: Path, *, kind: str | None = None, architecture: str | None = None
) -> tuple[Manifest, bytes]:
    """Read and verify a checkpoint; returns its manifest and the safetensors bytes.

    Raises:
        CheckpointError: digest or size differ, or it is of another kind or architecture than asked for.
    """
    manifest = read_manifest(folder)
    for name, wanted in (("kind", kind), ("architecture", architecture)):
        if wanted is not None and getattr(manifest, name) != wanted:
            raise CheckpointError(f"{folder} is a {getattr(manifest, name)!r}, not a {wanted!r} ({name})")
    weights = (folder / WEIGHTS_NAME).read_bytes()
    if hashlib.sha256(weights).hexdigest() != manifest.weights_sha256:
        raise CheckpointError(f"{folder}/{WEIGHTS_NAME} does not match its manifest digest; fetch it again")
    return manifest, weights


def file_sha256(path: Path) -> str:
    """Return the hex digest of a file, read in pieces (hashlib.file_digest needs Python 3.11)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def verify_checkpoint(folder: Path) -> Manifest:
    """As read_checkpoint, without ever holding the weights in memory; returns the manifest.

    Raises:
        CheckpointError: digest or size differ.
    """
    manifest = read_manifest(folder)
    if file_sha256(folder / WEIGHTS_NAME) != manifest.weights_sha256:
        raise CheckpointError(f"{folder}/{WEIGHTS_NAME} does not match its manifest digest; fetch it again")
    return manifest
