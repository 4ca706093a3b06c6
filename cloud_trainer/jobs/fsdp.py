"""The learner on several GPUs: FSDP2 through Ray Train, for policies whose weights and moments fill more than one.

Every rank holds a shard of the weights and learns from its share of each mini-batch; gradients are averaged, so the
update is the one a single process would make. Rank 0 samples through the same Ray pool and hands the batch round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import safetensors.torch
import torch
import torch.distributed as dist
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchTrainer
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from cloud_trainer.grpo.advantage import token_advantages
from cloud_trainer.grpo.config import GrpoConfig
from cloud_trainer.grpo.loss import clipped_loss, length_weights
from cloud_trainer.grpo.scored import Scored
from cloud_trainer.grpo.trainer import GrpoTrainer, PolicyT
from cloud_trainer.jobs.grpo_job import GrpoJob
from cloud_trainer.jobs.policy_weights import load_weights, weights_of
from cloud_trainer.jobs.ray_pool import RayConfig, RayPool
from cloud_trainer.jobs.sharded import SampledPolicy, ShardedSampler
from cloud_trainer.jobs.train import Training, candidates_in
from gymnast_core.errors import ConfigError
from gymnast_core.policies.adapter import TrainableAdapter
from gymnast_core.policies.trainable import load_trainable
from gymnast_core.types import FloatArray, IntArray

ENTRY_POINTS = ("prefix", "parallel_hidden", "causal_hidden", "continue_causal", "full_logits", "action_logits")
"""Methods that are called instead of forward; FSDP must gather weights before them too."""


@dataclass(frozen=True)
class FsdpConfig:
    """How the learner is spread.

    Attributes:
        workers: ranks, one GPU each where there are any.
        use_gpu: whether there are.
        cpus_per_worker: Ray's reservation.
        max_failures: times Ray Train restarts the group from the state file.
    """

    workers: int = 2
    use_gpu: bool = False
    cpus_per_worker: float = 1.0
    max_failures: int = 3

    def __post_init__(self) -> None:
        """Refuse an empty group."""
        if self.workers < 1 or self.max_failures < 0:
            raise ConfigError(f"workers must be at least 1 and max_failures at least 0, got {self}")


def shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a network in place: every block of a module list on its own, then what is left."""
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()  # channels-last weights cannot be sharded
    on_gpu = mesh.device_type == "cuda"
    precision = (
        MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        if on_gpu
        else MixedPrecisionPolicy()
    )
    for module in list(network.modules()):
        if isinstance(module, nn.ModuleList):
            for block in module:
                if any(True for _ in block.parameters()):
                    fully_shard(block, mesh=mesh, mp_policy=precision)
    fully_shard(network, mesh=mesh, mp_policy=precision)
    for name in ENTRY_POINTS:
        if hasattr(network, name):
            register_fsdp_forward_method(network, name)


