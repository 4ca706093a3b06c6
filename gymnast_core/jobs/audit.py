"""What an audit of a world model measures and what it demands: the one configuration of trust in a dream."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from gymnast_core.errors import ConfigError
from gymnast_core.settings import Count, CountOrZero, Settings, Share, Texts

PARTS: dict[str, tuple[str, ...]] = {
    "outcomes": ("episodes", "agreement", "false_success", "missed_success", "optimism", "correlation",
                 "cell_correlation"),
    "pictures": ("pictures", "psnr_db"),
    "objects": ("jump", "change_recall"),
    "motion": ("fidelity_excess_m", "lag"),
    "gripper": ("gripper_response",),
    "obedience": ("frame_lag", "gripper_change"),
    "trust": ("coverage", "trusted_steps"),
}  # fmt: skip
"""Part -> the bounds it measures. All but outcomes look at episodes dreamt frame by frame."""

SCENE_PARTS = ("outcomes", "objects", "obedience")
"""What is measured in a scene: what holds in one that nobody has seen. A gripper tracker finds its own error there, and
likeness in decibels goes by the light."""

AT_LEAST = frozenset(
    {"episodes", "pictures", "psnr_db", "gripper_response", "gripper_change", "change_recall", "agreement",
     "correlation", "cell_correlation", "trusted_steps"}
)  # fmt: skip
"""Bounds from below; the others are bounds from above."""

SCENE_SUCCESS = "scene_success"
"""That something ever succeeded in the scene that practice is for."""

OVERRIDABLE = ("judge_floor", "judge_task_floor", "judge_drift", "sight_floor", SCENE_SUCCESS)
"""What an operator may decide to ignore, beside the bounds of the audit: of the judge, and of a scene."""


class SceneBounds(Settings):
    """What a world model must reach in one scene; None leaves a bound out. Names are what an override names."""

    where: ClassVar[str] = "bounds"

    agreement: Share | None = 0.70
    """Least share of held-out episodes whose imagined outcome is the real one."""
    false_success: Share | None = 0.35
    """Largest P(judge says success | really failed)."""
    missed_success: Share | None = 0.60
    """Largest P(judge says failure | really succeeded)."""
    optimism: float | None = 0.15
    """Largest imagined minus real success rate."""
    correlation: float | None = 0.30
    """Least Pearson correlation of judge score and real outcome over episodes."""
    cell_correlation: float | None = None
    """Least Pearson r of imagined and real success over tasks and policies. Not demanded unless asked: a handful of
    cells proves nothing."""
    frame_lag: int | None = 0
    """Largest |lag| at which imagined frames fit real ones best; needs no tracker, so it holds in scenes that none has
    seen."""
    gripper_change: float | None = 0.005
    """Least RMS change of a dream, full scale 1, whose gripper gets the opposite command; likewise."""
    jump: float | None = 0.12
    """Largest mean leap of a block beyond what really moved."""
    change_recall: Share | None = 0.5
    """Least share of moved object pixels that move in the dream."""


class AuditBounds(SceneBounds):
    """What a world model must reach; None leaves a bound out. Names are what an override names."""

    episodes: int | None = 40
    """Least number of held-out episodes that were judged."""
    pictures: int | None = 16
    """Least number of episodes dreamt frame by frame."""
    psnr_db: float | None = 18.0
    """Least mean PSNR over all imagined steps."""
    fidelity_excess_m: float | None = 0.03
    """Largest tracked gripper error beyond the tracker's own."""
    gripper_response: float | None = 0.1
    """Least share of the real fingers' answer to the gripper command that the dream shows."""
    lag: int | None = 0
    """Largest |lag| between imagined and real path."""
    coverage: bool = True
    """Whether the trust band must be calibrated."""
    trusted_error: float = 0.12
    """RMS pixel error up to which a step is trusted; sets the horizon."""
    trusted_steps: int | None = 1
    """Least trusted horizon."""

    def only(self, parts: Collection[str]) -> AuditBounds:
        """Drop the bounds of parts that are not measured on purpose; the report shows that they were not demanded."""
        dropped = {name for part, names in PARTS.items() if part not in parts for name in names}
        return self.changed(**{name: False if name == "coverage" else None for name in dropped})


class SceneAudit(Settings):
    """How an audit looks at dreams."""

    where: ClassVar[str] = "audit"

    pictures: Count | None = None
    """At most so many held-out episodes, evenly spread, are dreamt frame by frame; None is all. Outcomes are judged on
    every held-out episode in any case."""
    draws: Annotated[int, Field(ge=1, le=1000)] = 2
    """Dreams of each of them; a trust score needs 2."""
    start: CountOrZero = 0
    """Step from which the model goes on alone."""
    videos: Annotated[int, Field(ge=0, le=1000)] = 6
    """Episodes shown on the page."""


class AuditConfig(SceneAudit):
    """What an audit measures, and how it looks."""

    parts: Texts = tuple(PARTS)
    """Names of parts: outcomes, pictures, objects, motion, gripper, obedience, trust."""

    @model_validator(mode="after")
    def _measures_something(self) -> AuditConfig:
        if unknown := sorted(set(self.parts) - set(PARTS)):
            raise ConfigError(f"unknown audit parts {unknown}; there are {sorted(PARTS)}")
        if not self.parts:
            raise ConfigError(f"audit: parts must name at least one of {sorted(PARTS)}, got none")
        if "trust" in self.parts and self.draws < 2:
            raise ConfigError("a trust score needs draws >= 2; raise it, or leave out the part 'trust'")
        return self

    @property
    def looks(self) -> bool:
        """Whether any part needs whole dreams."""
        return any(part != "outcomes" for part in self.parts)


class PracticeAudit(AuditConfig):
    """What is measured before practice: 20 episodes frame by frame (about 8 CPU seconds), outcomes on all."""

    parts: Texts = ("outcomes", "pictures", "objects", "motion", "obedience", "trust")
    """Names of parts: outcomes, pictures, objects, motion, gripper, obedience, trust."""
    pictures: Count | None = 20
    """At most so many held-out episodes, evenly spread, are dreamt frame by frame; None is all. Outcomes are judged on
    every held-out episode in any case."""


class PracticeBounds(AuditBounds):
    """The usual bounds, but for the calibration of the trust band, which 20 episodes cannot prove; it is reported.

    On five seeds of the demo the band covered 84-93 % of such 20 episodes, where 85-95 % is called calibrated.
    """

    coverage: bool = False
    """Whether the trust band must be calibrated."""


def check_overrides(overrides: Mapping[str, str], known: Collection[str]) -> None:
    """Refuse an override of something that is not asked, and one without a reason.

    Args:
        overrides: name -> why it may be ignored.
        known: what is asked.

    Raises:
        ConfigError: names them.
    """
    if unknown := sorted(set(overrides) - set(known)):
        raise ConfigError(f"overrides {unknown} are no bounds; there are {sorted(known)}")
    if silent := sorted(name for name, why in overrides.items() if not str(why).strip()):
        raise ConfigError(f"say why {silent} may be ignored: overrides {{name: reason}}")
