"""The learned judge: first frame, last frame and instruction to a probability of success, with an abstain band.

Trained on recorded last frames and on imagined last frames, both with the outcome that really happened. It never
draws imagined frames itself: the caller hands them over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloud_trainer.judge.thresholds import Thresholds
from cloud_trainer.progress import Cancelled, CancelledError, Progress, ProgressEvent, never, silent
from cloud_trainer.training_state import Trained, load_state, save_state
from gymnast_core.errors import CheckpointError, ConfigError
from gymnast_core.images import area_downsample
from gymnast_core.judge import Verdict
from gymnast_core.manifest import Manifest, read_checkpoint, write_checkpoint
from gymnast_core.policies.text import bag_of_words
from gymnast_core.policies.vision import KeypointEncoder
from gymnast_core.types import BoolArray, ByteArray, Episode, FloatArray, Outcome, RolloutBatch

ARCHITECTURE = "learned_judge"


@dataclass(frozen=True)
class JudgeConfig:
    """Sizes of the judge; stored in the manifest.

    Attributes:
        image_size: pixels it sees.
        text_buckets: hashed words.
        text_dim: width of the instruction embedding.
        widths: channels of the three convolution stages.
        hidden: width of the head.
    """

    image_size: int = 64
    text_buckets: int = 256
    text_dim: int = 32
    widths: tuple[int, int, int] = (24, 40, 48)
    hidden: int = 160


@dataclass(frozen=True)
class JudgeTraining:
    """How to train.

    Attributes:
        iterations: optimiser steps; the learning rate falls as a cosine over them.
        batch_size: examples a step.
        learning_rate: peak.
        weight_decay: of AdamW.
        label_smoothing: keeps scores off 0 and 1, so that thresholds have room.
        brightness: standard deviation of a grey-level shift shared by both frames of an example.
        seed: of initialisation, batches and shifts.
    """

    iterations: int = 600
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    label_smoothing: float = 0.02
    brightness: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot train."""
        if self.iterations < 1 or self.batch_size < 2 or self.learning_rate <= 0:
            raise ConfigError(f"iterations >= 1, batch_size >= 2, learning_rate > 0; got {self}")


@dataclass(frozen=True)
class Examples:
    """N labelled pairs of frames.

    Attributes:
        first_NHWC: (N, 64, 64, 3) uint8.
        last_NHWC: (N, 64, 64, 3) uint8, recorded or imagined.
        instructions: N strings.
        success_N: (N,) bool, what really happened.
        weight_N: (N,) float32, how often an example is drawn.
    """

    first_NHWC: ByteArray
    last_NHWC: ByteArray
    instructions: tuple[str, ...]
    success_N: BoolArray
    weight_N: FloatArray

    def __len__(self) -> int:
        return len(self.instructions)


def examples_from_episodes(episodes: Sequence[Episode], size: int = 64, *, camera: str = "") -> Examples:
    """Return first and last recorded frames of the labelled episodes.

    Raises:
        ConfigError: none is labelled.
    """
    labelled = [e for e in episodes if e.outcome in (Outcome.SUCCESS, Outcome.FAILURE)]
    if not labelled:
        raise ConfigError(f"none of {len(episodes)} episodes is labelled success or failure; label some")
    ends = [e.images[camera or next(iter(e.images))][[0, -1]] for e in labelled]
    frames = area_downsample(np.stack(ends), size)
    return Examples(
        frames[:, 0],
        frames[:, 1],
        tuple(e.instruction for e in labelled),
        np.array([e.outcome is Outcome.SUCCESS for e in labelled]),
        np.ones(len(labelled), np.float32),
    )


def examples_from_rollouts(rollouts: RolloutBatch, success_B: BoolArray, size: int = 64) -> Examples:
    """Return first and last frames of imagined rollouts that replay episodes with a known outcome."""
    frames = area_downsample(rollouts.frames_BFHWC[:, [0, -1]], size)
    ones = np.ones(len(success_B), np.float32)
    return Examples(frames[:, 0], frames[:, 1], tuple(rollouts.instructions), np.asarray(success_B, bool), ones)


def join_examples(*parts: Examples, shares: Sequence[float] | None = None) -> Examples:
    """Put sets together; shares says how often each set is drawn in all (default: by its size)."""
    wanted = shares or [float(len(part)) for part in parts]
    weights = [part.weight_N * (share / part.weight_N.sum()) for part, share in zip(parts, wanted, strict=True)]
    return Examples(
        np.concatenate([part.first_NHWC for part in parts]),
        np.concatenate([part.last_NHWC for part in parts]),
        tuple(text for part in parts for text in part.instructions),
        np.concatenate([part.success_N for part in parts]),
        np.concatenate(weights).astype(np.float32),
    )


