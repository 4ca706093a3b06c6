"""Where a policy computes, by the one word of its setting."""

from __future__ import annotations

import torch

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
