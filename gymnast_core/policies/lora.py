"""Low-rank adapters (peft) on any policy's network: put on, filled, merged. Their checkpoints are in adapter.py.

Source:
    Hu et al., "LoRA", 2021, eq. 3: W' = W + (alpha / r) B A. Defaults are OpenVLA-OFT's: rank 32, alpha 16.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.policies.lora_settings import LoraSettings
from gymnast_core.policies.placement import learning_parts

ADAPTER = "default"
PUBLISHED_PREFIX = "base_model.model."


def attach(network: nn.Module, settings: LoraSettings, *, seed: int) -> list[str]:
    """Freeze a network and put trainable adapters on its linear layers, in place.

    Args:
        network: any module; B starts at zero, so its output does not change yet.
        settings: where and how large.
        seed: of the adapters' first weights.

    Returns:
        Paths of the adapted layers, all within the parts that learn (see learning_parts). Adapters are float32, on the
        device of the layer they sit on.

    Raises:
        ConfigError: no layer matches settings.targets.
    """
    within = learning_parts(network)
    paths = [
        name
        for name, module in network.named_modules()
        if _wanted(name, module, settings) and (not within or name.split(".")[0] in within)
    ]
    if not paths:
        raise ConfigError(f"no linear layer ends in any of {settings.targets}; see network.named_modules()")
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=paths)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, network, adapter_name=ADAPTER)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name:
            parameter.data = parameter.data.float()
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
    absent = [name for name in ("r", "lora_alpha") if name not in fields]
    if absent:
        raise CheckpointError(f"{folder}/adapter_config.json lacks {absent}; it is no LoRA adapter of peft")
    named = {name.removeprefix(PUBLISHED_PREFIX): tensor for name, tensor in tensors.items()}
    scale = float(fields["lora_alpha"]) / int(fields["r"])
    for name in sorted(named):
        path, _, factor = name.rpartition(".lora_A.weight")
        if factor or not path:
            if not name.endswith(".lora_B.weight"):
                raise CheckpointError(f"{folder}: unexpected adapter tensor {name}")
            continue
        if f"{path}.lora_B.weight" not in named:
            raise CheckpointError(f"{folder}: {name} has no lora_B beside it; fetch the adapter again")
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
