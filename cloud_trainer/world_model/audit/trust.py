"""A trust score: how far dreams of the same actions disagree, validated as a ranking, recalibrated on held-out data.

Disagreement ranks errors but is many times over-confident as a size (Robotic World Model), so it is only an input to
a regression on real held-out errors, whose upper band is set by split conformal prediction (Vovk et al. 2005) and
checked on episodes that neither the model nor the band has seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from cloud_trainer.world_model.audit.cases import AuditCase
from cloud_trainer.world_model.audit.figures import TrustScore
from cloud_trainer.world_model.audit.metrics import average_ranks, rms_error
from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.statistics import pearson
from gymnast_core.types import FloatArray

NOMINAL = 0.90
CALIBRATED_BETWEEN = (0.85, 0.95)
_TINY = 1e-4


@dataclass(frozen=True)
class TrustBand:
    """error <= exp(intercept + slope log(disagreement) + growth log(steps ahead) + margin), nominally 90 % of the time.

    Attributes:
        intercept: of the regression.
        slope: on log disagreement.
        growth: on log steps ahead.
        margin: conformal, added to reach the nominal share.
    """

    intercept: float
    slope: float
    growth: float
    margin: float

    def upper(self, disagreement: FloatArray, ahead: FloatArray) -> FloatArray:
        """Return the error that is not exceeded 90 % of the time, full scale 1."""
        centre = self.intercept + self.slope * np.log(disagreement + _TINY) + self.growth * np.log(ahead)
        return np.asarray(np.exp(centre + self.margin))


@dataclass(frozen=True)
class DreamTrust:
    """What disagreement is worth.

    Attributes:
        rank_r: rank correlation of disagreement and error at equal horizon, over held-out steps; mean over horizons.
        rank_low: 2.5 % bootstrap bound over episodes.
        ranks: whether the score is a ranking at all (rank_low > 0).
        raw_coverage: share of errors within 1.645 disagreements, the naive 90 % band: how over-confident it is.
        coverage: share of errors within the recalibrated band, on other episodes than it was set on.
        calibrated: coverage within 85-95 %.
        verdict: "calibrated" or "uncalibrated".
        trusted_steps: steps ahead while the mean upper band stays within the allowed error; 0 = none.
        band: the band, refitted on all episodes.
        by_step: per step ahead: mean error, disagreement, upper band.
    """

    rank_r: float
    rank_low: float
    ranks: bool
    raw_coverage: float
    coverage: float
    calibrated: bool
    verdict: str
    trusted_steps: int
    band: TrustBand
    by_step: Sequence[dict[str, float]]

    def to_json(self) -> TrustScore:
        """JSON values."""
        return cast(TrustScore, asdict(self))


@dataclass(frozen=True)
class _Steps:
    """Imagined steps of many episodes in a row."""

    error: FloatArray
    disagreement: FloatArray
    ahead: FloatArray
    episode: FloatArray

    def of(self, episodes: Sequence[int]) -> _Steps:
        rows = np.isin(self.episode, episodes)
        return _Steps(self.error[rows], self.disagreement[rows], self.ahead[rows], self.episode[rows])


def measure_trust(cases: Sequence[AuditCase], *, allowed_error: float, rng: np.random.Generator) -> DreamTrust:
    """Validate disagreement as a ranking, recalibrate it, and find where trust ends.

    Args:
        cases: at least 8, with 2 or more dreams each.
        allowed_error: RMS pixel error (full scale 1) up to which a dream is trusted.
        rng: splits episodes and draws bootstraps.

    Raises:
        ConfigError: too few cases, or a single dream each.
    """
    if len(cases) < 8 or any(case.imagined_KFHWC.shape[0] < 2 for case in cases):
        raise ConfigError(f"a trust score needs 8 episodes with 2 dreams each, got {len(cases)} episodes")
    steps = _steps(cases)
    covered, folds = [], np.array_split(rng.permutation(len(cases)), 4)
    for fold in folds:  # every episode is tested once, by a band set on the other three quarters
        held = steps.of(fold.tolist())
        band = fit_band(steps.of([i for i in range(len(cases)) if i not in set(fold.tolist())]))
        covered.append(held.error <= band.upper(held.disagreement, held.ahead))
    coverage = float(np.concatenate(covered).mean())
    low = float(np.quantile([_rank(steps, rng.integers(len(cases), size=len(cases))) for _ in range(100)], 0.025))
    band, calibrated = fit_band(steps), CALIBRATED_BETWEEN[0] <= coverage <= CALIBRATED_BETWEEN[1]
    by_step = _by_step(steps, band)
    trusted = next((i for i, row in enumerate(by_step) if row["upper_band"] > allowed_error), len(by_step))
    return DreamTrust(
        rank_r=_rank(steps, np.arange(len(cases))),
        rank_low=low,
        ranks=low > 0,
        raw_coverage=float((steps.error <= 1.645 * steps.disagreement).mean()),
        coverage=coverage,
        calibrated=calibrated,
        verdict="calibrated" if calibrated else "uncalibrated",
        trusted_steps=trusted,
        band=band,
        by_step=by_step,
    )


def fit_band(steps: _Steps) -> TrustBand:
    """Regress log error on log disagreement and horizon on half of the episodes, set the margin on the other half.

    The margin is the conformal quantile of the second half's residuals: ceil((n + 1) 0.9) of n. Error grows with
    disagreement in proportion at most: dreams that hardly disagree, as those of one sampling step, may fit any power,
    and a single one that disagrees a little more would be given an error that nobody ever measured.
    """
    names = np.unique(steps.episode)
    fitted, setting = steps.of(names[::2].tolist()), steps.of(names[1::2].tolist())
    design, target = _design(fitted), np.log(fitted.error + _TINY)
    coefficients, *_ = np.linalg.lstsq(design, target, rcond=None)
    if coefficients[1] > 1:
        others, *_ = np.linalg.lstsq(design[:, [0, 2]], target - design[:, 1], rcond=None)
        coefficients = np.insert(others, 1, 1.0)
    residual = np.sort(np.log(setting.error + _TINY) - _design(setting) @ coefficients)
    place = min(len(residual) - 1, int(np.ceil((len(residual) + 1) * NOMINAL)) - 1)
    intercept, slope, growth = (float(value) for value in coefficients)
    return TrustBand(intercept, slope, growth, margin=float(residual[place]))


def _design(steps: _Steps) -> FloatArray:
    return np.stack((np.ones_like(steps.ahead), np.log(steps.disagreement + _TINY), np.log(steps.ahead)), axis=1)


def _steps(cases: Sequence[AuditCase]) -> _Steps:
    columns: list[tuple[FloatArray, FloatArray, FloatArray, FloatArray]] = []
    for number, case in enumerate(cases):
        ahead = np.arange(1, case.episode.steps - case.start + 1, dtype=np.float32)
        dreams = case.imagined_KFHWC[:, case.start + 1 :].astype(np.float32) / 255
        spread = np.sqrt(dreams.var(axis=0, ddof=1).mean(axis=(1, 2, 3)))
        error = rms_error(case.real_FHWC, case.imagined_KFHWC[0])[case.start + 1 :]
        columns.append((error, spread, ahead, np.full_like(ahead, number)))
    return _Steps(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def _rank(steps: _Steps, episodes: npt.NDArray[np.integer[Any]]) -> float:
    """Mean over horizons of the rank correlation between disagreement and error; episodes may repeat."""
    values = []
    rows_of = [np.flatnonzero(steps.episode == number) for number in np.unique(steps.episode)]
    rows = np.concatenate([rows_of[int(number)] for number in episodes])
    for ahead in np.unique(steps.ahead):
        now = rows[steps.ahead[rows] == ahead]
        if len(now) >= 4:
            values.append(pearson(average_ranks(steps.disagreement[now]), average_ranks(steps.error[now])))
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else 0.0


def _by_step(steps: _Steps, band: TrustBand) -> list[dict[str, float]]:
    upper = band.upper(steps.disagreement, steps.ahead)
    return [
        {
            "step": float(ahead),
            "error": float(steps.error[rows].mean()),
            "disagreement": float(steps.disagreement[rows].mean()),
            "upper_band": float(upper[rows].mean()),
        }
        for ahead in np.unique(steps.ahead)
        if (rows := steps.ahead == ahead).any()
    ]
