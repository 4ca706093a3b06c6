"""Where a policy computes, by the one word of its setting, and what of it learns."""

from __future__ import annotations

import torch
from torch import nn

from gymnast_core.errors import ConfigError


def device_of(name: str) -> torch.device:
    """Return the device that auto (a GPU if there is one, else the CPU), cpu, cuda or cuda:N is in this process.

    Raises:
        ConfigError: no such device here.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"device {name!r} asked for, but there are {count} CUDA GPUs here; use auto or cpu")
    return device


def learning_parts(network: nn.Module) -> tuple[str, ...]:
    """Return the names of the children of a network that can learn, all others being frozen; empty for all."""
    return tuple(getattr(network, "learns", ()))


def prepare_learning(network: nn.Module) -> None:
    """Make float32 what learns, as a step of AdamW is lost in the rounding of bfloat16; freeze the rest as stored."""
    if not (parts := learning_parts(network)):
        network.float()
        return
    for name, child in network.named_children():
        child.requires_grad_(name in parts)
        if name in parts:
            child.float()
