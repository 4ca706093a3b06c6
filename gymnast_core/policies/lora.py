"""Low-rank adapters (peft) on any policy's network; an adapter checkpoint is its tensors plus the id of its parent.

Source:
    Hu et al., "LoRA", 2021, eq. 3: W' = W + (alpha / r) B A. Defaults are OpenVLA-OFT's: rank 32, alpha 16.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.manifest import Manifest, read_checkpoint, write_checkpoint
from gymnast_core.policy import Policy
from gymnast_core.types import ActionChunk, Observation

ARCHITECTURE = "lora"
ADAPTER_OF = "adapter_of"
"""In an adapter's config: the checkpoint without which it is nothing; a robot keeps that one as long."""
ADAPTER = "default"
PUBLISHED_PREFIX = "base_model.model."


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
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ConfigError(f"rank and alpha must be positive and dropout in [0, 1), got {self}")


def attach(network: nn.Module, settings: LoraSettings, *, seed: int) -> list[str]:
    """Freeze a network and put trainable adapters on its linear layers, in place.

    Args:
        network: any module; B starts at zero, so its output does not change yet.
        settings: where and how large.
        seed: of the adapters' first weights.

    Returns:
        Paths of the adapted layers.

    Raises:
        ConfigError: no layer matches settings.targets.
    """
    paths = [name for name, module in network.named_modules() if _wanted(name, module, settings)]
    if not paths:
        raise ConfigError(f"no linear layer ends in any of {settings.targets}; see network.named_modules()")
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=paths)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, network, adapter_name=ADAPTER)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return paths


def _wanted(name: str, module: nn.Module, settings: LoraSettings) -> bool:
    if not isinstance(module, nn.Linear):
        return False
    last = name.rsplit(".", 1)[-1]
    return last in settings.targets if settings.targets else last not in ("lm_head", "head")


def adapter_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return the adapters alone, under published names without their prefix: ...q_proj.lora_A.weight."""
    return {
        name.replace(f".{ADAPTER}.", "."): parameter.detach().cpu().contiguous()
        for name, parameter in network.named_parameters()
        if f".{ADAPTER}." in name
    }


def load_adapter(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Fill attached adapters.

    Raises:
        CheckpointError: names or shapes differ from what is attached.
    """
    attached = {
        name.replace(f".{ADAPTER}.", "."): parameter
        for name, parameter in network.named_parameters()
        if f".{ADAPTER}." in name
    }
    wrong = sorted(attached.keys() ^ tensors.keys()) or sorted(
        name for name in attached if attached[name].shape != tensors[name].shape
    )
    if wrong:
        raise CheckpointError(f"adapter does not fit the network: {len(wrong)} tensors differ, first {wrong[0]}")
    with torch.no_grad():
        for name, parameter in attached.items():
            parameter.copy_(tensors[name])


def merge(network: nn.Module) -> None:
    """Add the adapters to the weights and take them off again: W + (alpha / r) B A, in place."""
    for name, module in list(network.named_modules()):
        if isinstance(module, LoraLayer):
            base = module.get_base_layer()
            with torch.no_grad():
                base.weight += module.get_delta_weight(ADAPTER).to(base.weight.dtype)
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, base)


def merge_published(network: nn.Module, folder: Path) -> None:
    """Merge a published lora_adapter/ (adapter_config.json, adapter_model.safetensors) into a network.

    Raises:
        CheckpointError: a file is missing, or it is no plain LoRA adapter for this network.
    """
    try:
        fields = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the adapter in {folder}: {error}") from error
    if fields.get("use_dora") or fields.get("use_rslora") or fields.get("bias", "none") != "none":
        raise CheckpointError(f"{folder} is not a plain LoRA adapter (DoRA, rsLoRA, biases); merge it with peft first")
    named = {name.removeprefix(PUBLISHED_PREFIX): tensor for name, tensor in tensors.items()}
    scale = float(fields["lora_alpha"]) / int(fields["r"])
    for name in sorted(named):
        path, _, factor = name.rpartition(".lora_A.weight")
        if factor or not path:
            if not name.endswith(".lora_B.weight"):
                raise CheckpointError(f"{folder}: unexpected adapter tensor {name}")
            continue
        _add_update(network, path, scale * named[f"{path}.lora_B.weight"].float() @ named[name].float())


def _add_update(network: nn.Module, path: str, delta: Tensor) -> None:
    try:
        weight = network.get_submodule(path).weight
    except AttributeError as error:
        raise CheckpointError(f"adapter is for a layer {path} that this network does not have") from error
    if not isinstance(weight, Tensor) or weight.shape != delta.shape:
        raise CheckpointError(f"adapter of {path} is {tuple(delta.shape)}, which does not fit the layer")
    with torch.no_grad():
        weight += delta.to(weight.dtype)


def save_adapter(
    network: nn.Module, folder: Path, *, parent: str, settings: LoraSettings, lineage: Mapping[str, Any] | None = None
) -> Manifest:
    """Write an adapter as a checkpoint of its own, a few megabytes, whose parent is the base checkpoint's id."""
    return write_checkpoint(
        folder,
        safetensors.torch.save(adapter_tensors(network)),
        kind="policy",
        architecture=ARCHITECTURE,
        config=asdict(settings) | {"targets": list(settings.targets), ADAPTER_OF: parent},
        parents=(parent,),
        lineage=lineage or {},
    )


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

    def act(
        self, observation: Observation, instruction: Sequence[str], *, rng: np.random.Generator | None = None
    ) -> ActionChunk:
        """Act as the base does, signed with the adapter's version."""
        return dataclasses.replace(self.base.act(observation, instruction, rng=rng), policy_version=self._version)

    @classmethod
    def load(cls, folder: Path) -> AdaptedPolicy:
        """Load an adapter and its parent, a sibling folder named by the parent's id.

        Raises:
            CheckpointError: the parent is not there, is not what the adapter was trained on, or does not fit.
        """
        from gymnast_core.policies import load_policy  # the registry names this class: a cycle at import time

        manifest, weights = read_checkpoint(folder, kind="policy", architecture=ARCHITECTURE)
        parent = folder.parent / manifest.parents[0]
        if not parent.is_dir():
            raise CheckpointError(f"adapter {manifest.id} needs its parent {parent}; fetch that checkpoint too")
        base = load_policy(parent)
        if base.version != manifest.parents[0]:
            raise CheckpointError(f"{parent} holds {base.version}, not what the adapter was trained on")
        network = getattr(base, "network", None)
        if not isinstance(network, nn.Module):
            raise CheckpointError(f"{parent} has no network an adapter could sit on")
        fields = {name: value for name, value in manifest.config.items() if name != ADAPTER_OF}
        attach(network, LoraSettings(**{**fields, "targets": tuple(fields["targets"])}), seed=0)
        load_adapter(network, safetensors.torch.load(weights))
        merge(network)
        return cls(base, version=manifest.id)
