"""Improve: refine world model and judge on the recorded episodes, audit them, and practise."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from gymnast_core.jobs.augment import AugmentChoices
from gymnast_core.jobs.practice import RefiningSettings, ReinforcingSettings
from gymnast_core.jobs.spec import PractisedResult, RefiningSpec, ReinforcingSpec
from gymnast_core.settings import Count, CountOrZero

MOST_PRACTICES = 16
"""Practices that one job may average."""


class ImproveSettings(ReinforcingSettings, RefiningSettings):
    """How much of everything an improve job does."""

    recorded_epochs: CountOrZero = 2
    """Passes over the labelled episodes that the policy recorded itself, before its first update in the dream: what it
    did on the robot is reinforced as what it does in a dream, each episode against the others of its instruction. For
    compact policies of tokens without a memory, and OpenVLA's; 0 learns nothing from them."""
    practices: Annotated[int, Field(ge=1, le=MOST_PRACTICES)] | None = None
    """Practices of this job, alike but for their random numbers; their weights are averaged. Each costs as much as one.
    None is 3 for a compact policy of tokens, else 1. An adapter has one."""
    candidate_every: Count = 4
    """Updates between checkpoints that are kept as candidates; the last update always leaves one."""
    augment: AugmentChoices | None = None
    """How each candidate learns to act in other looks and words as it does in the recorded ones; none leaves it as
    practice made it."""


class ImproveSpec(ReinforcingSpec, RefiningSpec):
    """Refine world model and judge on the recorded episodes, audit them, practise, and leave candidates."""

    kind: ClassVar[str] = "improve"
    summary: ClassVar[str] = "refine, audit, practise"

    config: ImproveSettings = Field(default_factory=ImproveSettings)
    """How much of everything."""


class ImproveResult(PractisedResult):
    """What an improve job leaves behind."""

    world_model_kept: str = ""
    """Why a refined world model was not promoted over its parent, or empty."""
