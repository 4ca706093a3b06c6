"""Distil: a world model that takes fewer sampling steps, taught by one that takes more, on its own rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from gymnast_core.jobs.practice import Guidance
from gymnast_core.jobs.spec import JobResult, JobSpec
from gymnast_core.settings import Count, Device, NotNegative, Positive, Settings

_Width = Annotated[int, Field(ge=8, le=4096)]


class DistilSettings(Settings):
    """How to distil; what the world model's kind does not have is refused."""

    where: ClassVar[str] = "config"

    iterations: Count = 1200
    """Optimiser steps; the learning rate falls as a cosine over them."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 12
    """Rollouts a step."""
    learning_rate: Positive = 3e-4
    """Peak; 1e-3 for a narrower student, which has more to learn."""
    steps: Annotated[int, Field(ge=1, le=100)] = 1
    """Sampling steps of the student, a divisor of the teacher's."""
    widths: Annotated[tuple[_Width, _Width, _Width], Field(strict=False)] | None = None
    """Channels of a compact student at 1/2, 1/4 and 1/8 resolution, multiples of 8; none keeps the teacher's."""
    teacher_steps: Annotated[int, Field(ge=1, le=1000)] = 4
    """Of a DiT; a compact model knows its own."""
    guidance: Guidance = 1.0
    """Of a DiT as teacher; the student needs none."""
    most_episodes: Count = 2000
    """Only the newest so many give start frames and actions."""
    audited: Annotated[int, Field(ge=1, le=1000)] = 40
    """Held-out episodes on which student and teacher are compared; none of them is distilled on."""
    most_lost_db: NotNegative = 0.5
    """Mean PSNR that the student may lose on them, at 95 % confidence; one that may have lost more is refused."""
    device: Device = "auto"
    """Of a DiT."""


class DistilSpec(JobSpec):
    """Teach a world model to take fewer sampling steps."""

    kind: ClassVar[str] = "distil"
    summary: ClassVar[str] = "a world model that takes fewer sampling steps"

    world_model: str = ""
    """Checkpoint of the teacher; empty is the trainer's newest."""
    config: DistilSettings = Field(default_factory=DistilSettings)
    """How."""

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """See JobSpec."""
        return ("world_model",)


class DistilResult(JobResult):
    """What a distil job leaves behind."""

    world_model: str
    """Id of the student."""
    teacher: str
    """Id of the teacher."""
    psnr_db: Mapping[str, float] = Field(default_factory=dict)
    """Mean PSNR of dreams of held-out episodes, of the student and of the teacher."""
    change: float
    """Student minus teacher, dB."""
