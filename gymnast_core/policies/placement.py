"""Where a policy computes, by the one word a person chose."""

from __future__ import annotations

import re

import torch

from gymnast_core.errors import ConfigError

NAMES = re.compile(r"auto|cpu|cuda(:\d+)?")


def check_device_name(name: object, where: str) -> None:
    """Refuse what is no device anywhere; whether this machine has it is asked where it is used.

    Raises:
        ConfigError: neither auto, cpu, cuda nor cuda:N.
    """
    if not isinstance(name, str) or not NAMES.fullmatch(name):
        raise ConfigError(f"{where} must be auto, cpu, cuda or cuda:N, got {name!r}")


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
