"""What the audit measures, as JSON: one kind of figures a question, see statistics, outcomes and trust."""

from __future__ import annotations

from typing import TypedDict


class HorizonStep(TypedDict):
    """One step ahead, over all episodes, with the 95 % interval of the PSNR."""

    step: int
    episodes: int
    psnr_db: float
    psnr_low: float
    psnr_high: float
    ssim: float


class FidelityFigures(TypedDict, total=False):
    """Where the imagined arm goes; see statistics.action_fidelity."""

    error_m: float
    floor_m: float
    excess_m: float
    gripper_error: float
    gripper_floor: float
    gripper_response: float
    lag: int
    lag_error_m: dict[str, float]


class ObedienceFigures(TypedDict, total=False):
    """Whether the dream follows the command in time; see statistics.obedience."""

    frame_lag: int
    lag_error: dict[str, float]
    gripper_change: float


class JumpFigures(TypedDict, total=False):
    """Leaps; see statistics.jumps."""

    mean: float
    worst: float


class ChangeFigures(TypedDict, total=False):
    """Objects that move; see statistics.change_recall."""

    mean: float
    episodes: int


class RateFigures(TypedDict):
    """A rate with its Wilson interval."""

    rate: float
    low: float
    high: float
    n: int


class MistakeFigures(TypedDict, total=False):
    """How often a judge errs; a rate is None where there was nothing to count."""

    abstained: int
    false_success: RateFigures | None
    missed_success: RateFigures | None


class SightFigures(TypedDict):
    """P(judge says success | really succeeded) - P(it says success | really failed), with its 95 % interval."""

    sight: float
    low: float
    high: float
    succeeded: int
    failed: int


class CellFigures(TypedDict):
    """One task and policy."""

    task: str
    policy: str
    n: int
    real: RateFigures | None
    imagined: RateFigures | None


class BootstrapFigures(TypedDict):
    """A value with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class AgreementFigures(TypedDict, total=False):
    """Imagined against real success over cells."""

    cells: list[CellFigures]
    pearson_r: BootstrapFigures
    rank_r: BootstrapFigures
    policy_order_kept: BootstrapFigures


class TrustScore(TypedDict, total=False):
    """What disagreement is worth; see trust.DreamTrust."""

    rank_r: float
    rank_low: float
    ranks: bool
    raw_coverage: float
    coverage: float
    calibrated: bool
    verdict: str
    trusted_steps: int
    by_step: list[dict[str, float]]
