"""Running the same trainer on one process, under torchrun (DDP or FSDP2), or under Ray Train."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from cloud_trainer.training_state import is_shard, whole
from cloud_trainer.world_model.dit.network import DiT
from gymnast_core.errors import ConfigError

STRATEGIES = ("single", "ddp", "fsdp2")


@dataclass(frozen=True)
class Place:
    """Where this process stands.

    Attributes:
        rank: 0..world_size - 1.
        world_size: processes.
        device: its own.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether it writes files and reports."""
        return self.rank == 0


@contextmanager
def joined() -> Iterator[Place]:
    """Join the process group torchrun or Ray Train describes in the environment; alone when there is none.

    Models made inside must be let go inside: call a function that holds them.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if world == 1:
        yield Place(device=device)
        return
    started = not torch.distributed.is_initialized()
    if started:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Place(torch.distributed.get_rank(), world, device)
    finally:
        if started:
            # A DistributedDataParallel that dies after its group ends gloo's thread while it holds Python's lock, which
            # that thread may be waiting for: let it go first. It has reference cycles.
            gc.collect()
            torch.distributed.destroy_process_group()


def wrap(model: DiT, strategy: str, place: Place) -> nn.Module:
    """Return the module to call in training; FSDP2 shards the model's parameters in place.

    Raises:
        ConfigError: unknown strategy, or one process where several are needed.
    """
    if strategy not in STRATEGIES:
        raise ConfigError(f"strategy {strategy!r} is not one of {STRATEGIES}")
    if strategy == "single":
        if place.world_size > 1:
            raise ConfigError(f"{place.world_size} processes need strategy ddp or fsdp2, got single")
        return model
    if not torch.distributed.is_initialized():
        raise ConfigError(f"strategy {strategy} needs several processes; start with torchrun, or use single")
    if strategy == "ddp":
        return DistributedDataParallel(model)
    from torch.distributed.fsdp import fully_shard  # takes a second, which a process alone need not wait for

    mesh = init_device_mesh(place.device.type, (place.world_size,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def gathered(tensor: Tensor) -> Tensor:
    """Return the whole tensor on the CPU; every rank must call it."""
    return whole(tensor).detach().cpu().clone()


@torch.no_grad()
def fill(target: Tensor, source: Tensor) -> None:
    """Copy a whole tensor into a parameter or buffer that may be sharded."""
    if is_shard(target):
        from torch.distributed.tensor import distribute_tensor

        source = distribute_tensor(source.to(target.device), target.device_mesh, target.placements)
    target.copy_(source)


def ray_train(loop: Callable[[dict[str, Any]], None], config: dict[str, Any], *, workers: int, gpu: bool) -> Any:
    """Run `loop(config)` on Ray Train workers, each joined() to the others; returns Ray's result.

    Args:
        loop: importable function, e.g. cloud_trainer.world_model.dit.train.run.
        config: JSON values handed to it.
        workers: processes.
        gpu: one GPU per worker.
    """
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        loop, train_loop_config=config, scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu)
    )
    return trainer.fit()
