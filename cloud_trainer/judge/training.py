"""Train the learned judge; the run resumes bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cloud_trainer.judge.examples import Examples
from cloud_trainer.judge.learned import JudgeConfig, JudgeNetwork, LearnedJudge
from cloud_trainer.progress import Cancelled, Progress, never, silent
from cloud_trainer.training import Descent, ModelTrainer
from gymnast_core.errors import ConfigError
from gymnast_core.policies.text import bag_of_words
from gymnast_core.types import FloatArray


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


class JudgeTrainer(ModelTrainer):
    """One training run over fixed examples.

    Attributes:
        judge: what is trained.
    """

    stage = title = "judge"

    def __init__(self, judge: LearnedJudge, examples: Examples, config: JudgeTraining) -> None:
        self.judge, self.examples, self.config = judge, examples, config
        self._bags = torch.from_numpy(bag_of_words(examples.instructions, judge.config.text_buckets))
        self._rng = np.random.default_rng(config.seed)
        self._edges = np.cumsum(_balanced(examples), dtype=np.float64)
        descent = Descent(config.iterations, config.learning_rate, config.weight_decay)
        super().__init__(judge.network, descent, {"judge": judge.network}, {"batches": self._rng})

    def loss(self) -> Tensor:
        """Loss of a fresh batch of examples."""
        config, examples = self.config, self.examples
        index = np.searchsorted(self._edges, self._rng.random(config.batch_size) * self._edges[-1], side="right")
        shift = torch.from_numpy(self._rng.normal(0, config.brightness, (config.batch_size, 1, 1, 1)))
        first, last = (
            torch.from_numpy(x[index]).float() + shift.float() for x in (examples.first_NHWC, examples.last_NHWC)
        )
        truth = torch.from_numpy(examples.success_N[index].astype(np.float32))
        target = truth * (1 - 2 * config.label_smoothing) + config.label_smoothing
        logit = self.judge.network.train()(first, last, self._bags[torch.from_numpy(index)])
        return F.binary_cross_entropy_with_logits(logit, target)


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
    JudgeTrainer(judge, examples, config).run(state=state, progress=progress, cancelled=cancelled)
    return judge
