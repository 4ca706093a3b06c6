"""Supervised fine-tuning of any policy with tokens or a flow, whole or by adapters, and Iter-SFT; resumes exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cloud_trainer.progress import Cancelled, Progress, never, silent
from cloud_trainer.sft.windows import Windows, mix, windows_from_episodes, windows_from_rollouts
from cloud_trainer.training import Descent, ModelTrainer
from gymnast_core.errors import ConfigError
from gymnast_core.jobs.imitate import SftConfig
from gymnast_core.policies.compact import ActionBins, CompactPolicy, CompactPolicyConfig
from gymnast_core.policies.flow import ActionScale, FlowPolicy
from gymnast_core.policies.flow_network import FlowNetwork, FlowPolicyConfig
from gymnast_core.policies.history import HistoryPolicy, HistoryPolicyConfig
from gymnast_core.policies.lora_settings import LoraSettings
from gymnast_core.policies.trainable import (
    LearningPolicy,
    MatchingPolicy,
    TokenPolicy,
    TrainableAdapter,
    load_trainable,
)
from gymnast_core.records.manifest import Manifest, read_manifest
from gymnast_core.robots import declared, model_in, one_arm, robot_named
from gymnast_core.spec import WIDOWX_250S, RobotSpec
from gymnast_core.types import Episode, FloatArray, IntArray, RolloutBatch

FRESH: Mapping[str, type[CompactPolicyConfig | FlowPolicyConfig]] = {
    "tokens": CompactPolicyConfig, "flow": FlowPolicyConfig, "history": HistoryPolicyConfig,
}  # fmt: skip
"""Sizes of a policy to begin, by what it is made of."""


def action_bins_of(actions_NA: FloatArray, bins: int, spec: RobotSpec = WIDOWX_250S) -> ActionBins:
    """Return bins over an arm's whole step for translation and over the demonstrated range for rotation.

    Reinforcement must be able to leave the demonstrated translations; rotation gets their 1-99 % range, widened by a
    quarter and never narrower than +-0.02 rad, so that the token noise of an unused axis stays small.
    """
    low, high = np.quantile(actions_NA, [0.01, 0.99], axis=0)
    margin = 0.25 * (high - low)
    low, high = np.minimum(low - margin, -0.02), np.maximum(high + margin, 0.02)
    limit = spec.max_rotation_rad
    low, high = np.maximum(low, -limit), np.minimum(high, limit)
    low[:3], high[:3] = -spec.max_translation_m, spec.max_translation_m
    low[6], high[6] = 0.0, 1.0
    return ActionBins(low.astype(np.float32), high.astype(np.float32), bins)


def sft_loss(logits_BKAN: Tensor, position_BKA: Tensor, valid_BK: Tensor, config: SftConfig) -> Tensor:
    """Soft-label cross-entropy plus squared error of the expected action, mean over valid steps and components.

    Args:
        logits_BKAN: (B, K, 7, bins).
        position_BKA: (B, K, 7) fractional bin index of the demonstrated action.
        valid_BK: (B, K) bool.
        config: widths and weights.
    """
    bins = logits_BKAN.shape[-1]
    index_N = torch.arange(bins, dtype=logits_BKAN.dtype)
    distance = (index_N - position_BKA[..., None]) / config.label_sigma_bins
    target = F.softmax(-0.5 * distance.square(), dim=-1)
    cross_entropy = -(target * F.log_softmax(logits_BKAN, dim=-1)).sum(-1)
    expected = (F.softmax(logits_BKAN, dim=-1) * index_N).sum(-1)
    error = (2.0 * (expected - position_BKA) / bins).square()
    per_step = (cross_entropy + config.expected_action_weight * error).mean(-1)
    return (per_step * valid_BK).sum() / valid_BK.sum().clamp(min=1)


class SftTrainer(ModelTrainer):
    """One fine-tuning run over fixed windows.

    Attributes:
        policy: what is trained.
    """

    stage, title = "sft", "fine-tuning"

    def __init__(self, policy: LearningPolicy, windows: Windows, config: SftConfig) -> None:
        self.policy, self.windows, self.config = policy, windows, config
        self._objective = objective(policy, windows, config)
        self._rng = np.random.default_rng(config.seed)
        descent = Descent(
            config.iterations,
            config.learning_rate,
            config.weight_decay,
            warmup=config.warmup,
            grad_clip=config.grad_clip,
        )
        super().__init__(policy.network, descent, {"policy": policy.network}, {"batches": self._rng})

    def loss(self) -> Tensor:
        """Loss of a fresh batch of windows."""
        rows = self.windows.draw(self.config.batch_size, self._rng)
        self.policy.network.train()
        return self._objective(rows, self._rng)


Objective = Callable[[IntArray, np.random.Generator], Tensor]
"""The loss of some windows; the generator draws whatever noise it needs."""


def objective(policy: LearningPolicy, windows: Windows, config: SftConfig) -> Objective:
    """Return how a policy of this kind imitates windows.

    Raises:
        ConfigError: it is of no kind that can.
    """
    inner = policy.base if isinstance(policy, TrainableAdapter) else policy
    if isinstance(inner, MatchingPolicy):
        return _flow_matching(inner, windows)
    if not isinstance(inner, TokenPolicy):
        raise ConfigError(
            f"{type(inner).__name__} has no tokens to imitate with; name a compact, pi0 or OpenVLA checkpoint"
        )
    position, valid = torch.from_numpy(inner.token_positions(windows.actions_NKA)), torch.from_numpy(windows.valid_NK)

    def soft_labels(rows: IntArray, rng: np.random.Generator) -> Tensor:
        index, images = torch.from_numpy(rows), windows.images_NHWC[rows]
        texts = [windows.instructions[row] for row in rows]
        if isinstance(inner, HistoryPolicy):
            logits = inner.logits(images, texts, None if windows.past_NHX is None else windows.past_NHX[rows])
        else:
            logits = inner.logits(images, texts)
        return sft_loss(logits.float().cpu(), position[index], valid[index], config)

    return soft_labels


def _flow_matching(policy: MatchingPolicy, windows: Windows) -> Objective:
    def matching(rows: IntArray, rng: np.random.Generator) -> Tensor:
        texts = [windows.instructions[row] for row in rows]
        images, actions, valid = windows.images_NHWC[rows], windows.actions_NKA[rows], windows.valid_NK[rows]
        proprio = None if windows.proprio_NP is None else windows.proprio_NP[rows]
        return policy.matching_loss(images, texts, actions, valid, rng, proprio_NP=proprio)

    return matching


def train_sft(
    episodes: Sequence[Episode],
    config: SftConfig,
    out: Path,
    *,
    parent: Path | None = None,
    policy_config: CompactPolicyConfig | FlowPolicyConfig | None = None,
    imagined: tuple[RolloutBatch, Sequence[int]] | None = None,
    lora: LoraSettings | None = None,
    device: str = "cpu",
    state: Path | None = None,
    lineage: Mapping[str, Any] | None = None,
    progress: Progress = silent,
    cancelled: Cancelled = never,
) -> Manifest:
    """Imitate demonstrations and write a policy checkpoint.

    Args:
        episodes: demonstrations.
        config: how.
        out: checkpoint folder to create.
        parent: a policy to start from; its action bins are kept. None starts fresh.
        policy_config: sizes of a fresh policy, and thereby its kind; None is the compact token policy.
        lora: train a fresh low-rank adapter of the parent alone; a parent that is an adapter goes on as one. Out is
            then an adapter checkpoint, and needs its base beside it to be loaded.
        device: of a large parent, see load_trainable.
        imagined: rollouts and the rows the judge called successes, mixed 1:1 with the demonstrations (Iter-SFT).
        state: state file; when it exists the run continues from it, and it is written every 100 steps.
        lineage: goes into the manifest beside the configuration and the episode ids.
        progress: called every 20 steps.
        cancelled: asked every step.

    Raises:
        CancelledError: cancelled; the state file, if one was named, has the last whole step.
        ConfigError: episodes and parent are of several arms.
    """
    inherited = [] if parent is None else [read_manifest(parent).robot_model]
    model = one_arm([*(model_in(episode.metadata) for episode in episodes), *inherited])
    policy = _starting_policy(episodes, config, parent, policy_config, lora, device, robot_named(model))
    parents: tuple[str, ...] = () if parent is None else (policy.version,)
    chunk, prepare = policy.chunk_length, policy.training_frames
    windows = windows_from_episodes(episodes, chunk, prepare, camera=policy.config.camera,
                                    past=isinstance(policy, HistoryPolicy))  # fmt: skip
    if imagined is not None:
        windows = mix(windows, windows_from_rollouts(*imagined, chunk, prepare))
    SftTrainer(policy, windows, config).run(state=state, progress=progress, cancelled=cancelled)
    made_from = {
        "stage": "sft" if imagined is None else "iter_sft",
        "sft": config.model_dump(),
        "episodes": [episode.episode_id for episode in episodes],
        "imagined_successes": 0 if imagined is None else len(imagined[1]),
    }
    return policy.save(out, parents=parents, lineage=made_from | declared(model) | dict(lineage or {}))


def _starting_policy(
    episodes: Sequence[Episode], config: SftConfig, parent: Path | None,
    sizes: CompactPolicyConfig | FlowPolicyConfig | None, lora: LoraSettings | None, device: str, robot: RobotSpec,
) -> LearningPolicy:  # fmt: skip
    if parent is not None:
        return load_trainable(parent, lora=lora, seed=config.seed, device=device)
    if lora is not None:
        raise ConfigError("adapters need a parent policy to sit on; name one, or train the policy whole")
    sizes, actions_NA = sizes or CompactPolicyConfig(), np.concatenate([e.actions_TA for e in episodes])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if isinstance(sizes, FlowPolicyConfig):
            return FlowPolicy(FlowNetwork(sizes), ActionScale.of(actions_NA, robot))
        kind = HistoryPolicy if isinstance(sizes, HistoryPolicyConfig) else CompactPolicy
        return kind(kind.network_for(sizes, robot.name), action_bins_of(actions_NA, sizes.bins, robot))
