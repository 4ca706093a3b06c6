"""Measure which action moves the picture: correlate motion between frames t and t+1 with action t - lag, for every lag.

Two readings per lag: the correlation of how much the picture changes with how fast the arm was told to go, and the
multiple correlation of the direction of motion (optical flow, or measured pose where there is one) with the commanded
translation and rotation. Their mean decides. Lag 0 is our convention; a positive lag means that the motion comes late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from gymnast_core.errors import ContractError
from gymnast_core.types import ByteArray, Episode, FloatArray

_SIDE = 96
_MIN_FLOW_PX = 0.5
_MIN_STEPS = 12


class ConventionError(ContractError):
    """A dataset's actions are off in time; the message names the lag found."""


@dataclass(frozen=True)
class LagReport:
    """What was found.

    Attributes:
        lags: tried, in order.
        speed: correlation of picture change and commanded speed, per lag, mean over episodes.
        direction: multiple correlation of motion direction and commanded deltas, per lag.
        best: the lag with the highest mean of both.
        margin: how much better it is than the best of the lags that are not its neighbours.
        episodes: how many were long enough.
    """

    lags: tuple[int, ...]
    speed: tuple[float, ...]
    direction: tuple[float, ...]
    best: int
    margin: float
    episodes: int

    def table(self) -> str:
        """Lines for people."""
        lines = ["lag   speed  direction"]
        for lag, speed, direction in zip(self.lags, self.speed, self.direction, strict=True):
            lines.append(f"{lag:+3d}  {speed:+.3f}  {direction:+.3f}{'   <- best' if lag == self.best else ''}")
        return "\n".join(lines)


def measure_lag(episodes: Sequence[Episode], *, lags: Sequence[int] = tuple(range(-3, 6))) -> LagReport:
    """Correlate motion with action at every lag.

    Args:
        episodes: in the convention to be checked; those under 12 steps are left out.
        lags: to try.

    Raises:
        ConventionError: no episode is long enough, or nothing moves.
    """
    readings = [_reading(episode, lags) for episode in episodes if episode.steps >= _MIN_STEPS]
    readings = [reading for reading in readings if np.isfinite(reading).all()]
    if not readings:
        raise ConventionError(
            f"none of {len(episodes)} episodes has {_MIN_STEPS} steps with motion; nothing to measure"
        )
    speed, direction = np.mean(readings, axis=0)
    score = (speed + direction) / 2
    best = int(np.argmax(score))
    far = [value for index, value in enumerate(score) if abs(index - best) > 1]
    margin = float(score[best] - max(far)) if far else 0.0
    return LagReport(
        tuple(lags), tuple(map(float, speed)), tuple(map(float, direction)), int(lags[best]), margin, len(readings)
    )


def check_convention(name: str, episodes: Sequence[Episode], *, expected: int = 0, tolerance: int = 0) -> LagReport:
    """Measure, and refuse a dataset whose actions are off in time.

    Args:
        name: of the dataset, for the message.
        episodes: as they would be trained on.
        expected: lag that is right; 0 in our convention.
        tolerance: lags from it that are accepted (a slow arm smears motion over two steps).

    Raises:
        ConventionError: names the dataset and the lag found.
    """
    report = measure_lag(episodes)
    if abs(report.best - expected) > tolerance:
        raise ConventionError(
            f"dataset {name}: motion from frame t to t+1 follows action t{-report.best:+d}, expected t{-expected:+d}; "
            f"declare lag {report.best - expected:+d} in its SourceInfo\n{report.table()}"
        )
    return report


def _reading(episode: Episode, lags: Sequence[int]) -> FloatArray:
    """(2, lags): speed and direction correlation."""
    frames = episode.images[next(iter(episode.images))]
    change, flow = _motion(frames)
    if episode.metadata.get("proprioception", True) and np.ptp(episode.proprio_TP[:, :3], axis=0).max() > 0:
        flow = np.diff(episode.proprio_TP[:, :6], axis=0)
    speed = np.linalg.norm(episode.actions_TA[:, :6], axis=1)
    steps = np.arange(episode.steps)
    columns = []
    for lag in lags:
        moved = steps[(steps - lag >= 0) & (steps - lag < episode.steps)]
        direction = _multiple_correlation(episode.actions_TA[moved - lag, :6], flow[moved])
        columns.append((_correlation(change[moved], speed[moved - lag]), direction))
    return np.array(columns, np.float32).T


def _motion(frames: ByteArray) -> tuple[FloatArray, FloatArray]:
    """Per transition: log mean change, and mean flow (2) of the pixels that move."""
    small = [
        cv2.resize(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) for f in frames
    ]
    change, flow = [], []
    for before, after in pairwise(small):
        field = cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 15, 3, 5, 1.2, 0)
        moving = np.linalg.norm(field, axis=-1) > _MIN_FLOW_PX
        flow.append((field * moving[..., None]).sum(axis=(0, 1)) / (moving.sum() + 50))
        change.append(np.log(np.abs(before.astype(np.float32) - after).mean() + 0.1))
    return np.array(change, np.float32), np.array(flow, np.float32)


def _correlation(a: FloatArray, b: FloatArray) -> float:
    if a.std() < 1e-6 or b.std() < 1e-6:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _multiple_correlation(inputs: FloatArray, outputs: FloatArray) -> float:
    """Square root of the explained fraction, adjusted for the number of inputs (Ezekiel), 0 when negative."""
    design = np.concatenate((inputs, np.ones((len(inputs), 1))), axis=1, dtype=np.float64)
    total = np.square(outputs - outputs.mean(axis=0)).sum()
    if total < 1e-12:
        return float("nan")
    fitted, *_ = np.linalg.lstsq(design, outputs.astype(np.float64), rcond=None)
    residual = np.square(outputs - design @ fitted).sum()
    free = max(1, len(inputs) - design.shape[1])
    return float(np.sqrt(max(0.0, 1 - residual / total * (len(inputs) - 1) / free)))
