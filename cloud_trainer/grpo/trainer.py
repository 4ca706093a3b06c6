"""GRPO on judged rollouts: advantages, dynamic sampling with surplus kept, clipped updates, exact resume."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from cloud_trainer.grpo.advantage import group_advantages, informative_groups, token_advantages
from cloud_trainer.grpo.loss import clipped_loss
from cloud_trainer.training_state import Trained, load_state, save_state
from gymnast_core.errors import ConfigError, ContractError
from gymnast_core.policies.trainable import TokenPolicy
from gymnast_core.types import BoolArray, FloatArray, IntArray, RolloutBatch


@dataclass(frozen=True)
class GrpoConfig:
    """How to reinforce.

    Attributes:
        group_size: N rollouts per start state.
        groups: G start states sampled per round.
        iterations: updates of the policy, each on fresh rollouts. Few on purpose: imagined reward keeps rising
            long after real success falls.
        target_groups: informative groups wanted per update; what is left over waits for the next update. None uses
            what one round gives.
        max_rounds: rounds of sampling per update in search of them.
        max_age: a surplus group older than this many updates is dropped.
        keep_low: groups with a lower mean reward teach nothing.
        keep_high: groups with a higher one neither.
        temperature: of sampling.
        clip_low: ratio clip below 1.
        clip_high: ratio clip above 1.
        epochs: passes over each batch.
        mini_batch: trajectories per optimiser step.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        grad_clip: largest gradient norm.
        kl_weight: weight of the KL estimate towards the starting policy; 0 leaves it out.
        keyframe_share: share of the groups that begin at a later chunk start of a recorded episode.
        mask_after_success: judge at every chunk end and learn nothing from what follows the first success.
        seed: of starts, sampling and shuffling.
    """

    group_size: int = 8
    groups: int = 24
    iterations: int = 10
    target_groups: int | None = None
    max_rounds: int = 1
    max_age: int = 2
    keep_low: float = 0.1
    keep_high: float = 0.9
    temperature: float = 1.0
    clip_low: float = 0.2
    clip_high: float = 0.28
    epochs: int = 2
    mini_batch: int = 48
    learning_rate: float = 2e-4
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    kl_weight: float = 0.0
    keyframe_share: float = 0.0
    mask_after_success: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        if min(self.group_size - 1, self.groups, self.iterations, self.epochs, self.mini_batch, self.max_rounds) < 1:
            raise ConfigError(f"group_size >= 2; groups, iterations, epochs, mini_batch, max_rounds >= 1; got {self}")
        if not 0 <= self.keep_low <= self.keep_high <= 1 or not 0 <= self.keyframe_share <= 1:
            raise ConfigError(f"0 <= keep_low <= keep_high <= 1 and 0 <= keyframe_share <= 1; got {self}")
        if self.learning_rate <= 0 or self.temperature <= 0:
            raise ConfigError(f"learning_rate and temperature must be above 0; got {self}")


@dataclass(frozen=True)
class Scored:
    """Rollouts with their rewards.

    Attributes:
        rollouts: B rows.
        reward_B: (B,) float32.
        use_B: (B,) bool, False where the judge abstained.
        born: update count when they were sampled.
        weight_BTA: (B, T, 7) float32 weight of each token's advantage, e.g. truncated importance weights of stale
            rollouts; None weighs all alike.
    """

    rollouts: RolloutBatch
    reward_B: FloatArray
    use_B: BoolArray
    born: int = 0
    weight_BTA: FloatArray | None = None


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
    """

    trajectories: int
    groups: int
    loss: float
    clipped: float
    kl: float
    grad_norm: float

    def to_metrics(self) -> dict[str, float]:
        """Numbers for a progress event."""
        return {field.name: float(getattr(self, field.name)) for field in fields(self)}


PolicyT = TypeVar("PolicyT", bound=TokenPolicy)


