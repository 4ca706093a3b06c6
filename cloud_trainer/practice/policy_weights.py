"""Weights of a policy as they travel between processes: numpy arrays by tensor name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from cloud_trainer.training_state import whole
from gymnast_core.errors import ConfigError
from gymnast_core.policies.trainable import LearningPolicy
from gymnast_core.policy import Policy

Weights = Mapping[str, np.ndarray[Any, Any]]
"""Tensors of a policy's network by name."""


def weights_of(policy: Policy | LearningPolicy) -> Weights:
    """Copy a policy's tensors out; bfloat16 travels as raw 16-bit words, numpy has no such type.

    Tensors sharded over ranks are gathered: then every rank must call this at the same time.
    """
    weights = {}
    for name, tensor in _network(policy).state_dict().items():
        plain = whole(tensor).detach().cpu()
        weights[name] = (plain.view(torch.int16) if plain.dtype is torch.bfloat16 else plain).numpy().copy()
    return weights


def load_weights(policy: Policy | LearningPolicy, weights: Weights) -> None:
    """Put tensors into a policy's network, by name."""
    network = _network(policy)
    own = network.state_dict()
    with torch.no_grad():
        for name, array in weights.items():
            tensor = torch.from_numpy(np.array(array))
            own[name].copy_(tensor.view(torch.bfloat16) if own[name].dtype is torch.bfloat16 else tensor)


def _network(policy: Policy | LearningPolicy) -> nn.Module:
    network = getattr(policy, "network", None)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{type(policy).__name__} has no network to send weights of; use a trainable policy")
    return network
