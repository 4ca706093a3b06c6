"""The learner on several ranks with FSDP2, for policies whose weights and moments fill more than one GPU.

Every rank holds a shard of the weights and learns from its share of each mini-batch; gradients are averaged, so the
update is the one a single process would make. Rank 0 samples and hands the batch round. The loop, the state file and
the candidates are those of the learner in one process, so that a run begun on one goes on in the other.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from cloud_trainer.practice.grpo.scored import Scored, packed, unpacked
from cloud_trainer.practice.grpo.trainer import GrpoTrainer, PolicyT, write_policy
from cloud_trainer.practice.grpo_job import GrpoJob
from cloud_trainer.practice.pieces import Piece, Work
from cloud_trainer.practice.policy_weights import Weights, load_weights, weights_of
from cloud_trainer.practice.sharded import SampledPolicy, ShardedSampler
from cloud_trainer.practice.train import Anchor, Sampler, Training, train
from cloud_trainer.progress import Cancelled, Progress, silent
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.policies.trainable import load_trainable
from gymnast_core.records.manifest import read_manifest
from gymnast_core.types import IntArray

Spread = Callable[[str, Weights, Sequence[Work]], Iterator[Piece]]
"""Runs pieces under the weights of a version; see RayPool.spread."""

ENTRY_POINTS = (
    *("prefix", "parallel_hidden", "causal_hidden", "continue_causal", "full_logits", "action_logits"),
    *("look", "velocity"),
)
"""Methods that are called instead of forward; FSDP must gather weights before them too."""


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

    Args:
        whole: loads the policy as it started, on one rank, to write candidates with.
    """

    def __init__(
        self, policy: PolicyT, config: GrpoConfig, mesh: DeviceMesh, whole: Callable[[], PolicyT], *,
        anchor: Anchor | None = None,
    ) -> None:  # fmt: skip
        self.mesh, self._whole = mesh, whole
        super().__init__(policy, config, anchor=anchor)

    @property
    def leads(self) -> bool:
        """See GrpoTrainer: rank 0."""
        return self.mesh.get_rank() == 0

    def _place(self) -> None:
        shard(self.policy.network, self.mesh)
        if self._reference is not None:
            shard(self._reference.network, self.mesh)

    def _share_out(self, rows: int) -> tuple[IntArray, torch.Tensor]:
        """Every world-th row; FSDP averages over ranks, we want the mean over rows. Without rows, one of weight 0."""
        world, rank = self.mesh.size(), self.mesh.get_rank()
        mine = np.arange(rank, rows, world)
        if not len(mine):
            return np.zeros(1, np.int64), torch.zeros(1)
        return mine, torch.full((len(mine),), world / rows)

    def _summed(self, figures: torch.Tensor) -> torch.Tensor:
        figures = figures.to(self.mesh.device_type)
        dist.all_reduce(figures)
        return figures.cpu() / self.mesh.size()

    def export(self, folder: Path, *, parents: tuple[str, ...], lineage: Mapping[str, object]) -> None:
        """See GrpoTrainer; every rank calls this, rank 0 writes."""
        weights = weights_of(self.policy)
        if self.leads:
            policy = self._whole()
            load_weights(policy, weights)
            write_policy(policy, folder, parents=parents, lineage=lineage)
        dist.barrier()

    def save(self, path: Path, extra: Mapping[str, object] | None = None) -> None:
        """See GrpoTrainer; every rank calls this, rank 0 writes."""
        super().save(path, extra)
        dist.barrier()


def from_rank_zero(payload: bytes, device: str) -> bytes:
    """Return on every rank what rank 0 gave; the others' bytes are not looked at."""
    size = torch.tensor([len(payload)], device=device)
    dist.broadcast(size, 0)
    data = torch.empty(int(size), dtype=torch.uint8, device=device)
    if dist.get_rank() == 0:
        data.copy_(torch.frombuffer(bytearray(payload), dtype=torch.uint8))
    dist.broadcast(data, 0)
    whole: bytes = data.cpu().numpy().tobytes()
    return whole


class RankSampler:
    """A jobs.train.Sampler that every rank calls at the same time: rank 0 samples, all get the batch.

    Args:
        inner: samples; None on the other ranks.
        spread: rolls pieces out under given weights, e.g. RayPool.spread.
        device: of the process group.
    """

    def __init__(self, inner: ShardedSampler | None, spread: Spread | None, device: str) -> None:
        self._inner, self._spread, self._device = inner, spread, device

    def __call__(self, policy: SampledPolicy, rng: np.random.Generator) -> Scored:
        """Return the batch; the generators of all ranks are then where rank 0's is."""
        weights, sent = weights_of(policy), b""
        if self._inner is not None and self._spread is not None:
            run = functools.partial(self._spread, self._inner.next_version(policy), weights)
            arrays, values = unpacked(self._inner.sample(run, rng))
            sent = write_message({"rng": rng.bit_generator.state, "values": values}, arrays)
        header, arrays = read_message(from_rank_zero(sent, self._device))
        rng.bit_generator.state = header["rng"]
        return packed(arrays, header["values"])


def write_message(header: Mapping[str, object], arrays: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """Arrays and JSON values as one safetensors blob."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    blob: bytes = safetensors.numpy.save(contiguous, {"header": json.dumps(header)})
    return blob


def read_message(blob: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """Take apart what write_message() made."""
    size = int.from_bytes(blob[:8], "little")  # safetensors: length of the JSON head, the head, the data
    header = json.loads(json.loads(blob[8 : 8 + size])["__metadata__"]["header"])
    return header, safetensors.numpy.load(blob)


def learn(
    job: GrpoJob, mesh: DeviceMesh, make_sampler: Callable[[str], Sampler], *, progress: Progress, cancelled: Cancelled
) -> Training:
    """Train to the end, from the state file where there is one; every rank of the mesh calls this.

    Args:
        job: what to train.
        mesh: of all ranks.
        make_sampler: given the device of the process group; e.g. a RankSampler.
        progress: called on rank 0.
        cancelled: asked on rank 0.

    Raises:
        CancelledError: cancelled, on every rank; the state file has the last whole iteration.
    """
    device = mesh.device_type

    def whole() -> Any:
        return load_trainable(
            job.parent, temperature=job.config.temperature, exploration=job.config.exploration, lora=job.lora,
            seed=job.config.seed,
        )  # fmt: skip

    def stopped() -> bool:
        return from_rank_zero(b"1" if leads and cancelled() else b"0", device) == b"1"

    leads = mesh.get_rank() == 0
    policy = whole()
    policy.network.to(device)
    trainer = FsdpTrainer(policy, job.config, mesh, whole, anchor=None if job.anchor is None else job.anchor())
    if from_rank_zero(b"1" if job.state.exists() else b"0", device) == b"1":
        trainer.load(job.state)
    return train(
        trainer, make_sampler(device), job.out, parent=read_manifest(job.parent).id,
        candidate_every=job.candidate_every, lesson=job.lesson, state=job.state, lineage=job.lineage,
        progress=progress if leads else silent, cancelled=stopped,
    )  # fmt: skip
