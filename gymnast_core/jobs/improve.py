"""Improve: refine world model and judge on the recorded episodes, audit them, and practise."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from gymnast_core.jobs.practice import RefiningSettings, ReinforcingSettings
from gymnast_core.jobs.spec import DreamResult, RewardPoint, TrainingSpec
from gymnast_core.settings import Count


class ImproveSettings(RefiningSettings, ReinforcingSettings):
    """How much of everything an improve job does."""

    candidate_every: Count = 4
    """Updates between checkpoints that are kept as candidates; the last update always leaves one."""


class ImproveSpec(TrainingSpec):
    """Refine world model and judge on the recorded episodes, audit them, practise, and leave candidates."""

    kind: ClassVar[str] = "improve"
    summary: ClassVar[str] = "refine, audit, practise"

    config: ImproveSettings = Field(default_factory=ImproveSettings)
    """How much of everything."""


class ImproveResult(DreamResult):
    """What an improve job leaves behind."""

    imagined_reward: tuple[RewardPoint, ...] = ()
    """The reward curve."""
    world_model_kept: str = ""
    """Why a refined world model was not promoted over its parent, or empty."""
