"""Adapter checkpoints: low-rank tensors and the id of the checkpoint they sit on. Served merged, trained attached."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
from torch import Tensor, nn

from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.policy import Policy
from gymnast_core.records.manifest import Manifest, read_checkpoint, write_checkpoint
from gymnast_core.types import ActionChunk, ByteArray, Observation, Trace

if TYPE_CHECKING:
    from gymnast_core.policies.trainable import LearningPolicy

MOST_RANK = 4096
"""Beyond the width of the largest layers that are adapted, an adapter is larger than what it adapts."""
ARCHITECTURE = "lora"
ADAPTER_OF = "adapter_of"
"""In an adapter's config: the checkpoint without which it is nothing; a robot keeps that one as long."""


@dataclass(frozen=True)
class LoraSettings:
    """Where adapters sit and how large they are.

    Attributes:
        rank: r.
        alpha: the update is scaled by alpha / rank.
        dropout: on the adapter's input, while training.
        targets: names of linear layers, matched at the end of their path; empty means all but the token head.
    """

    rank: int = 32
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse sizes that cannot work."""
        if not 1 <= self.rank <= MOST_RANK or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ConfigError(f"rank must be 1..{MOST_RANK}, alpha positive and dropout in [0, 1), got {self}")


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


class TrainableAdapter:
    """A frozen base with a trainable adapter attached; keeps LearningPolicy, and what it saves is an adapter.

    Attributes:
        base: the policy underneath.
        base_folder: its checkpoint.
        settings: of the adapter.
        network: the base's, adapters included.
        config: the base's.
    """

    def __init__(
        self, base: LearningPolicy, base_folder: Path, settings: LoraSettings, *, base_id: str, version: str
    ) -> None:
        self.base, self.base_folder, self.settings = base, base_folder, settings
        self.network: Any = base.network
        self.config: Any = base.config
        self._base_id, self._version = base_id, version

    @property
    def temperature(self) -> float:
        """Of sampling and log-probabilities."""
        return self.base.temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        self.base.temperature = value

    @property
    def version(self) -> str:
        """Id of the adapter it was loaded from or last saved as; the base's for a fresh one."""
        return self._version

    @property
    def chunk_length(self) -> int:
        """K."""
        return self.base.chunk_length

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Act as base and adapter do together."""
        return dataclasses.replace(self.base.act(observation, instruction, rng=rng), policy_version=self._version)

    def training_frames(self, frames_NHWC: ByteArray) -> ByteArray:
        """See LearningPolicy."""
        return self.base.training_frames(frames_NHWC)

    def log_probs(self, images: ByteArray, instructions: Sequence[str], trace: Trace) -> Tensor:
        """See LearningPolicy."""
        return self.base.log_probs(images, instructions, trace)

    def divergence(self, base: Any, images: ByteArray, instructions: Sequence[str]) -> Tensor:
        """See LearningPolicy."""
        return self.base.divergence(getattr(base, "base", base), images, instructions)

    def save(
        self, folder: Path, *, parents: tuple[str, ...] = (), lineage: Mapping[str, Any] | None = None
    ) -> Manifest:
        """Write the adapter alone, a few megabytes; parents are what it was trained from, the base when left out."""
        from gymnast_core.policies import lora  # peft takes seconds to import

        manifest = write_checkpoint(
            folder,
            safetensors.torch.save(lora.adapter_tensors(self.network)),
            kind="policy",
            architecture=ARCHITECTURE,
            config=asdict(self.settings) | {"targets": list(self.settings.targets), ADAPTER_OF: self._base_id},
            parents=parents or (self._base_id,),
            lineage=lineage or {},
        )
        self._version = manifest.id
        return manifest

    def copy_base_into(self, folder: Path) -> None:
        """Put the base where adapters saved in `folder` will look for it."""
        target = folder / self._base_id
        if not target.exists():
            shutil.copytree(self.base_folder, target)
