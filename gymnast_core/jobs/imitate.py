"""Imitate: SFT on recorded successes, and Iter-SFT, which adds imagined ones the judge let pass."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from gymnast_core.errors import ConfigError
from gymnast_core.jobs.practice import RefiningSettings
from gymnast_core.jobs.spec import DreamResult, RefiningSpec
from gymnast_core.settings import Count, CountOrZero, NotNegative, Positive, Seed, Settings

WITHOUT_ROLLOUTS = frozenset(
    {"device", "dream", "most_episodes", "lora_rank", "lora_rate", "sft", "fresh", "retries", "imagined_rounds"}
)  # fmt: skip
"""Settings that act without imagined rollouts too."""


class SftChoices(Settings):
    """How to fine-tune."""

    where: ClassVar[str] = "sft"

    iterations: Count = 1200
    """Optimiser steps, each on a batch; the learning rate falls as a cosine over them."""
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 64
    """Windows a step."""
    learning_rate: Positive = 1e-3
    """Peak, after warmup steps; adapters have lora_rate."""
    warmup: CountOrZero = 30
    """Steps of linear rise."""
    weight_decay: NotNegative = 1e-4
    """Of AdamW."""
    label_sigma_bins: Positive = 5.0
    """Width of the Gaussian soft label around the demonstrated bin."""
    expected_action_weight: NotNegative = 5.0
    """Weight of the squared error of the expected action, in units of half the range."""
    grad_clip: Positive = 1.0
    """Largest gradient norm."""


class SftConfig(SftChoices):
    """How to fine-tune, randomness included."""

    seed: Seed = 0
    """Of initialisation and batches."""


class ImitateSettings(RefiningSettings):
    """How much of everything an imitate job does; most of it acts with imagined_rounds, and is refused without."""

    sft: SftChoices = Field(default_factory=SftChoices)
    """How to fine-tune."""
    fresh: Literal["", "tokens", "flow", "history"] = ""
    """Begin a new compact policy of this kind; empty goes on from the job's policy. One with a history looks back at
    its last 16 poses and commands: for arms that differ, or change."""
    retries: bool = False
    """Imitate successes after a judged failure, too (`gymnast collect --retry`); else first attempts alone teach."""
    imagined_rounds: CountOrZero = 0
    """Rounds of groups x group_size rollouts whose judged successes are mixed 1:1 with the recorded ones (Iter-SFT);
    0 imitates recorded successes alone."""
    temperature: Positive = 1.0
    """Of sampling imagined rollouts."""

    @model_validator(mode="after")
    def _acts(self) -> ImitateSettings:
        if self.fresh and self.imagined_rounds:
            raise ConfigError(
                f"imagined_rounds={self.imagined_rounds}: a policy that is begun anew (fresh={self.fresh!r}) "
                "cannot have imagined anything yet; leave one of them out"
            )
        named = [name for name in self.named() if name not in WITHOUT_ROLLOUTS]
        if named and not self.imagined_rounds:
            raise ConfigError(
                f"{', '.join(named)}: imitation of recorded successes alone imagines nothing; set imagined_rounds "
                f"above 0, or leave out {', '.join(named)}"
            )
        return self


class ImitateSpec(RefiningSpec):
    """Fine-tune the policy on recorded successes and, with imagined_rounds, on imagined ones."""

    kind: ClassVar[str] = "imitate"
    summary: ClassVar[str] = "SFT, Iter-SFT"

    config: ImitateSettings = Field(default_factory=ImitateSettings)
    """How much of everything."""

    @model_validator(mode="after")
    def _whole(self) -> ImitateSpec:
        if self.config.fresh and self.mode == "lora":
            raise ConfigError(f"mode=lora: a policy that is begun anew (fresh={self.config.fresh!r}) is trained whole")
        return self


class ImitateResult(DreamResult):
    """What an imitate job leaves behind; figures of a dream only with imagined_rounds."""

    imagined_successes: int = 0
    """Imagined rollouts that were imitated too."""
