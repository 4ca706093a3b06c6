"""What learning other looks and words can be set to."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from gymnast_core.settings import Count, CountOrZero, Positive, Settings, Share


class AugmentChoices(Settings):
    """How a policy learns to act in other looks and words as it does in the recorded ones."""

    where: ClassVar[str] = "augment"

    steps: Count = 400
    """Optimiser steps of each candidate."""
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 48
    """Frames a step."""
    learning_rate: Positive = 1e-3
    """Peak; it falls as a cosine."""
    imagined: CountOrZero = 240
    """Imagined episodes of the candidate whose frames are learned from beside the recorded ones: it gets where those
    that recorded them did not."""
    plain_share: Share = 0.5
    """Share of each batch that is shown as recorded, so that nothing is lost there."""