class FsdpTrainer(GrpoTrainer[PolicyT]):
    """GrpoTrainer over ranks. Every rank makes the same calls with the same batch and configuration.

    Attributes:
        mesh: of all ranks, one dimension.
    """

    def __init__(self, policy: PolicyT, config: GrpoConfig, mesh: DeviceMesh) -> None:
        if config.kl_weight > 0:
            raise ConfigError("kl_weight keeps a second copy of the policy, which is not sharded; set it to 0")
        shard(policy.network, mesh)
        self.mesh = mesh
        super().__init__(policy, config)

    def _step(self, batch: Scored, advantage_B: FloatArray, rows: IntArray) -> tuple[float, ...]:
        """One optimiser step; this rank takes every world-th row, a rank without rows carries one of weight 0."""
        world, rank = self.mesh.size(), self.mesh.get_rank()
        mine = rows[rank::world]
        weight = np.ones(len(mine), np.float32) if len(mine) else np.zeros(1, np.float32)
        mine = mine if len(mine) else rows[:1]
        rollouts, steps = batch.rollouts, batch.rollouts.actions_BTA.shape[1]
        new = self._log_probs(self.policy, rollouts, mine)
        old = torch.from_numpy(rollouts.log_probs_BTA[mine]).flatten(1)
        token_advantage = torch.from_numpy(token_advantages(advantage_B[mine], rollouts.length_B[mine], steps))
        if batch.weight_BTA is not None:
            token_advantage = token_advantage * torch.from_numpy(batch.weight_BTA[mine]).flatten(1)
        everyone = torch.from_numpy(np.arange(steps * 7) < (rollouts.length_B[rows] * 7)[:, None])
        of_length = length_weights(everyone, self.config.length_normalisation)
        of_length = of_length[rank::world] if rank < len(rows) else of_length[:1]
        valid = everyone[rank::world] if rank < len(rows) else everyone[:1]
        low, high = self.config.clip_low, self.config.clip_high
        parts = clipped_loss(new, old, token_advantage, valid, clip_low=low, clip_high=high)
        share = (
            torch.from_numpy(weight) * of_length * world / len(rows)
        )  # FSDP averages over ranks, we want the mean over rows
        loss = (parts.loss * share).sum()
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.policy.network.parameters(), self.config.grad_clip)
        self._optimiser.step()
        told = torch.stack([loss.detach(), (parts.clipped * share).sum(), (parts.kl * share).sum()]).float()
        dist.all_reduce(told)
        whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
        return (*(told / world).tolist(), float(whole))

    def save(self, path: Path, extra: Mapping[str, Any] | None = None) -> None:
        """Gather weights and moments and write them on rank 0; surplus groups wait beside them.

        Raises:
            ConfigError: surplus groups exist: they are not gathered; set target_groups=None.
        """
        if self.surplus is not None:
            raise ConfigError("surplus groups are not kept by the sharded learner; set target_groups=None")
        weights = {f"policy/{n}": torch.from_numpy(a) for n, a in weights_of(self.policy).items()}
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        moments: dict[str, Any] = dict(get_optimizer_state_dict(self.policy.network, self._optimiser, options=options))
        if self.mesh.get_rank() == 0:
            for name, slots in moments["state"].items():
                weights |= {f"adamw/{slot}/{name}": tensor for slot, tensor in slots.items()}
            values = {
                "updates": self.updates,
                "history": self.history,
                "extra": dict(extra or {}),
                "rng": self.rng.bit_generator.state,
                "groups": _plain_groups(moments),
            }
            partial = path.with_name(f".{path.name}.partial")
            partial.write_bytes(
                safetensors.torch.save(
                    {name: tensor.contiguous() for name, tensor in weights.items()}, {"values": json.dumps(values)}
                )
            )
            partial.replace(path)
        dist.barrier()

    def load(self, path: Path) -> dict[str, Any]:
        """Continue from a state file; every rank reads it and keeps its shard."""
        with safetensors.safe_open(path, "pt") as file:
            values = json.loads(file.metadata()["values"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        own = self.policy.network.state_dict()
        weights: dict[str, Any] = {name: _as_own(tensors[f"policy/{name}"], own[name].dtype) for name in own}
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.policy.network, weights, options=options)
        state: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("adamw/"):
                _, slot, parameter = name.split("/", 2)
                state.setdefault(parameter, {})[slot] = tensor
        moments: dict[str, Any] = {"state": state, "param_groups": values["groups"]}
        set_optimizer_state_dict(self.policy.network, self._optimiser, moments, options=options)
        self.updates, self.history = int(values["updates"]), list(values["history"])
        self.rng.bit_generator.state = values["rng"]
        extra: dict[str, Any] = values["extra"]
        return extra


def _as_own(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.view(torch.bfloat16) if dtype is torch.bfloat16 else tensor


def _plain_groups(moments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Optimiser settings as JSON values."""
    return [
        {k: v for k, v in group.items() if isinstance(v, (int, float, str, bool, list, tuple, type(None)))}
        for group in moments["param_groups"]
    ]


def train_worker(settings: Mapping[str, Any]) -> None:
    """What every rank runs; settings hold the job and the rollout pool's configuration."""
    job: GrpoJob = settings["job"]
    config: RayConfig = settings["ray"]
    torch.set_num_threads(config.torch_threads)
    rank, world = dist.get_rank(), dist.get_world_size()
    kind = "cuda" if torch.cuda.is_available() and settings["use_gpu"] else "cpu"
    policy: Any = load_trainable(job.parent, lora=job.recipe.lora, seed=job.config.seed)
    parent = policy.version
    policy.network.to(kind)
    trainer = FsdpTrainer(policy, job.config, init_device_mesh(kind, (world,)))
    if job.state.exists():
        trainer.load(job.state)
    pool = RayPool(job.worker_recipe, config) if rank == 0 else None
    try:
        sampler = (
            None
            if pool is None
            else ShardedSampler(
                pool, job.starts, job.config, keyframes=job.keyframes, groups_per_piece=job.groups_per_piece
            )
        )
        while trainer.updates < job.config.iterations:
            _iterate(trainer, sampler)
            trainer.save(job.state)
    finally:
        if pool is not None:
            pool.close()
    _publish(trainer, job, parent)


def _iterate(trainer: FsdpTrainer[Any], sampler: ShardedSampler | None) -> None:
    """Sample on rank 0, hand round, learn everywhere."""
    policy: SampledPolicy = trainer.policy
    seed = int(trainer.rng.integers(2**31))
    weights = weights_of(policy)
    version = f"{policy.version}#{trainer.updates + 1}"
    scored = None if sampler is None else sampler.sample(version, weights, np.random.default_rng(seed))
    batch: Scored = broadcast_from_rank_zero(scored)
    kept = trainer.informative(batch)
    record: dict[str, Any] = {
        "iteration": trainer.updates + 1,
        "imagined_reward": float(batch.reward_B[batch.use_B].mean()) if batch.use_B.any() else float("nan"),
        "abstained": float((~batch.use_B).mean()),
    }
    if len(kept.reward_B):
        record |= trainer.update(kept).to_metrics()
    else:
        trainer.updates += 1
    trainer.history.append(record)


def _publish(trainer: FsdpTrainer[Any], job: GrpoJob, parent: str) -> None:
    """Write the last candidate from whole weights, on rank 0."""
    weights = weights_of(trainer.policy)
    folder = job.out / f"iteration-{trainer.updates:02d}"
    if trainer.mesh.get_rank() == 0 and not folder.exists():
        job.out.mkdir(parents=True, exist_ok=True)
        whole = load_trainable(job.parent, lora=job.recipe.lora, seed=job.config.seed)
        if isinstance(whole, TrainableAdapter):
            whole.copy_base_into(job.out)
        load_weights(whole, weights)
        lineage = {"stage": "grpo", "grpo": asdict(job.config), "iteration": trainer.updates, **(job.lineage or {})}
        whole.save(folder, parents=(parent,), lineage=lineage)
    dist.barrier()


def run_on_ray_train(job: GrpoJob, config: RayConfig, fsdp: FsdpConfig, *, storage: Path) -> Training:
    """Train with the learner sharded over ranks; the last iteration is the only candidate.

    Args:
        job: what to train; its state file is where a restarted group continues.
        config: the rollout pool.
        fsdp: the learner's ranks.
        storage: folder for Ray Train's own bookkeeping, on storage that every machine sees.
    """
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "ray": config, "use_gpu": fsdp.use_gpu},
        scaling_config=ray.train.ScalingConfig(
            num_workers=fsdp.workers,
            use_gpu=fsdp.use_gpu,
            resources_per_worker={"CPU": fsdp.cpus_per_worker} | ({"GPU": 1.0} if fsdp.use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name="grpo",
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(max_failures=fsdp.max_failures),
        ),
    )
    trainer.fit()
    with safetensors.safe_open(job.state, "pt") as file:
        history = json.loads(file.metadata()["values"])["history"]
    return Training(tuple(candidates_in(job.out, history)), tuple(history))
