"""Adapt: test-time training for one scene, within a budget, without forgetting the rest."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from gymnast_core.jobs.audit import SCENE_SUCCESS, SceneAudit, SceneBounds
from gymnast_core.jobs.practice import ReinforcingSettings
from gymnast_core.jobs.spec import PractisedResult, ReinforcingSpec, Remembered, Urgency
from gymnast_core.settings import Count, NotNegative, Says, Share, Texts

Words = Annotated[str, Field(pattern=r"\S"), Says("a text")]


MOST_BUDGET = 1_000_000_000
"""Seconds or imagined rollouts."""


class SceneLook(SceneAudit):
    """How the trust check of a scene looks at dreams."""

    pictures: Count | None = 20
    """At most so many held-out episodes, evenly spread, are dreamt frame by frame; None is all. Outcomes are judged on
    every held-out episode in any case."""


class AdaptSettings(ReinforcingSettings):
    """How much of everything an adapt job does; check, scene_episodes and bounds are of the page's trust check too."""

    rehearsal: Share = 0.5
    """Share of starts taken from other scenes and tasks, against forgetting."""
    anchor: NotNegative = 0.0
    """Weight of the loss that keeps the policy where it was on real frames from elsewhere."""
    scene_episodes: Count = 20
    """Least number of judged episodes of the scene for its trust check."""
    forgetting_starts: Count | None = None
    """Held-out starts a task, at most, from which candidates are dreamt beside their parent; none is all."""
    forgetting: Share = 0.10
    """A loss of success on the other tasks beyond this must be excluded (95 % one-sided); 1 measures and refuses
    nothing, where the robot itself tries the other tasks afterwards."""
    audit: SceneLook = Field(default_factory=SceneLook)
    """How the trust check of the scene looks at dreams; it measures outcomes, objects and obedience."""
    bounds: SceneBounds = Field(default_factory=SceneBounds)
    """Bounds of the trust check, where they shall be others than those the world model was calibrated to (or the usual
    ones where it never was)."""

    @classmethod
    def overridable(cls) -> set[str]:
        """Return the names that `overrides` may name."""
        return {*SceneBounds.model_fields, "episodes", "judge_task_floor", SCENE_SUCCESS}


class AdaptSpec(ReinforcingSpec):
    """Practise in the dream of one scene, within a budget, without forgetting the rest."""

    kind: ClassVar[str] = "adapt"
    summary: ClassVar[str] = "test-time training in one scene"
    urgency: ClassVar[Urgency] = "interactive"

    scene: Words
    """Where: the robot's name for where it stands."""
    instruction: Words
    """What it shall do there."""
    robot: str = ""
    """Whose arm; empty is whose newest episode is of the scene."""
    checked: Texts | None = None
    """Ids of the episodes of a trust check that an operator saw; none looks at all of the scene."""
    rollouts: Annotated[int, Field(ge=1, le=MOST_BUDGET)] | None = None
    """Budget in imagined rollouts."""
    budget_s: Annotated[float, Field(gt=0, le=MOST_BUDGET)] | None = None
    """Seconds after which practice is cut off."""
    config: AdaptSettings = Field(default_factory=AdaptSettings)
    """How much of everything."""

    @property
    def named_episodes(self) -> tuple[str, ...]:
        """See JobSpec."""
        return self.checked or ()


class AdaptResult(PractisedResult):
    """What an adapt job leaves behind."""

    ended_by: str = ""
    """The budget that ended practice; empty where every iteration was done."""
    refused: str = ""
    """Why there is no candidate, where there is none."""
    forgetting: Remembered | None = None
    """Imagined success on other tasks, before and after, of the candidate that was kept, or of the longest trained."""
    forgetting_tried: tuple[Remembered, ...] = ()
    """The same of every candidate that was looked at."""
