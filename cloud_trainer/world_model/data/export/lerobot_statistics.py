"""Statistics of an episode and of a dataset, as LeRobot defines them.

Source: lerobot 0.6.1, lerobot/datasets/compute_stats.py: of a picture feature up to 10,000 sampled frames, thinned
where a side has 300 pixels, a value per channel in 0..1; over episodes means, variances and quantiles are weighted by
their counts. Its quantiles are read off 5,000 bins; ours are the values themselves, at most one bin away.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gymnast_core.types import ByteArray

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_ALWAYS, _MOST, _GROWTH = 100, 10_000, 0.75
_THIN_FROM, _THIN_TO = 300, 150

Statistics = dict[str, list[Any]]
"""min, max, mean, std, count and the quantiles of one feature, as JSON values."""


def of_numbers(values_TD: npt.NDArray[Any]) -> Statistics:
    """Return the statistics of T rows of D numbers; a (T,) array counts as one column."""
    rows = values_TD.reshape(len(values_TD), -1).astype(np.float64)
    found = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    found |= {
        name: np.quantile(rows, share, axis=0, method="inverted_cdf") if len(rows) > 1 else found["mean"]
        for name, share in QUANTILES.items()
    }
    return {**{name: value.tolist() for name, value in found.items()}, "count": [len(rows)]}


def sampled(count: int) -> list[int]:
    """Which of an episode's frames count."""
    wanted = max(min(_ALWAYS, count), min(int(count**_GROWTH), _MOST))
    return sorted(np.round(np.linspace(0, count - 1, wanted)).astype(int).tolist())


def of_pictures(frames: Iterable[ByteArray]) -> Statistics:
    """Return the statistics of (H, W, 3) frames, one at a time, in 0..1 and shaped (3, 1, 1)."""
    counts_CV, number = np.zeros((3, 256), np.int64), 0
    for frame in frames:
        thin = _thinned(frame)
        counts_CV += np.stack([np.bincount(thin[..., channel].ravel(), minlength=256) for channel in range(3)])
        number += 1
    values_V, total = np.arange(256.0), counts_CV[0].sum()
    mean_C = counts_CV @ values_V / total
    variance_C = counts_CV @ values_V**2 / total - mean_C**2
    there = counts_CV > 0
    found = {"min": there.argmax(1), "max": 255 - there[:, ::-1].argmax(1), "mean": mean_C,
             "std": np.sqrt(np.maximum(variance_C, 0.0))}  # fmt: skip
    below_CV = counts_CV.cumsum(1)
    found |= {name: (below_CV >= share * total).argmax(1) for name, share in QUANTILES.items()}
    return {**{name: (value / 255.0).reshape(3, 1, 1).tolist() for name, value in found.items()}, "count": [number]}


def _thinned(frame: ByteArray) -> ByteArray:
    height, width = frame.shape[:2]
    if max(height, width) < _THIN_FROM:
        return frame
    step = (width if width > height else height) // _THIN_TO
    return frame[::step, ::step]


def merged(episodes: Sequence[Statistics]) -> Statistics:
    """Return one feature's statistics over several episodes."""
    arrays = {name: np.array([episode[name] for episode in episodes], np.float64) for name in episodes[0]}
    counts = arrays.pop("count")
    weights = counts.reshape(-1, *[1] * (arrays["mean"].ndim - 1)) / counts.sum()
    mean = (arrays["mean"] * weights).sum(0)
    variance = ((arrays["std"] ** 2 + (arrays["mean"] - mean) ** 2) * weights).sum(0)
    found = {"min": arrays["min"].min(0), "max": arrays["max"].max(0), "mean": mean, "std": np.sqrt(variance)}
    found |= {name: (arrays[name] * weights).sum(0) for name in QUANTILES}
    return {**{name: value.tolist() for name, value in found.items()}, "count": [int(counts.sum())]}
