"""The average of a policy's iterates: what is published where the last iterate alone is too noisy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """An exponential moving average of the weights that are trained, without the pull of where it began.

    The weight of iterate i among n is proportional to decay^(n - i): the bias correction of Adam (Kingma & Ba 2015,
    section 3) for the averaging of Polyak & Juditsky (1992). Where the weights are sharded, the average is too.

    Attributes:
        tensors: by parameter, for a state file; until the first iterate, the weights it began with.

    Args:
        network: whose weights; only those that take gradients change, and only they are averaged.
        decay: 0 <= decay < 1; 0 is the last iterate.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self._weights = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        self.tensors: dict[str, Tensor] = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def follow(self, iterate: int) -> None:
        """Take in the weights as they are, the iterate of this number; the first has number 1."""
        share = (1 - self._decay) / (1 - self._decay**iterate)
        for name, average in self.tensors.items():
            average.lerp_(self._weights[name], share)

    @contextmanager
    def published(self) -> Iterator[None]:
        """Have the average in the network for as long as this lasts; then the iterate again, to the bit."""
        iterate = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._put(self.tensors)
        try:
            yield
        finally:
            self._put(iterate)

    @torch.no_grad()
    def _put(self, tensors: dict[str, Tensor]) -> None:
        for name, weight in self._weights.items():
            weight.copy_(tensors[name])
