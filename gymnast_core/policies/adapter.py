"""Adapter checkpoints: low-rank tensors and the id of the checkpoint they sit on. Served merged, trained attached."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
from torch import Tensor, nn

from gymnast_core.errors import CheckpointError
from gymnast_core.policies.lora_settings import LoraSettings
from gymnast_core.policy import Policy
from gymnast_core.records.manifest import read_checkpoint
from gymnast_core.sampling import own_temperature, set_temperature
from gymnast_core.types import ActionChunk, Observation

ARCHITECTURE = "lora"
ADAPTER_OF = "adapter_of"
"""In an adapter's config: the checkpoint without which it is nothing; a robot keeps that one as long."""


@dataclass(frozen=True)
class Adapter:
    """An adapter checkpoint, read.

    Attributes:
        id: of the adapter.
        base: folder of the checkpoint it sits on.
        base_id: that checkpoint's id.
        settings: of the adapter.
        tensors: of the adapter.
    """

    id: str
    base: Path
    base_id: str
    settings: LoraSettings
    tensors: Mapping[str, Tensor]

    @staticmethod
    def read(folder: Path) -> Adapter:
        """Read an adapter's folder and find its base, a sibling folder named by the base's id.

        Raises:
            CheckpointError: the base is not there, or the folder holds no adapter.
        """
        manifest, weights = read_checkpoint(folder, kind="policy", architecture=ARCHITECTURE)
        fields = dict(manifest.config)
        base_id = str(fields.pop(ADAPTER_OF, manifest.parents[0]))
        base = folder.parent / base_id
        if not base.is_dir():
            raise CheckpointError(f"adapter {manifest.id} needs its parent {base}; fetch that checkpoint too")
        settings = LoraSettings(**{**fields, "targets": tuple(fields["targets"])})
        return Adapter(manifest.id, base, base_id, settings, safetensors.torch.load(weights))

    def put_on(self, policy: Policy) -> nn.Module:
        """Attach the adapter to its base's network, in place; returns the network.

        Raises:
            CheckpointError: it is another base, or has no network the adapter fits.
        """
        if policy.version != self.base_id:
            raise CheckpointError(f"{self.base} holds {policy.version}, not what the adapter was trained on")
        network = getattr(policy, "network", None)
        if not isinstance(network, nn.Module):
            raise CheckpointError(f"{self.base} has no network an adapter could sit on")
        from gymnast_core.policies import lora  # peft takes seconds to import

        lora.attach(network, self.settings, seed=0)
        lora.load_adapter(network, self.tensors)
        return network


class AdaptedPolicy:
    """A base policy with an adapter merged in, under the adapter's own version.

    Attributes:
        base: the policy whose network now holds the merged weights; it is not the base checkpoint any more.
    """

    def __init__(self, base: Policy, *, version: str) -> None:
        self.base = base
        self._version = version

    @property
    def version(self) -> str:
        """Id of the adapter's checkpoint."""
        return self._version

    @property
    def chunk_length(self) -> int:
        """K."""
        return self.base.chunk_length

    @property
    def temperature(self) -> float | None:
        """Of the base's sampling; None where it has none."""
        return own_temperature(self.base)

    @temperature.setter
    def temperature(self, value: float) -> None:
        set_temperature(self.base, value)

    def served_on(self, device: str) -> AdaptedPolicy:
        """Return it with its base on a device, where the base can be moved."""
        from gymnast_core.policies import Servable

        return (
            AdaptedPolicy(self.base.served_on(device), version=self._version)
            if isinstance(self.base, Servable)
            else self
        )

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Act as the base does, signed with the adapter's version."""
        return dataclasses.replace(self.base.act(observation, instruction, rng=rng), policy_version=self._version)

    @classmethod
    def load(cls, folder: Path) -> AdaptedPolicy:
        """Load an adapter and its base, a sibling folder named by the base's id.

        Raises:
            CheckpointError: the base is not there, is not what the adapter was trained on, or does not fit.
        """
        from gymnast_core.policies import load_policy, lora  # the registry names this class: a cycle at import time

        adapter = Adapter.read(folder)
        base = load_policy(adapter.base)
        lora.merge(adapter.put_on(base))
        return cls(base, version=adapter.id)
