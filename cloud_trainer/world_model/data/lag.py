"""Measure which action moves the picture: correlate motion between frames t and t+1 with action t - lag, for every lag.

Two readings per lag: the correlation of how much the picture changes with how fast the arm was commanded to go, and the
multiple correlation of the direction of motion (optical flow, or measured pose where there is one) with the commanded
translation and rotation. Their mean decides. Lag 0 is our convention; a positive lag means that the motion comes late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from gymnast_core.errors import ConfigError
from gymnast_core.types import ByteArray, Episode, FloatArray

_SIDE = 96
_MIN_FLOW_PX = 0.5
_MIN_STEPS = 12
_AGREEING_EPISODES, _AGREEING_SHARE, _AHEAD = 4, 2 / 3, 0.05
LAGS = tuple(range(-3, 6))


class ConventionError(ConfigError):
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
        agreeing: share of them whose own best lag is this one.
        steps: of all of them together.
    """

    lags: tuple[int, ...]
    speed: tuple[float, ...]
    direction: tuple[float, ...]
    best: int
    margin: float
    episodes: int
    agreeing: float = 0.0
    steps: int = 0

    @property
    def systematic(self) -> bool:
        """Whether the best lag is another one than 0, by more than a slow arm's smear or chance.

        Either most of at least four episodes agree on it, or it is ahead of lag 0 by three standard errors of a
        correlation over all steps.
        """
        if self.best == 0:
            return False
        score = (np.array(self.speed) + np.array(self.direction)) / 2
        ahead = float(score[self.lags.index(self.best)] - score[self.lags.index(0)])
        agreed = self.episodes >= _AGREEING_EPISODES and self.agreeing >= _AGREEING_SHARE and ahead > _AHEAD
        return agreed or ahead > max(_AHEAD, 3 / float(np.sqrt(max(1, self.steps))))

    def table(self) -> str:
        """Lines for people."""
        lines = ["lag   speed  direction"]
        for lag, speed, direction in zip(self.lags, self.speed, self.direction, strict=True):
            lines.append(f"{lag:+3d}  {speed:+.3f}  {direction:+.3f}{'   <- best' if lag == self.best else ''}")
        return "\n".join(lines)


class LagTally:
    """Collects readings of one episode after the other, in the convention to be checked; holds none of them."""

    def __init__(self) -> None:
        """Nothing is measured yet."""
        self._readings: list[FloatArray] = []
        self._steps: list[int] = []
        self._seen = 0

    def add(self, episode: Episode) -> None:
        """Measure an episode, if it is long enough and something moves."""
        self._seen += 1
        reading = _reading(episode, LAGS) if episode.steps >= _MIN_STEPS else None
        if reading is not None and np.isfinite(reading).all():
            self._readings.append(reading)
            self._steps.append(episode.steps)

    def report(self) -> LagReport:
        """Return what was found.

        Raises:
            ConventionError: no episode was long enough, or nothing moved.
        """
        if not self._readings:
            raise ConventionError(
                f"none of {self._seen} episodes has {_MIN_STEPS} steps with motion; nothing to measure"
            )
        speed, direction = np.mean(self._readings, axis=0)
        score = (speed + direction) / 2
        best = int(np.argmax(score))
        own = [int(np.argmax(reading.mean(axis=0))) for reading in self._readings]
        far = [value for index, value in enumerate(score) if abs(index - best) > 1]
        return LagReport(
            LAGS,
            tuple(map(float, speed)),
            tuple(map(float, direction)),
            best=LAGS[best],
            margin=float(score[best] - max(far)),
            episodes=len(own),
            agreeing=own.count(best) / len(own),
            steps=sum(self._steps),
        )


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
