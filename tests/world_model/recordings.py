"""Recordings with everything in them that a dataset has to keep."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from gymnast_core.episodes import EpisodeEnd, EpisodeHeader, Recording
from gymnast_core.episodes.messages import Annotation
from gymnast_core.episodes.writer import encode_jpeg
from gymnast_core.pictures import decode_jpeg
from gymnast_core.types import ByteArray, Outcome

STEP_NS = 200_000_000
START_NS = 1_790_000_000_123_456_789
CAMERAS = {"over_shoulder": (48, 64), "wrist": (33, 47)}
"""Name -> height and width; odd sides are what colours at half the resolution cannot have."""


def scene(rng: np.random.Generator, height: int, width: int) -> ByteArray:
    """A picture such as a camera gives: smooth, with a little noise."""
    y, x = np.mgrid[0:height, 0:width] / 40
    waves = np.stack(
        [np.sin(x + rng.uniform(0, 6)), np.cos(y + rng.uniform(0, 6)), np.sin(x + y + rng.uniform(0, 6))], -1
    )
    return np.asarray((waves * 90 + 128 + rng.normal(0, 2, waves.shape)).clip(0, 255), np.uint8)


def made(seed: int = 0, steps: int = 6, **changes: Any) -> Recording:
    """Two cameras, joints, a gate that limited, two policies, notes, a gap in time, and words of several scripts."""
    rng = np.random.default_rng(seed)
    stamps = START_NS + np.cumsum([0, *rng.integers(STEP_NS - 10**6, STEP_NS + 10**6, steps)])
    stamps[steps // 2 :] += 3 * STEP_NS
    requested_TA = rng.uniform(-0.05, 0.05, (steps, 7)).astype(np.float32)
    requested_TA[:, 6] = rng.integers(0, 2, steps)
    jpegs = {camera: [encode_jpeg(scene(rng, *size)) for _ in range(steps + 1)] for camera, size in CAMERAS.items()}
    values = {
        "header": EpisodeHeader(
            f"ep-made-{seed}", f"сдвинь 立方体 {seed % 2} | \U0001f916", f"arm-{seed}", 7, tuple(CAMERAS), 5.0, seed,
            {"scene": "bench", "gate": {"limited": 2}},
        ),
        "end": EpisodeEnd(Outcome.SUCCESS if seed % 2 == 0 else Outcome.UNLABELLED,
                          "operator:ana" if seed % 2 == 0 else "", "", {"clamped": 1.5}),
        "jpegs": jpegs,
        "proprio_TP": rng.uniform(0.1, 0.3, (steps + 1, 7)).astype(np.float32),
        "time_ns_T": stamps,
        "commanded_TA": (requested_TA * np.float32(0.9)),
        "requested_TA": requested_TA,
        "versions": ("policy-a",) * 2 + ("policy-b",) * (steps - 2),
        "joints_TJ": rng.normal(0, 1, (steps + 1, 6)),
        "rates_TJ": rng.normal(0, 1, (steps + 1, 6)),
        "captured_ns": {"over_shoulder": stamps - 30_000_000, "wrist": stamps},
        "annotations": (Annotation(int(stamps[2]), 2, "bumped \U0001f4a5", "operator:ana"),),
    }  # fmt: skip
    return Recording(**{**values, **changes})


def differences(one: Recording, other: Recording) -> list[str]:
    """Names of the parts that are not the same to the bit."""
    return [
        field.name for field in fields(Recording) if not _same(getattr(one, field.name), getattr(other, field.name))
    ]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return list(one) == list(other)
    return bool(one == other)


def psnr(one: Recording, other: Recording, camera: str) -> float:
    """Peak signal-to-noise ratio of a camera's frames [dB]."""
    frames = [np.stack([decode_jpeg(jpeg) for jpeg in recording.jpegs[camera]]) for recording in (one, other)]
    error = np.square(frames[0].astype(np.float64) - frames[1]).mean()
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))
