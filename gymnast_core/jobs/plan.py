"""Plan: how a planner would do it from one picture, shown and judged before anything moves."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from gymnast_core.errors import ConfigError
from gymnast_core.jobs.adapt import Words
from gymnast_core.jobs.spec import JobResult, JobSpec, Urgency
from gymnast_core.settings import Says

MOST_PICTURE = 512 * 1024
"""Characters of a picture."""


class PlanSpec(JobSpec):
    """Draw how something would be done, and read the actions off it; nothing moves."""

    kind: ClassVar[str] = "plan"
    summary: ClassVar[str] = "how a planner would do it, before anything moves"
    urgency: ClassVar[Urgency] = "quick"

    planner: Annotated[str, Field(min_length=1), Says("a checkpoint's id")]
    """Checkpoint of a planner (`gymnast wm train-planner`; `gymnast serve --import FOLDER`)."""
    instruction: Words
    """What the arm should do."""
    episode: str = ""
    """Id of a recorded episode: its first frame is where the plan begins."""
    picture: Annotated[str, Field(max_length=MOST_PICTURE)] = ""
    """Or a square picture: JPEG, PNG or WebP as base64."""
    robot: str = ""
    """Whose picture that is."""
    judge: str = ""
    """Checkpoint of a learned judge; empty is the trainer's newest. It looks at the drawn frames."""
    world_model: str = ""
    """Checkpoint of a compact world model that knows the camera: the path is drawn into the picture, too, where the
    plan begins at an episode, which says where the arm is. Empty is a camera that nobody knows."""
    best_of: Annotated[int, Field(ge=1, le=16)] = 4
    """Plans to choose from."""

    @model_validator(mode="after")
    def _begins_somewhere(self) -> PlanSpec:
        if bool(self.episode) == bool(self.picture):
            raise ConfigError("plan: name an episode or give a picture to begin from, one of them")
        return self

    @property
    def named_episodes(self) -> tuple[str, ...]:
        """See JobSpec."""
        return (self.episode,) if self.episode else ()

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """See JobSpec."""
        return ("planner", "judge", *(("world_model",) if self.world_model else ()))


class PlanResult(JobResult):
    """What a plan job leaves behind: plan.webp and, where it could be drawn, path.png in its folder; what they show."""

    planner: str
    """Id of the planner."""
    judge: str
    """Id of the judge."""
    scores: tuple[float | None, ...] = ()
    """The judge's, of every plan that there was; none where it could not look."""
    best: int = 0
    """Which of them is kept."""
    frame_steps: tuple[int, ...] = ()
    """Control step of each frame; the first is 0, what is seen now."""
    actions: tuple[tuple[float, ...], ...] = ()
    """T rows of 7: metres, radians, gripper opening."""
    camera: str = ""
    """Id of the world model whose camera path.png shows the gripper's path in; empty where it was not drawn."""
    no_path: str = ""
    """Why not, in words."""
