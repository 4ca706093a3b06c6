"""Save a training run whole (weights, optimiser, random generators, numbers) and continue it bit for bit.

One safetensors file; everything that is no tensor is JSON in its header. Nothing is pickled. What is sharded over ranks
is written whole, so that a run goes on wherever it can be loaded: on one rank or on several.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from gymnast_core.errors import CorruptError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

HEADER = "gymnast_state"


@dataclass(frozen=True)
class Trained:
    """What changes while a run trains.

    Attributes:
        modules: name -> module.
        optimisers: name -> optimiser.
        generators: name -> numpy or torch generator.
        averages: name -> tensors by name, e.g. moving averages of parameters, possibly sharded as those are.
    """

    modules: Mapping[str, nn.Module]
    optimisers: Mapping[str, torch.optim.Optimizer] = field(default_factory=dict)
    generators: Mapping[str, np.random.Generator | torch.Generator] = field(default_factory=dict)
    averages: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


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
    for name, average in trained.averages.items():
        flat |= {f"average/{name}/{key}": tensor for key, tensor in average.items()}
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
    held = ((name, whole(tensor).detach()) for name, tensor in flat.items())
    flat = {name: torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor) for name, tensor in held if write}
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
            for name, module in trained.modules.items():
                _fill(module.state_dict(), _Stored(file, f"module/{name}/"))
            for name, average in trained.averages.items():
                _fill(average, _Stored(file, f"average/{name}/"))
            for name, optimiser in trained.optimisers.items():
                _load_optimiser(optimiser, header["optimisers"][name], _Stored(file, f"optimiser/{name}/"))
            for name, generator in trained.generators.items():
                if isinstance(generator, torch.Generator):
                    generator.set_state(file.get_tensor(f"generator/{name}"))
                else:
                    generator.bit_generator.state = header["generators"][name]
            extra = dict(_Stored(file, "extra/"))
    except (OSError, safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise CorruptError(f"{path} is no state of this run: {error}; delete it to start over") from error
    return header["values"], extra


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
    return tensor.full_tensor() if is_shard(tensor) else tensor


def is_shard(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a rank holds a part of it; where nobody imported DTensors, which takes a second, there are none."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def _like(target: Tensor, source: Tensor) -> Tensor:
    """A whole tensor as its target has it: sharded, or with the strides that fused AdamW pairs in memory."""
    if is_shard(target):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(source.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
    return torch.empty_like(target).copy_(source)


class _Stored(Mapping[str, Tensor]):
    """The tensors of a file below a prefix, read one at a time: a run of many ranks holds the whole only once."""

    def __init__(self, file: Any, prefix: str) -> None:
        self._file, self._prefix = file, prefix
        self._names = [name.removeprefix(prefix) for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(self._prefix + name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@torch.no_grad()
def _fill(targets: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    """Copy stored tensors into those of the same names, in place."""
    if different := sorted(targets.keys() ^ set(stored)):
        raise ValueError(f"{len(different)} tensors are not both here and there, first {different[0]}")
    for name, target in targets.items():
        tensor = stored[name]
        if tensor.shape != target.shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)} there and {tuple(target.shape)} here")
        target.copy_(_like(target, tensor))


def _load_optimiser(optimiser: torch.optim.Optimizer, groups: object, stored: Mapping[str, Tensor]) -> None:
    optimiser.load_state_dict({"state": {}, "param_groups": groups})
    parameters = [(group, parameter) for group in optimiser.param_groups for parameter in group["params"]]
    for name in stored:
        index, slot = name.split("/", 1)
        group, parameter = parameters[int(index)]
        value = stored[name]
        if value.shape == parameter.shape and slot != "step":  # files hold rows in order
            value = _like(parameter.detach(), value)
        elif group.get("fused") or group.get("capturable"):  # such a kernel counts steps where it runs
            value = value.to(parameter.device)
        optimiser.state[parameter][slot] = value