class JudgeNetwork(nn.Module):
    """First and last frame, bag of words -> one logit per row."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = KeypointEncoder(9, config.text_buckets, config.text_dim, config.widths)
        hidden = config.hidden
        self.enter = nn.Linear(self.encoder.out_dim, hidden)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
            for _ in range(3)
        )
        self.leave = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, 1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # up to twice as fast on CPU

    def forward(self, first_BHWC: Tensor, last_BHWC: Tensor, bag_BV: Tensor) -> Tensor:
        """first, last (B, 64, 64, 3) grey levels 0..255, bag (B, buckets) -> (B,) logits."""
        first, last = (x.permute(0, 3, 1, 2).float() / 127.5 - 1.0 for x in (first_BHWC, last_BHWC))
        features, _ = self.encoder(torch.cat([last, first, last - first], dim=1), bag_BV)
        h = F.silu(self.enter(features))
        for layer in self.layers:
            h = h + layer(h)
        logit: Tensor = self.leave(h)[:, 0]
        return logit


class LearnedJudge:
    """Keeps gymnast_core.judge.Judge.

    Attributes:
        network: in eval mode unless a trainer changes it.
        config: its sizes.
        thresholds: at or below low it says failure, at or above high success, between them it abstains.
    """

    def __init__(
        self, network: JudgeNetwork, thresholds: Thresholds | None = None, *, version: str = "unsaved"
    ) -> None:
        self.network = network.eval()
        self.config = network.config
        self.thresholds = thresholds or Thresholds(0.5, 0.5)
        self._version = version

    @property
    def version(self) -> str:
        """Id of the checkpoint, "unsaved" before the first save."""
        return self._version

    def judge(self, rollouts: RolloutBatch) -> Sequence[Verdict]:
        """Judge each row by its first and last kept frame."""
        frames = area_downsample(rollouts.frames_BFHWC[:, [0, -1]], self.config.image_size)
        scores = self.scores(frames[:, 0], frames[:, 1], rollouts.instructions)
        band = {"low": self.thresholds.low, "high": self.thresholds.high}
        return [Verdict(self.thresholds.outcome(float(s)), float(s), {"frames": [0, -1], **band}) for s in scores]

    @torch.no_grad()
    def scores(self, first_BHWC: ByteArray, last_BHWC: ByteArray, instructions: Sequence[str]) -> FloatArray:
        """Return (B,) probabilities of success."""
        parts = []
        for low in range(0, len(instructions), 64):
            rows = slice(low, low + 64)
            first, last = (torch.from_numpy(np.ascontiguousarray(x[rows])) for x in (first_BHWC, last_BHWC))
            bags = torch.from_numpy(bag_of_words(instructions[rows], self.config.text_buckets))
            parts.append(torch.sigmoid(self.network(first, last, bags)).numpy())
        return np.concatenate(parts)

    def save(
        self,
        folder: Path,
        *,
        parents: tuple[str, ...] = (),
        lineage: Mapping[str, Any] | None = None,
        thresholds: Thresholds | None = None,
    ) -> Manifest:
        """Write an immutable checkpoint folder; thresholds go into its normalisation, calibration into lineage."""
        if thresholds is not None:
            self.thresholds = thresholds
        manifest = write_checkpoint(
            folder,
            safetensors.torch.save({k: v.contiguous() for k, v in self.network.state_dict().items()}),
            kind="judge",
            architecture=ARCHITECTURE,
            config=asdict(self.config) | {"widths": list(self.config.widths)},
            parents=parents,
            normalisation=asdict(self.thresholds),
            lineage=lineage or {},
        )
        self._version = manifest.id
        return manifest

    @classmethod
    def load(cls, folder: Path) -> LearnedJudge:
        """Read a checkpoint folder.

        Raises:
            CheckpointError: altered, of another kind, or with tensors that do not fit its configuration.
        """
        manifest, weights = read_checkpoint(folder, kind="judge", architecture=ARCHITECTURE)
        network = JudgeNetwork(JudgeConfig(**{**manifest.config, "widths": tuple(manifest.config["widths"])}))
        try:
            network.load_state_dict(safetensors.torch.load(weights))
        except RuntimeError as error:
            raise CheckpointError(f"{folder}: tensors do not fit the configuration: {error}") from error
        return cls(network, Thresholds(**manifest.normalisation), version=manifest.id)


class JudgeTrainer:
    """One training run over fixed examples.

    Attributes:
        judge: what is trained.
        step: optimiser steps done.
        losses: one per step.
    """

    def __init__(self, judge: LearnedJudge, examples: Examples, config: JudgeTraining) -> None:
        self.judge, self.examples, self.config = judge, examples, config
        self.step = 0
        self.losses: list[float] = []
        self._bags = torch.from_numpy(bag_of_words(examples.instructions, judge.config.text_buckets))
        self._optimiser = torch.optim.AdamW(
            judge.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self._rng = np.random.default_rng(config.seed)
        self._edges = np.cumsum(_balanced(examples), dtype=np.float64)

    @property
    def _trained(self) -> Trained:
        return Trained({"judge": self.judge.network}, {"adamw": self._optimiser}, {"batches": self._rng})

    def save(self, path: Path) -> None:
        """Write the state file."""
        save_state(path, self._trained, {"step": self.step, "losses": self.losses})

    def load(self, path: Path) -> None:
        """Continue from a state file."""
        values, _ = load_state(path, self._trained)
        self.step, self.losses = int(values["step"]), list(values["losses"])

    def run_step(self) -> float:
        """One optimiser step; returns the loss."""
        config, examples = self.config, self.examples
        for group in self._optimiser.param_groups:
            done = self.step / config.iterations
            group["lr"] = config.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        index = np.searchsorted(self._edges, self._rng.random(config.batch_size) * self._edges[-1], side="right")
        shift = torch.from_numpy(self._rng.normal(0, config.brightness, (config.batch_size, 1, 1, 1)))
        first, last = (
            torch.from_numpy(x[index]).float() + shift.float() for x in (examples.first_NHWC, examples.last_NHWC)
        )
        truth = torch.from_numpy(examples.success_N[index].astype(np.float32))
        target = truth * (1 - 2 * config.label_smoothing) + config.label_smoothing
        logit = self.judge.network.train()(first, last, self._bags[torch.from_numpy(index)])
        loss = F.binary_cross_entropy_with_logits(logit, target)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.judge.network.parameters(), 1.0)
        self._optimiser.step()
        self.judge.network.eval()
        self.step += 1
        self.losses.append(float(loss.detach()))
        return self.losses[-1]


def _balanced(examples: Examples, least: float = 0.3) -> FloatArray:
    """Raise the drawing weight of the rarer outcome until it makes up at least `least` of the draws."""
    weight = examples.weight_N.astype(np.float64)
    for outcome in (True, False):
        here = examples.success_N == outcome
        share = weight[here].sum() / weight.sum()
        if 0 < share < least:
            weight[here] *= least * (1 - share) / (share * (1 - least))
    return weight.astype(np.float32)


def train_judge(
    examples: Examples,
    config: JudgeTraining,
    *,
    parent: Path | None = None,
    sizes: JudgeConfig | None = None,
    state: Path | None = None,
    progress: Progress = silent,
    cancelled: Cancelled = never,
) -> LearnedJudge:
    """Train a judge; calibrate it on held-out examples (choose_thresholds), then save it.

    Args:
        examples: what to learn from.
        config: how.
        parent: a judge to start from; None starts fresh.
        sizes: of a fresh judge.
        state: state file; when it exists the run continues from it, and it is written every 100 steps.
        progress: called every 20 steps.
        cancelled: asked every step.

    Raises:
        ConfigError: all examples have the same outcome.
        CancelledError: cancelled.
    """
    if examples.success_N.all() or not examples.success_N.any():
        raise ConfigError(f"all {len(examples)} examples have the same outcome; a judge needs both")
    if parent is not None:
        judge = LearnedJudge.load(parent)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            judge = LearnedJudge(JudgeNetwork(sizes or JudgeConfig()))
    trainer = JudgeTrainer(judge, examples, config)
    if state is not None and state.exists():
        trainer.load(state)
    while trainer.step < config.iterations:
        if cancelled():
            if state is not None:
                trainer.save(state)
            raise CancelledError(f"judge cancelled at step {trainer.step} of {config.iterations}")
        loss = trainer.run_step()
        if state is not None and trainer.step % 100 == 0:
            trainer.save(state)
        if trainer.step % 20 == 0 or trainer.step == config.iterations:
            progress(ProgressEvent("judge", trainer.step, config.iterations, {"loss": loss}))
    return judge


def subset(examples: Examples, rows: Sequence[int] | np.ndarray[Any, Any]) -> Examples:
    """Return chosen examples."""
    index = np.asarray(rows, np.int64)
    return replace(
        examples,
        first_NHWC=examples.first_NHWC[index],
        last_NHWC=examples.last_NHWC[index],
        instructions=tuple(examples.instructions[i] for i in index),
        success_N=examples.success_N[index],
        weight_N=examples.weight_N[index],
    )
