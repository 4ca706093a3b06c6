"""Save a training run whole (weights, optimiser, random generators, numbers) and continue it bit for bit.

One safetensors file; everything that is no tensor is JSON in its header. Nothing is pickled. What is sharded over ranks
is written whole, so that a run goes on wherever it can be loaded: on one rank or on several.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from gymnast_core.errors import CorruptError

HEADER = "gymnast_state"


@dataclass(frozen=True)
class Trained:
    """What changes while a run trains.

    Attributes:
        modules: name -> module.
        optimisers: name -> optimiser.
        generators: name -> numpy or torch generator.
    """

    modules: Mapping[str, nn.Module]
    optimisers: Mapping[str, torch.optim.Optimizer] = field(default_factory=dict)
    generators: Mapping[str, np.random.Generator | torch.Generator] = field(default_factory=dict)


def save_state(
    path: Path,
    trained: Trained,
    values: Mapping[str, Any],
    tensors: Mapping[str, Tensor] | None = None,
    *,
    write: bool = True,
) -> None:
    """Write everything to one file, atomically.

    Args:
        path: replaced if it exists.
        trained: what to write.
        values: JSON values beside it: step, curves, configuration.
        tensors: further arrays, e.g. surplus groups.
        write: False only takes part in gathering what is sharded: every rank calls this, one writes.
    """
    flat = {f"extra/{name}": tensor for name, tensor in (tensors or {}).items()}
    header: dict[str, Any] = {"values": values, "optimisers": {}, "generators": {}}
    for name, module in trained.modules.items():
        flat |= {f"module/{name}/{key}": tensor for key, tensor in module.state_dict().items()}
    for name, optimiser in trained.optimisers.items():
        state = optimiser.state_dict()
        header["optimisers"][name] = state["param_groups"]
        for index, slots in state["state"].items():
            flat |= {f"optimiser/{name}/{index}/{slot}": value for slot, value in slots.items()}
    for name, generator in trained.generators.items():
        if isinstance(generator, torch.Generator):
            flat[f"generator/{name}"] = generator.get_state()
        else:
            header["generators"][name] = generator.bit_generator.state
    flat = {name: whole(tensor).detach().clone(memory_format=torch.contiguous_format) for name, tensor in flat.items()}
    if not write:
        return
    staging = path.with_name(f".{path.name}.partial-{os.getpid()}")
    staging.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(flat, staging, metadata={HEADER: json.dumps(header)})
    staging.replace(path)


def load_state(path: Path, trained: Trained) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Put a saved run back into fresh modules, optimisers and generators; returns (values, tensors).

    Raises:
        CorruptError: not such a file, or made by a run of another shape.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        for name, module in trained.modules.items():
            _load_module(module, _under(flat, f"module/{name}/"))
        for name, optimiser in trained.optimisers.items():
            _load_optimiser(optimiser, header["optimisers"][name], _under(flat, f"optimiser/{name}/"))
        for name, generator in trained.generators.items():
            if isinstance(generator, torch.Generator):
                generator.set_state(flat[f"generator/{name}"])
            else:
                generator.bit_generator.state = header["generators"][name]
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise CorruptError(f"{path} is no state of this run: {error}; delete it to start over") from error
    return header["values"], _under(flat, "extra/")


def read_values(path: Path) -> dict[str, Any]:
    """Return the JSON values of a state file alone.

    Raises:
        CorruptError: not such a file.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            values: dict[str, Any] = json.loads((file.metadata() or {})[HEADER])["values"]
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise CorruptError(f"{path} is no state of a run: {error}; delete it to start over") from error
    return values


def whole(tensor: Tensor) -> Tensor:
    """Return the tensor that a rank holds a shard of; every rank must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(target: Tensor, source: Tensor) -> Tensor:
    """A whole tensor as its target has it: sharded, or with the strides that fused AdamW pairs in memory."""
    if isinstance(target, DTensor):
        return distribute_tensor(source.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
    return torch.empty_like(target).copy_(source)


@torch.no_grad()
def _load_module(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    own = module.state_dict()
    like = {name: _like(own[name], tensor) if name in own else tensor for name, tensor in tensors.items()}
    module.load_state_dict(like)


def _under(flat: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in flat.items() if name.startswith(prefix)}


def _load_optimiser(optimiser: torch.optim.Optimizer, groups: Any, slots: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in slots.items():
        index, slot = name.split("/", 1)
        state.setdefault(int(index), {})[slot] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": groups})
    for parameter, slots_of in optimiser.state.items():
        for slot, value in slots_of.items():
            if value.shape == parameter.shape and value.dim():  # files hold rows in order
                slots_of[slot] = _like(parameter.detach(), value)
