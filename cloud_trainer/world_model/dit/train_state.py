"""A training run on disk: safetensors for every tensor, JSON for the rest, resumed bit for bit.

<folder>/step-00001200/state.safetensors   model.*, ema.*, exp_avg.*, exp_avg_sq.*
<folder>/step-00001200/state.json          step, data position, configuration
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cloud_trainer.world_model.dit.distributed import Place, fill, gathered
from gymnast_core.errors import CorruptError

_TENSORS, _REST = "state.safetensors", "state.json"
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class Learned:
    """The tensors a run consists of.

    Attributes:
        parameters: name -> parameter, possibly sharded.
        ema: name -> averaged copy, sharded alike.
        optimizer: AdamW over the parameters.
    """

    parameters: dict[str, nn.Parameter]
    ema: dict[str, Tensor]
    optimizer: torch.optim.AdamW


def save_state(folder: Path, learned: Learned, rest: Mapping[str, Any], *, step: int, keep: int, place: Place) -> Path:
    """Write one state atomically and drop all but the newest `keep`; every rank must call it, rank 0 writes."""
    tensors = {f"model.{name}": gathered(value) for name, value in learned.parameters.items()}
    tensors |= {f"ema.{name}": gathered(value) for name, value in learned.ema.items()}
    for name, parameter in learned.parameters.items():
        state = learned.optimizer.state.get(parameter, {})
        tensors |= {f"{moment}.{name}": gathered(state[moment]) for moment in _MOMENTS if moment in state}
    target = folder / f"step-{step:08d}"
    if not place.leads:
        return target
    partial = folder / f".partial-{step}-{os.getpid()}"
    partial.mkdir(parents=True, exist_ok=True)
    save_file(tensors, partial / _TENSORS)
    (partial / _REST).write_text(json.dumps({**rest, "step": step}, sort_keys=True))
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)
    return target


def newest_state(folder: Path) -> Path | None:
    """Return the newest complete state, or None."""
    return max(folder.glob("step-*"), default=None)


def load_state(path: Path, learned: Learned) -> dict[str, Any]:
    """Fill the tensors in place and return the JSON part; every rank must call it.

    Raises:
        CorruptError: the state is unreadable or belongs to another network.
    """
    try:
        rest: dict[str, Any] = json.loads((path / _REST).read_text())
        with safe_open(path / _TENSORS, framework="pt") as file:
            _fill_all(file, learned, int(rest["step"]))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CorruptError(f"{path} is no training state of this network: {error}") from error
    return rest


def _fill_all(file: Any, learned: Learned, step: int) -> None:
    names = set(file.keys())
    for name, parameter in learned.parameters.items():
        fill(parameter, file.get_tensor(f"model.{name}"))
        fill(learned.ema[name], file.get_tensor(f"ema.{name}"))
        if f"exp_avg.{name}" not in names:
            continue
        state: dict[str, Tensor] = {"step": torch.tensor(float(step))}
        for moment in _MOMENTS:
            state[moment] = torch.zeros_like(parameter)
            fill(state[moment], file.get_tensor(f"{moment}.{name}"))
        learned.optimizer.state[parameter] = state
