"""Policies that can be trained: what supervised fine-tuning and reinforcement ask of them."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import safetensors.torch
from torch import Tensor, nn

from gymnast_core.errors import ConfigError
from gymnast_core.jobs.exploration import Exploration
from gymnast_core.policies import Servable, load_policy
from gymnast_core.policies.adapter import ADAPTER_OF, ARCHITECTURE, Adapter
from gymnast_core.policies.lora_settings import LoraSettings
from gymnast_core.policies.placement import device_of, prepare_learning
from gymnast_core.policy import Policy
from gymnast_core.records.manifest import Manifest, read_manifest, write_checkpoint
from gymnast_core.types import ActionChunk, Asked, BoolArray, ByteArray, FloatArray, Observation, Trace


@runtime_checkable
class LearningPolicy(Protocol):
    """A policy that gives the log-probability of what it drew, with gradients: it can be reinforced.

    What it drew rides as a trace in its chunks (gymnast_core.types); code that carries a trace need not know its kind.

    Attributes:
        network: in eval mode unless a trainer changes it.
        temperature: of sampling and log-probabilities: how much it explores.
        config: its sizes; camera names the image it looks at, empty for the first.
    """

    network: Any
    temperature: float
    config: Any

    @property
    def version(self) -> str:
        """Id of the checkpoint."""
        ...

    @property
    def chunk_length(self) -> int:
        """K, actions per call."""
        ...

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Choose K actions for each row, with trace and log-probabilities."""
        ...

    def training_frames(self, frames_NHWC: ByteArray) -> ByteArray:
        """Prepare (N, H, W, 3) uint8 frames for the methods below."""
        ...

    def log_probs(self, images: ByteArray, instructions: Sequence[str], trace: Trace) -> Tensor:
        """Return (N, K, 7) log-probabilities of N chunks' traces at the policy's temperature, with gradients."""
        ...

    def divergence(
        self, base: Any, images: ByteArray, instructions: Sequence[str], *, edited: Asked | None = None
    ) -> Tensor:
        """Return how far this policy is from a base of its own kind on these frames: a scalar, with gradients.

        With `edited`, this policy is asked about those frames and instructions, and the base about the others.
        """
        ...

    def save(
        self, folder: Path, *, parents: tuple[str, ...] = (), lineage: Mapping[str, Any] | None = None
    ) -> Manifest:
        """Write an immutable checkpoint folder; this object takes its id as version."""
        ...


@runtime_checkable
class TokenPolicy(LearningPolicy, Protocol):
    """A policy whose actions are tokens; compact and OpenVLA policies are. Its trace is "tokens", (N, K, 7) int64."""

    def logits(self, images: ByteArray, instructions: Sequence[str]) -> Tensor:
        """Return raw (N, K, 7, bins) logits, with gradients."""
        ...

    def token_positions(self, actions: FloatArray) -> FloatArray:
        """Return the fractional token index of (..., 7) actions in SI units: what fine-tuning aims at."""
        ...


@runtime_checkable
class MatchingPolicy(LearningPolicy, Protocol):
    """A policy whose actions are the end of a flow; compact flows and pi0 are."""

    exploration: Exploration
    """Where noise enters when it is sampled."""

    def matching_loss(
        self, images: ByteArray, instructions: Sequence[str], actions_NKA: FloatArray, valid_NK: BoolArray,
        rng: np.random.Generator, *, proprio_NP: FloatArray | None = None,
    ) -> Tensor:  # fmt: skip
        """Return the flow-matching loss of demonstrated (N, K, 7) actions, a scalar with gradients.

        proprio_NP is (N, 7), for a policy that looks at the arm's state.
        """
        ...


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

    def divergence(
        self, base: Any, images: ByteArray, instructions: Sequence[str], *, edited: Asked | None = None
    ) -> Tensor:
        """See LearningPolicy."""
        return self.base.divergence(getattr(base, "base", base), images, instructions, edited=edited)

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
            config=dataclasses.asdict(self.settings)
            | {"targets": list(self.settings.targets), ADAPTER_OF: self._base_id},
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


