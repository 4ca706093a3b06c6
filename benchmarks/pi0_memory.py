"""GB that a full-size pi0 or pi0.5 takes, without taking them: weights, optimiser and activations on the meta device.

    python benchmarks/pi0_memory.py [--rows 8] [--lora-rank 8]

Counted are the weights as stored, the prefix of the rows (one camera), gradients and both moments of AdamW of what
learns, and every tensor that a pass of the expert keeps for its gradient. Not counted are the allocator's reserve, the
CUDA context (about 0.5 GB), what the vision tower holds for a moment, and the world model beside it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from gymnast_core.policies.lora import attach
from gymnast_core.policies.lora_settings import LoraSettings
from gymnast_core.policies.pi0.config import VARIANTS, Pi0Config
from gymnast_core.policies.pi0.network import Pi0Network
from gymnast_core.policies.placement import prepare_learning

GB = 1e9
PROMPT = 20
"""Tokens of a usual instruction; of pi0.5 with its state 60."""


def size(tensors: Iterable[Tensor]) -> float:
    """GB of some tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / GB


def network_of(variant: str) -> Pi0Network:
    """Return a full-size network in bfloat16, shapes only."""
    network = Pi0Network.without_memory(Pi0Config(variant=variant)).to(torch.bfloat16)
    return network.to("meta")


def pass_of_expert(network: Pi0Network, rows: int) -> tuple[float, float]:
    """Return GB of the prefix of one camera, and of what one pass of the expert keeps for its gradient."""
    config, length = network.config, PROMPT if network.config.variant == "pi0" else 3 * PROMPT
    meta = {"device": "meta"}
    side = config.vision.image_size
    prefix = network.look(
        torch.empty(rows, 1, 3, side, side, **meta), torch.empty(rows, length, dtype=torch.long, **meta),
        torch.empty(rows, length, dtype=torch.bool, **meta),
    )  # fmt: skip
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.velocity(
            prefix, torch.empty(rows, config.state_width, **meta),
            torch.empty(rows, config.chunk_length, config.action_width, **meta), torch.empty(rows, **meta),
        )  # fmt: skip
    saved = [tensor for storage, tensor in kept.items() if storage not in weights]
    return size(tensor for pair in prefix.layers for tensor in pair), size(saved)


def learning(network: nn.Module) -> float:
    """GB of gradients and both moments of AdamW, all float32."""
    return 3 * 4 * sum(p.numel() for p in network.parameters() if p.requires_grad) / GB


def measured(variant: str, rows: int, rank: int) -> list[tuple[str, float, float, float, float]]:
    """Return (use, weights, prefix, optimiser, activations) in GB."""
    acting = network_of(variant)
    prefix, _ = pass_of_expert(acting.requires_grad_(False), 1)
    table = [("act, 1 row", size(acting.parameters()), prefix, 0.0, 0.0)]
    adapted = network_of(variant)
    attach(adapted, LoraSettings(rank=rank, alpha=2.0 * rank), seed=0)
    prefix, kept = pass_of_expert(adapted, rows)
    table.append((f"adapters of rank {rank}, {rows} rows", size(adapted.parameters()), prefix, learning(adapted), kept))
    whole = network_of(variant)
    prepare_learning(whole)
    prefix, kept = pass_of_expert(whole, rows)
    table.append((f"whole expert, {rows} rows", size(whole.parameters()), prefix, learning(whole), kept))
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8, help="of a mini-batch (default 8)")
    parser.add_argument("--lora-rank", type=int, default=8, help="(default 8, as jobs have it)")
    args = parser.parse_args()
    print("| model | use | weights | prefix | gradients, AdamW | activations | together, GB |")
    print("|---|---|---|---|---|---|---|")
    for variant in VARIANTS:
        for use, *parts in measured(variant, args.rows, args.lora_rank):
            cells = " | ".join(f"{part:.2f}" for part in (*parts, math.fsum(parts)))
            print(f"| {variant} | {use} | {cells} |")


if __name__ == "__main__":
    main()
