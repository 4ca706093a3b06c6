"""Files of published checkpoint folders: safetensors by tensor name and JSON settings, none of their code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gymnast_core.errors import CheckpointError


def dtype_named(name: str | None) -> torch.dtype | None:
    """Return a precision by its name in torch; None for no name, which keeps the file's own."""
    found: torch.dtype | None = getattr(torch, name) if name else None
    return found


def as_dtype(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """One-byte floats cannot be computed with; they become float32 unless a dtype is asked for."""
    wanted = dtype or (torch.float32 if tensor.is_floating_point() and tensor.element_size() == 1 else tensor.dtype)
    return tensor.to(wanted)


def shards(folder: Path) -> list[Path]:
    """Return the files of a folder that hold its model."""
    return sorted(folder.glob("model*.safetensors"))


def read_shards(folder: Path) -> dict[str, Tensor]:
    """Read all tensors of a folder's model.

    Raises:
        CheckpointError: a file named in its index is missing, or one cannot be read.
    """
    index = folder / "model.safetensors.index.json"
    paths = shards(folder)
    if index.is_file():
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
        if not names:
            raise CheckpointError(f"{index} has no weight_map; fetch it again")
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise CheckpointError(f"{folder} lacks {absent[0]}, named in its index; fetch it again")
        paths = [folder / name for name in names]
    tensors: dict[str, Tensor] = {}
    for path in paths:
        tensors |= read_tensors(path)
    return tensors


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: it is none.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no readable safetensors file: {error}; fetch it again") from error
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: it is none.
    """
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} holds no JSON object but a {type(fields).__name__}; fetch it again")
    return fields


def model_files(folder: Path) -> Iterable[Path]:
    """Return every file of a folder that says what the model is."""
    return sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".json"))


def digest_of(files: Iterable[Path]) -> str:
    """Content id over every file read; reading 15 GB again costs some ten seconds and a reused name costs a run."""
    total = hashlib.sha256()
    for path in files:
        total.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                total.update(block)
    return total.hexdigest()[:16]