class GrpoTrainer(Generic[PolicyT]):
    """Holds the policy, its optimiser and the groups that wait.

    Attributes:
        policy: what is trained; eval mode always, so that log-probabilities are those of sampling.
        config: how.
        updates: done so far.
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
        self.updates = 0
        self.surplus: Scored | None = None
        self.rng = np.random.default_rng(config.seed)
        self.history: list[dict[str, Any]] = []
        self._optimiser = torch.optim.AdamW(
            policy.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self._reference: PolicyT | None = _frozen_copy(policy) if config.kl_weight > 0 else None
        self._anchor = anchor

    def informative(self, scored: Scored) -> Scored:
        """Return only the rows of groups worth learning from."""
        low, high = self.config.keep_low, self.config.keep_high
        keep = informative_groups(scored.reward_B, scored.rollouts.group_B, scored.use_B, low=low, high=high)
        return take_rows(scored, np.flatnonzero(keep & (scored.rollouts.length_B > 0)))

    def update(self, batch: Scored) -> UpdateReport:
        """Learn from informative rows; rows beyond target_groups wait in `surplus` for the next update.

        Raises:
            ContractError: no rows; sample again.
        """
        if self.surplus is not None and self.updates - self.surplus.born <= self.config.max_age:
            batch = join_scored(self.surplus, batch)
        if len(batch.reward_B) == 0:
            raise ContractError(
                "no informative group to learn from; sample more, or check the judge and the start states"
            )
        batch, self.surplus = self._split(batch)
        advantage = group_advantages(batch.reward_B, batch.rollouts.group_B, batch.use_B)
        reports = []
        for _ in range(self.config.epochs):
            order = self.rng.permutation(len(advantage))
            for low in range(0, len(order), self.config.mini_batch):
                reports.append(self._step(batch, advantage, order[low : low + self.config.mini_batch]))
        self.updates += 1
        loss, clipped, kl, norm = np.mean(reports, axis=0)
        groups = len(np.unique(batch.rollouts.group_B))
        return UpdateReport(len(advantage), groups, float(loss), float(clipped), float(kl), float(norm))

    def _split(self, batch: Scored) -> tuple[Scored, Scored | None]:
        """First target_groups groups, and the rest."""
        names = list(dict.fromkeys(batch.rollouts.group_B.tolist()))
        target = self.config.target_groups
        if target is None or len(names) <= target:
            return batch, None
        now = np.isin(batch.rollouts.group_B, names[:target])
        later = replace(take_rows(batch, np.flatnonzero(~now)), born=self.updates)
        return take_rows(batch, np.flatnonzero(now)), later

    def _step(self, batch: Scored, advantage_B: FloatArray, rows: IntArray) -> tuple[float, ...]:
        rollouts = batch.rollouts
        steps = rollouts.actions_BTA.shape[1]
        new = self._log_probs(self.policy, rollouts, rows)
        old = torch.from_numpy(rollouts.log_probs_BTA[rows]).flatten(1)
        length = rollouts.length_B[rows]
        token_advantage = torch.from_numpy(token_advantages(advantage_B[rows], length, steps))
        if batch.weight_BTA is not None:
            token_advantage = token_advantage * torch.from_numpy(batch.weight_BTA[rows]).flatten(1)
        valid = torch.from_numpy(np.arange(steps * 7) < (length * 7)[:, None])
        parts = clipped_loss(
            new, old, token_advantage, valid, clip_low=self.config.clip_low, clip_high=self.config.clip_high
        )
        loss = parts.loss.mean()
        if self._reference is not None:
            with torch.no_grad():
                reference = self._log_probs(self._reference, rollouts, rows)
            apart = torch.where(valid, reference - new, 0.0)
            estimate = (apart.exp() - apart - 1).sum(1) / valid.sum(1)  # Schulman's k3: unbiased and never negative
            loss = loss + self.config.kl_weight * estimate.mean()
        if self._anchor is not None:
            loss = loss + self._anchor(self.policy, self.rng)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.policy.network.parameters(), self.config.grad_clip)
        self._optimiser.step()
        return float(loss.detach()), float(parts.clipped.mean()), float(parts.kl.mean()), float(norm)

    def _log_probs(self, policy: TokenPolicy, rollouts: RolloutBatch, rows: IntArray) -> torch.Tensor:
        """(rows, T*7) log-probabilities, one policy call per chunk, all rows and chunks in one pass."""
        chunk = policy.chunk_length
        chunks = rollouts.actions_BTA.shape[1] // chunk
        if list(rollouts.frame_steps_F[:chunks]) != [chunk * c for c in range(chunks)]:
            raise ContractError(f"kept frames {rollouts.frame_steps_F} must be the starts of chunks of {chunk}")
        kept = rollouts.frames_BFHWC[rows, :chunks]
        frames = policy.training_frames(kept.reshape(-1, *kept.shape[2:]))
        tokens = rollouts.tokens_BTA[rows].reshape(len(rows) * chunks, chunk, 7)
        instructions = [rollouts.instructions[row] for row in rows for _ in range(chunks)]
        log_probs = policy.token_log_probs(frames, instructions, tokens)
        return log_probs.reshape(len(rows), -1)

    @property
    def _trained(self) -> Trained:
        return Trained({"policy": self.policy.network}, {"adamw": self._optimiser}, {"rng": self.rng})

    def save(self, path: Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write the state file: weights, optimiser, generator, surplus groups, history, and JSON extras."""
        values: dict[str, Any] = {"updates": self.updates, "history": self.history, "extra": dict(extra or {})}
        tensors: dict[str, torch.Tensor] = {}
        if self.surplus is not None:
            values["surplus"] = {
                "instructions": list(self.surplus.rollouts.instructions),
                "policy_version": self.surplus.rollouts.policy_version,
                "born": self.surplus.born,
            }
            tensors |= {f"surplus/{name}": torch.from_numpy(a) for name, a in _arrays(self.surplus).items()}
        save_state(path, self._trained, values, tensors)

    def load(self, path: Path) -> dict[str, Any]:
        """Continue from a state file, the policy having been loaded from the same parent; returns the JSON extras."""
        values, tensors = load_state(path, self._trained)
        self.updates, self.history, self.surplus = int(values["updates"]), list(values["history"]), None
        if "surplus" in values:
            arrays = {n.removeprefix("surplus/"): t.numpy() for n, t in tensors.items() if n.startswith("surplus/")}
            self.surplus = _scored(arrays, values["surplus"])
        extra: dict[str, Any] = values["extra"]
        return extra


