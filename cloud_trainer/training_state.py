"""Save a training run whole (weights, optimiser, random generators, numbers) and continue it bit for bit.

One safetensors file; everything that is no tensor is JSON in its header. Nothing is pickled.
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
    path: Path, trained: Trained, values: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None
) -> None:
    """Write everything to one file, atomically.

    Args:
        path: replaced if it exists.
        trained: what to write.
        values: JSON values beside it: step, curves, configuration.
        tensors: further arrays, e.g. surplus groups.
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
    flat = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in flat.items()}
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
            module.load_state_dict(_under(flat, f"module/{name}/"))
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
            if value.shape == parameter.shape and value.dim():
                # files hold rows in order; fused AdamW pairs raw memory, so moments need their weight's strides
                slots_of[slot] = torch.empty_like(parameter).copy_(value)
