"""GRPO on judged rollouts: advantages, dynamic sampling with surplus kept, clipped updates, exact resume."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from cloud_trainer.practice.grpo.advantage import group_advantages, informative_groups, token_advantages
from cloud_trainer.practice.grpo.log_probs import rollout_log_probs
from cloud_trainer.practice.grpo.loss import TokenLoss, clipped_loss, length_weights
from cloud_trainer.practice.grpo.scored import Scored, join_scored, packed, take_rows, unpacked
from cloud_trainer.training import Descent
from cloud_trainer.training_state import Trained, load_state, save_state, whole
from gymnast_core.errors import ContractError
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.policies.trainable import LearningPolicy, MatchingPolicy, TrainableAdapter
from gymnast_core.types import FloatArray, IntArray, RolloutBatch


@dataclass(frozen=True)
class UpdateReport:
    """What one update did.

    Attributes:
        trajectories: rows learned from.
        groups: informative groups learned from.
        loss: mean over mini-batches.
        clipped: share of tokens where the clip decided.
        kl: old minus new log-probability per token.
        grad_norm: mean before clipping.
        learning_rate: of this update.
    """

    trajectories: int
    groups: int
    loss: float
    clipped: float
    kl: float
    grad_norm: float
    learning_rate: float

    def to_metrics(self) -> dict[str, float]:
        """Numbers for a progress event."""
        return {field.name: float(getattr(self, field.name)) for field in fields(self)}


PolicyT = TypeVar("PolicyT", bound=LearningPolicy)


@dataclass(frozen=True)
class _Terms:
    """What the loss of a mini-batch is made of: R rows, N tokens each.

    Attributes:
        rows: (R,) of the batch.
        new: (R, N) log-probabilities under the policy as it is, with gradients.
        old: (R, N) those it was sampled with.
        advantage: (R, N).
        valid: (R, N) bool, False after a trajectory's end.
        weight_B: (R,) of each trajectory's loss.
        share_B: (R,) of the mini-batch that each row is.
    """

    rows: IntArray
    new: torch.Tensor
    old: torch.Tensor
    advantage: torch.Tensor
    valid: torch.Tensor
    weight_B: torch.Tensor
    share_B: torch.Tensor


class GrpoTrainer(Generic[PolicyT]):
    """Holds the policy, its optimiser and the groups that wait.

    Whoever spreads it over processes overrides _place, _share_out, _summed and export (jobs.fsdp).

    Attributes:
        policy: what is trained; eval mode always, so that log-probabilities are those of sampling.
        config: how.
        updates: done so far.
        recorded: rows learned from before the first of them.
        surplus: informative rows beyond the target, for the next update.
        rng: shuffles, and draws starts and samples for whoever runs the loop.
        history: one JSON dictionary per update, written by the loop.

    Args:
        anchor: further loss of every optimiser step, e.g. a penalty for leaving what must not be forgotten.
    """

    def __init__(
        self,
        policy: PolicyT,
        config: GrpoConfig,
        *,
        anchor: Callable[[PolicyT, np.random.Generator], torch.Tensor] | None = None,
    ) -> None:
        policy.network.eval()
        policy.temperature = config.temperature
        self.policy, self.config = policy, config
        self.updates = self.recorded = 0
        self.surplus: Scored | None = None
        self.rng = np.random.default_rng(config.seed)
        self.history: list[dict[str, Any]] = []
        self._reference: PolicyT | None = _frozen_copy(policy) if config.kl_weight > 0 else None
        self._place()
        self._optimiser = torch.optim.AdamW(
            policy.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self._descent = Descent(
            config.iterations, config.learning_rate, config.weight_decay, floor=_final_rate(policy, config)
        )
        self._anchor = anchor

    @property
    def leads(self) -> bool:
        """Whether this process writes files and reports progress."""
        return True

    def _place(self) -> None:
        """Put policy and reference where they are trained, before the optimiser takes the weights."""

    def waiting(self) -> Scored | None:
        """The surplus that is still fresh enough to be learned from."""
        if self.surplus is None or self.surplus.born_B is None:
            return None
        fresh = np.flatnonzero(self.updates - self.surplus.born_B <= self.config.max_age)
        return take_rows(self.surplus, fresh) if len(fresh) else None

    def informative(self, scored: Scored) -> Scored:
        """Return only the rows of groups worth learning from, as sampled now."""
        low, high = self.config.keep_low, self.config.keep_high
        keep = informative_groups(scored.reward_B, scored.rollouts.group_B, scored.use_B, low=low, high=high)
        return take_rows(self._born(scored), np.flatnonzero(keep & (scored.rollouts.length_B > 0)))

    def _born(self, scored: Scored) -> Scored:
        if scored.born_B is not None:
            return scored
        return replace(scored, born_B=np.full(len(scored.reward_B), self.updates, np.int64))

    def update(self, batch: Scored) -> UpdateReport:
        """Learn from informative rows; rows beyond target_groups wait in `surplus` for the next update.

        Raises:
            ContractError: no rows; sample again.
        """
        batch, waiting = self._born(batch), self.waiting()
        if waiting is not None:
            batch = join_scored(waiting, batch)
        if len(batch.reward_B) == 0:
            raise ContractError(
                "no informative group to learn from; sample more, or check the judge and the start states"
            )
        batch, self.surplus = self._split(batch)
        report = self._go_over(batch, self.config.epochs)
        self.updates += 1
        return report

    def begin_with(self, batch: Scored, epochs: int) -> UpdateReport:
        """Learn from rows that were not sampled here, before the first update; it is none of config.iterations.

        Raises:
            ContractError: an update was made already.
        """
        if self.updates:
            raise ContractError(f"{self.updates} updates were made already; recorded episodes come before the first")
        self.recorded = len(batch.reward_B)
        return self._go_over(batch, epochs)

    def _go_over(self, batch: Scored, epochs: int) -> UpdateReport:
        """Go over a batch so many times at the present learning rate."""
        advantage = group_advantages(batch.reward_B, batch.rollouts.group_B, batch.use_B)
        reports, low, high = [], self.config.clip_low, self.config.clip_high
        rate = self._descent.rate(self.updates)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        for rows in self._mini_batches(len(advantage), epochs):
            terms = self._terms(batch, advantage, rows)
            parts = clipped_loss(terms.new, terms.old, terms.advantage, terms.valid, clip_low=low, clip_high=high)
            reports.append(self._descend(parts, terms, batch.rollouts))
        loss, clipped, kl, norm = np.mean(reports, axis=0)
        groups = len(np.unique(batch.rollouts.group_B))
        return UpdateReport(len(advantage), groups, float(loss), float(clipped), float(kl), float(norm), rate)

    def _split(self, batch: Scored) -> tuple[Scored, Scored | None]:
        """First target_groups groups, and the rest."""
        names = list(dict.fromkeys(batch.rollouts.group_B.tolist()))
        target = self.config.target_groups
        if target is None or len(names) <= target:
            return batch, None
        now = np.isin(batch.rollouts.group_B, names[:target])
        return take_rows(batch, np.flatnonzero(now)), take_rows(batch, np.flatnonzero(~now))

    def _mini_batches(self, rows: int, epochs: int) -> Iterator[IntArray]:
        """Every row once an epoch, in an order drawn when the epoch begins."""
        for _ in range(epochs):
            order = self.rng.permutation(rows)
            for low in range(0, rows, self.config.mini_batch):
                yield order[low : low + self.config.mini_batch]

    def _terms(self, batch: Scored, advantage_B: FloatArray, rows: IntArray) -> _Terms:
        """What the loss of a mini-batch is made of, for the rows that this process learns from."""
        places, share_B = self._share_out(len(rows))
        rollouts, steps = batch.rollouts, batch.rollouts.actions_BTA.shape[1]
        every = torch.from_numpy(np.arange(steps * 7) < (rollouts.length_B[rows] * 7)[:, None])
        weight_B = length_weights(every, self.config.length_normalisation)[places] * share_B
        mine, valid = rows[places], every[places]
        new = rollout_log_probs(self.policy, rollouts, mine)
        old = torch.from_numpy(rollouts.log_probs_BTA[mine]).flatten(1)
        token_advantage = torch.from_numpy(token_advantages(advantage_B[mine], rollouts.length_B[mine], steps))
        if batch.weight_BTA is not None:
            token_advantage = token_advantage * torch.from_numpy(batch.weight_BTA[mine]).flatten(1)
        return _Terms(mine, new, old, token_advantage, valid, weight_B, share_B)

    def _descend(self, parts: TokenLoss, terms: _Terms, rollouts: RolloutBatch) -> tuple[float, ...]:
        """One optimiser step; returns loss, clipped share, KL and gradient norm of the mini-batch."""
        loss = (terms.weight_B * parts.loss).sum()
        if self._reference is not None:
            with torch.no_grad():
                reference = rollout_log_probs(self._reference, rollouts, terms.rows)
            apart = torch.where(terms.valid, reference - terms.new, 0.0)
            estimate = (apart.exp() - apart - 1).sum(1) / terms.valid.sum(1)  # Schulman's k3: unbiased, never negative
            loss = loss + self.config.kl_weight * (estimate * terms.share_B).sum()
        if self._anchor is not None:
            loss = loss + self._anchor(self.policy, self.rng)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.policy.network.parameters(), self.config.grad_clip)
        self._optimiser.step()
        figures = torch.stack([loss.detach(), (parts.clipped * terms.share_B).sum(), (parts.kl * terms.share_B).sum()])
        return (*self._summed(figures).tolist(), float(whole(norm)))

    def _share_out(self, rows: int) -> tuple[IntArray, torch.Tensor]:
        """Which rows of a mini-batch this process learns from, and the share of the loss that each of them is."""
        return np.arange(rows), torch.full((rows,), 1.0 / rows)

    def _summed(self, figures: torch.Tensor) -> torch.Tensor:
        """Figures of the mini-batch out of those of this process's rows."""
        return figures

    def export(self, folder: Path, *, parents: tuple[str, ...], lineage: Mapping[str, object]) -> None:
        """Write a checkpoint of the policy, unless a run that was interrupted right here already did."""
        write_policy(self.policy, folder, parents=parents, lineage=lineage)

    @property
    def _trained(self) -> Trained:
        return Trained({"policy": self.policy.network}, {"adamw": self._optimiser}, {"rng": self.rng})

    def save(self, path: Path, extra: Mapping[str, object] | None = None) -> None:
        """Write the state file: weights, optimiser, generator, surplus groups, history, and JSON extras."""
        values: dict[str, Any] = {"updates": self.updates, "recorded": self.recorded, "history": self.history}
        values["extra"] = dict(extra or {})
        tensors: dict[str, torch.Tensor] = {}
        if self.surplus is not None:
            arrays, values["surplus"] = unpacked(self.surplus)
            tensors |= {f"surplus/{name}": torch.from_numpy(array) for name, array in arrays.items()}
        save_state(path, self._trained, values, tensors, write=self.leads)

    def load(self, path: Path) -> dict[str, Any]:
        """Continue from a state file, the policy having been loaded from the same parent; returns the JSON extras."""
        values, tensors = load_state(path, self._trained)
        self.updates, self.recorded = int(values["updates"]), int(values.get("recorded", 0))
        self.history, self.surplus = list(values["history"]), None
        if "surplus" in values:
            arrays = {n.removeprefix("surplus/"): t.numpy() for n, t in tensors.items() if n.startswith("surplus/")}
            self.surplus = packed(arrays, values["surplus"])
        extra: dict[str, Any] = values["extra"]
        return extra


def write_policy(
    policy: LearningPolicy, folder: Path, *, parents: tuple[str, ...], lineage: Mapping[str, object]
) -> None:
    """Write a checkpoint where there is none yet; an adapter's base lies beside it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(policy, TrainableAdapter):
        policy.copy_base_into(folder.parent)
    if not folder.exists():
        policy.save(folder, parents=parents, lineage=lineage)


def _final_rate(policy: LearningPolicy, config: GrpoConfig) -> float:
    """Share of the learning rate that is left at the end."""
    if config.final_rate is not None:
        return config.final_rate
    inner = policy.base if isinstance(policy, TrainableAdapter) else policy
    return 1.0 if isinstance(inner, MatchingPolicy) else 0.1


def _frozen_copy(policy: PolicyT) -> PolicyT:
    reference = copy.deepcopy(policy)
    reference.network.requires_grad_(False)
    return reference