_ROLLOUT_ARRAYS = ("frames_BFHWC", "actions_BTA", "tokens_BTA", "log_probs_BTA", "length_B", "group_B")


def take_rows(scored: Scored, rows: IntArray) -> Scored:
    """Return chosen rows."""
    arrays = {name: getattr(scored.rollouts, name)[rows] for name in _ROLLOUT_ARRAYS}
    instructions = [scored.rollouts.instructions[row] for row in rows]
    return replace(
        scored,
        rollouts=replace(scored.rollouts, instructions=instructions, **arrays),
        reward_B=scored.reward_B[rows],
        use_B=scored.use_B[rows],
        weight_BTA=None if scored.weight_BTA is None else scored.weight_BTA[rows],
    )


def join_scored(first: Scored, second: Scored) -> Scored:
    """Put two batches behind each other; groups keep their names, which the loop makes unique."""
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(first.rollouts, name), getattr(second.rollouts, name)])
        for name in _ROLLOUT_ARRAYS
    }
    instructions = [*first.rollouts.instructions, *second.rollouts.instructions]
    return Scored(
        replace(second.rollouts, instructions=instructions, **arrays),
        np.concatenate([first.reward_B, second.reward_B]),
        np.concatenate([first.use_B, second.use_B]),
        second.born,
        _joined_weights(first, second),
    )


def _joined_weights(first: Scored, second: Scored) -> FloatArray | None:
    if first.weight_BTA is None and second.weight_BTA is None:
        return None
    parts = [
        s.weight_BTA if s.weight_BTA is not None else np.ones_like(s.rollouts.actions_BTA) for s in (first, second)
    ]
    return np.concatenate(parts).astype(np.float32)


def _arrays(scored: Scored) -> dict[str, np.ndarray[Any, Any]]:
    rollouts = {name: getattr(scored.rollouts, name) for name in (*_ROLLOUT_ARRAYS, "frame_steps_F")}
    weights = {} if scored.weight_BTA is None else {"weight_BTA": scored.weight_BTA}
    return rollouts | {"reward_B": scored.reward_B, "use_B": scored.use_B} | weights


def _scored(arrays: Mapping[str, np.ndarray[Any, Any]], values: Mapping[str, Any]) -> Scored:
    fields_ = {name: arrays[name] for name in (*_ROLLOUT_ARRAYS, "frame_steps_F")}
    rollouts = RolloutBatch(instructions=values["instructions"], policy_version=values["policy_version"], **fields_)
    return Scored(rollouts, arrays["reward_B"], arrays["use_B"], int(values["born"]), arrays.get("weight_BTA"))


def _frozen_copy(policy: PolicyT) -> PolicyT:
    reference = copy.deepcopy(policy)
    reference.network.requires_grad_(False)
    return reference