def load_trainable(
    folder: Path, *, temperature: float | None = None, exploration: Exploration | None = None,
    lora: LoraSettings | None = None, seed: int = 0, device: str = "cpu",
) -> LearningPolicy:  # fmt: skip
    """Load a policy checkpoint for training: whole, or by an adapter.

    What learns is float32, since a step of AdamW is lost in the rounding of bfloat16: all weights of a policy that is
    trained whole (of pi0 its action expert, see placement.learning_parts), the adapter alone on a base that stays as
    stored.

    Args:
        folder: of any architecture with log-probabilities; of an adapter, to train that adapter on.
        temperature: of sampling; None is the checkpoint's own.
        exploration: of a flow policy; None is the checkpoint's own.
        lora: train a fresh adapter of this size alone. An adapter's own size cannot change.
        seed: of a fresh adapter's first weights.
        device: of a large policy, see placement.device_of; one that answers in milliseconds stays on the CPU.

    Raises:
        ConfigError: no such device here.
        ConfigError: an exploration was asked of a policy that is no flow.
        ConfigError: the policy has no log-probabilities: an L1 head, a remote or scripted policy; or another
            size was asked for than the adapter has.
        CheckpointError: not a policy, altered, of an unknown architecture, or an adapter without its base.
    """
    if read_manifest(folder).architecture == ARCHITECTURE:
        policy = _adapter_policy(folder, lora, device)
    else:
        policy = _whole(folder, device)
        if lora is None:
            prepare_learning(policy.network)
        else:
            from gymnast_core.policies.lora import attach  # peft takes seconds to import

            attach(policy.network, lora, seed=seed)
            policy = TrainableAdapter(policy, folder, lora, base_id=policy.version, version=policy.version)
    if temperature is not None:
        policy.temperature = temperature
    if exploration is not None:
        flow = getattr(policy, "base", policy)
        if not isinstance(flow, MatchingPolicy):
            raise ConfigError(f"{folder} holds no flow policy, so it cannot explore as {exploration}; leave that out")
        flow.exploration = exploration
    return policy


def placed(policy: Policy, device: str) -> Policy:
    """Move a policy that is worth it to a device, weights as stored; the others compute on the CPU.

    Raises:
        ConfigError: no such device here.
    """
    where, inner = device_of(device), getattr(policy, "base", policy)
    if isinstance(inner, Servable) and isinstance(network := getattr(inner, "network", None), nn.Module):
        network.to(where)
    return policy


def _adapter_policy(folder: Path, lora: LoraSettings | None, device: str) -> LearningPolicy:
    adapter = Adapter.read(folder)
    if lora is not None and lora != adapter.settings:
        raise ConfigError(f"{folder} is an adapter with {adapter.settings}; it cannot go on as {lora}; leave lora out")
    base = _whole(adapter.base, device)
    adapter.put_on(base)
    return TrainableAdapter(base, adapter.base, adapter.settings, base_id=adapter.base_id, version=adapter.id)


def _whole(folder: Path, device: str) -> LearningPolicy:
    policy = placed(load_policy(folder), device)
    if not isinstance(policy, LearningPolicy) or not isinstance(policy.network, nn.Module):
        architecture = read_manifest(folder).architecture
        raise ConfigError(
            f"{folder} ({architecture}) has no log-probabilities to train by; name a compact, pi0 or OpenVLA "
            f"checkpoint, the last with a discrete head"
        )
    if getattr(policy.config, "head", "discrete") == "l1":
        raise ConfigError(f"{folder} has an L1 head without probabilities; load the checkpoint with head='discrete'")
    if hasattr(policy, "row_by_row"):
        policy.row_by_row = False  # large imagined batches in one product
    return policy
