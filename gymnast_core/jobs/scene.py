"""Trust and preview: what an operator looks at before an adaptation's training, and before its canary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from gymnast_core.jobs.adapt import AdaptSettings, Words
from gymnast_core.jobs.spec import DreamSpec, JobResult, Urgency
from gymnast_core.settings import Texts


class SceneSpec(DreamSpec):
    """A look at one scene."""

    urgency: ClassVar[Urgency] = "quick"

    scene: Words
    """Where: the robot's name for where it stands."""
    instruction: Words
    """What it shall do there."""
    robot: str = ""
    """Whose arm; empty is whose newest episode is of the scene."""
    episodes: Texts
    """Ids of the recorded episodes that may be looked at."""
    config: AdaptSettings = Field(default_factory=AdaptSettings)
    """Of the adaptation."""

    @property
    def named_episodes(self) -> tuple[str, ...]:
        """See JobSpec."""
        return self.episodes


class TrustSpec(SceneSpec):
    """Dream recorded episodes of a scene and measure whether the world model may be believed there."""

    kind: ClassVar[str] = "trust"
    summary: ClassVar[str] = "trust check of one scene"


class TrustResult(JobResult):
    """What a trust job leaves behind."""

    ok: bool = False
    """Training may start."""
    reason: str = ""
    """Why not; empty where it may."""
    figures: Mapping[str, Any] = Field(default_factory=dict)
    """What was measured, by name."""
    checked: tuple[str, ...] = ()
    """Ids of the episodes that were looked at."""


class PreviewSpec(SceneSpec):
    """Imagine a candidate beside the policy in force, from a captured frame."""

    kind: ClassVar[str] = "preview"
    summary: ClassVar[str] = "imagine a candidate beside the policy in force"

    candidate: str = Field(min_length=1)
    """Checkpoint that would replace the policy."""
    start: str = Field(min_length=1)
    """Id of the episode whose first frame is where both begin."""
    checked: Texts | None = None
    """Those of the episodes that a trust check looked at; none is all."""

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """See JobSpec."""
        return (*super().checkpoints, "candidate")


class PreviewResult(JobResult):
    """What a preview job leaves behind: old.webp and new.webp in its folder."""
