"""What an audit measures and what it demands: the one configuration of trust in a world model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from cloud_trainer.ranges import COUNT_OR_ZERO, MOST, Range, check_ranges
from gymnast_core.errors import ConfigError

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

AT_LEAST = frozenset(
    {"episodes", "pictures", "psnr_db", "gripper_response", "gripper_change", "change_recall", "agreement",
     "correlation", "cell_correlation", "trusted_steps"}
)  # fmt: skip
"""Bounds from below; the others are bounds from above."""

MEANING: dict[str, str] = {
    "episodes": "held-out episodes whose imagined end was judged",
    "pictures": "held-out episodes dreamt frame by frame",
    "psnr_db": "likeness of imagined and real frames, mean over all steps; higher is closer",
    "fidelity_excess_m": "does the imagined gripper go where it was told: error beyond the tracker's own, metres",
    "gripper_response": "do the imagined fingers obey the command: share of the real fingers' answer",
    "lag": "steps between imagined and real path",
    "frame_lag": "steps between imagined and real frames: does a command take effect when it should",
    "gripper_change": "does the dream change when the gripper is told the opposite: RMS of its pixels",
    "jump": "does anything leap that really did not: change of a block, 1 is black to white",
    "change_recall": "do objects move that really moved: share of their pixels",
    "trusted_steps": "imagined steps after which the error may exceed what is allowed",
    "agreement": "episodes whose imagined outcome is the real one",
    "false_success": "P(judge says success of the dream | it really failed)",
    "missed_success": "P(judge says failure of the dream | it really succeeded)",
    "optimism": "imagined minus real success rate",
    "correlation": "of judge score and real outcome over episodes",
    "cell_correlation": "of imagined and real success over tasks and policies",
    "coverage": "share of errors inside the nominal 90 % trust band; outside 85-95 % it is uncalibrated",
}
"""What a bound asks, for people."""


@dataclass(frozen=True)
class AuditBounds:
    """What a model must reach; None leaves a bound out. Names are what an override names.

    Attributes:
        episodes: least number of held-out episodes that were judged.
        agreement: least share of them whose imagined outcome is the real one.
        false_success: largest P(judge says success | really failed).
        missed_success: largest P(judge says failure | really succeeded).
        optimism: largest imagined minus real success rate.
        correlation: least Pearson correlation of judge score and real outcome over episodes.
        cell_correlation: least Pearson r of imagined and real success over tasks and policies. Not demanded unless
            asked: a handful of cells proves nothing.
        pictures: least number of episodes dreamt frame by frame.
        psnr_db: least mean PSNR over all imagined steps.
        fidelity_excess_m: largest tracked gripper error beyond the tracker's own.
        gripper_response: least share of the real fingers' answer to the gripper command that the dream shows.
        lag: largest |lag| between imagined and real path.
        frame_lag: largest |lag| at which imagined frames fit real ones best; needs no tracker, so it holds in scenes
            that none has seen.
        gripper_change: least RMS change of a dream, full scale 1, whose gripper is told the opposite; likewise.
        jump: largest mean leap of a block beyond what really moved.
        change_recall: least share of moved object pixels that move in the dream.
        coverage: whether the trust band must be calibrated.
        trusted_error: RMS pixel error up to which a step is trusted; sets the horizon.
        trusted_steps: least trusted horizon.
    """

    episodes: int | None = 40
    agreement: float | None = 0.70
    false_success: float | None = 0.35
    missed_success: float | None = 0.60
    optimism: float | None = 0.15
    correlation: float | None = 0.30
    cell_correlation: float | None = None
    pictures: int | None = 16
    psnr_db: float | None = 18.0
    fidelity_excess_m: float | None = 0.03
    gripper_response: float | None = 0.1
    lag: int | None = 0
    frame_lag: int | None = 0
    gripper_change: float | None = 0.005
    jump: float | None = 0.12
    change_recall: float | None = 0.5
    coverage: bool = True
    trusted_error: float = 0.12
    trusted_steps: int | None = 1

    def __post_init__(self) -> None:
        """Refuse probabilities that are none."""
        for name in ("agreement", "change_recall", "false_success", "missed_success"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"bound {name} must lie in [0, 1], got {value}")

    def only(self, parts: Collection[str]) -> AuditBounds:
        """Drop the bounds of parts that are not measured on purpose; the report shows that they were not demanded."""
        dropped = {name for part, names in PARTS.items() if part not in parts for name in names}
        return replace(self, **{name: False if name == "coverage" else None for name in dropped})  # type: ignore[arg-type]


AUDIT_RANGES = {
    "pictures": Range(1, MOST, whole=True, optional=True),
    "draws": Range(1, 1000, whole=True),
    "start": COUNT_OR_ZERO,
    "videos": Range(0, 1000, whole=True),
}


@dataclass(frozen=True)
class AuditConfig:
    """What an audit measures.

    Attributes:
        parts: names in PARTS.
        pictures: at most so many held-out episodes, evenly spread, are dreamt frame by frame; None is all. Outcomes
            are judged on every held-out episode in any case.
        draws: dreams of each of them; a trust score needs 2.
        start: step from which the model goes on alone.
        videos: episodes shown on the page.
    """

    parts: tuple[str, ...] = tuple(PARTS)
    pictures: int | None = None
    draws: int = 2
    start: int = 0
    videos: int = 6

    def __post_init__(self) -> None:
        """Refuse parts that do not exist and counts that measure nothing."""
        if unknown := sorted(set(self.parts) - set(PARTS)):
            raise ConfigError(f"unknown audit parts {unknown}; there are {sorted(PARTS)}")
        check_ranges(self, AUDIT_RANGES, "audit")
        if not self.parts:
            raise ConfigError(f"an audit needs parts; there are {sorted(PARTS)}")
        if "trust" in self.parts and self.draws < 2:
            raise ConfigError("a trust score needs draws >= 2; raise it, or leave out the part 'trust'")

    @property
    def looks(self) -> bool:
        """Whether any part needs whole dreams."""
        return any(part != "outcomes" for part in self.parts)
