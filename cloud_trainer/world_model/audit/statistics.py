"""What the audit measures, one function per question. All take cases and return JSON values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cloud_trainer.world_model.audit.cases import AuditCase
from cloud_trainer.world_model.audit.figures import (
    ChangeFigures,
    FidelityFigures,
    HorizonStep,
    JumpFigures,
    ObedienceFigures,
)
from cloud_trainer.world_model.audit.metrics import GripperTracker, psnr, rms_error, ssim
from gymnast_core.types import ByteArray, FloatArray

_LAGS = (-2, -1, 0, 1, 2)
_BLOCKS = 8
_COLOUR_CHANGE = 0.25
_LEAST_PIXELS = 4
_RESAMPLES = 300


def horizon_curve(cases: Sequence[AuditCase], rng: np.random.Generator) -> list[HorizonStep]:
    """PSNR and SSIM per imagined step, with bootstrap intervals over episodes."""
    per_case = [(psnr(c.real_FHWC, c.imagined_KFHWC[0]), ssim(c.real_FHWC, c.imagined_KFHWC[0])) for c in cases]
    rows: list[HorizonStep] = []
    for ahead in range(1, max(case.episode.steps - case.start for case in cases) + 1):
        values = [
            (p[case.start + ahead], s[case.start + ahead])
            for case, (p, s) in zip(cases, per_case, strict=True)
            if case.start + ahead < len(p)
        ]
        peak, structure = np.array(values).T
        low, high = mean_interval(peak, rng)
        rows.append(
            {
                "step": ahead,
                "episodes": len(values),
                "psnr_db": float(peak.mean()),
                "psnr_low": low,
                "psnr_high": high,
                "ssim": float(structure.mean()),
            }
        )
    return rows


def action_fidelity(cases: Sequence[AuditCase], tracker: GripperTracker) -> FidelityFigures:
    """Does the imagined arm go where it was commanded: tracked against measured pose, and the tracker's own error.

    Returns:
        error_m and gripper_error on imagined frames, *_floor on the real frames; gripper_response, how much of the
        real fingers' answer to the gripper command the dream shows (1 all, 0 none); and the lag at which the
        imagined path fits the real one best: -1 means that the dream is one step late.
    """
    imagined, real, truth = [], [], []
    for case in cases:
        imagined.append(tracker.track(case.imagined_KFHWC[0]))
        real.append(tracker.track(case.real_FHWC))
        truth.append(case.episode.proprio_TP[:, [0, 1, 2, 6]])
    ahead = [slice(case.start + 1, None) for case in cases]
    error, floor = (_pose_errors(tracked, truth, ahead) for tracked in (imagined, real))
    by_lag = {lag: float(np.mean([_lagged(i, r, lag) for i, r in zip(imagined, real, strict=True)])) for lag in _LAGS}
    best = min(by_lag, key=lambda lag: by_lag[lag])
    return {
        "error_m": float(error[0].mean()),
        "floor_m": float(floor[0].mean()),
        "excess_m": float(error[0].mean() - floor[0].mean()),
        "gripper_error": float(error[1].mean()),
        "gripper_floor": float(floor[1].mean()),
        "gripper_response": _obedience(cases, tracker, truth),
        "lag": best,
        "lag_error_m": {str(lag): value for lag, value in by_lag.items()},
    }


def _pose_errors(
    tracked: Sequence[FloatArray], truth: Sequence[FloatArray], ahead: Sequence[slice]
) -> tuple[FloatArray, FloatArray]:
    """Per step: distance [m] and absolute error of the opening, all cases in a row."""
    difference = np.concatenate([(a - b)[rows] for a, b, rows in zip(tracked, truth, ahead, strict=True)])
    return np.linalg.norm(difference[:, :3], axis=1), np.abs(difference[:, 3])


def _obedience(cases: Sequence[AuditCase], tracker: GripperTracker, truth: Sequence[FloatArray]) -> float:
    """Share of the real fingers' answer to the gripper command that the dreams show.

    Real: slope of the seen on the true opening, beyond what the gripper's place predicts. Dreamt: how far the seen
    opening follows the command when the same dream, noise included, gets the opposite.
    """
    real, dreamt = [], []
    for case, pose in zip(cases, truth, strict=True):
        ahead, opening = slice(case.start + 1, None), case.episode.actions_TA[case.start :, 6]
        real.append(tracker.fingers(case.real_FHWC[ahead], pose[ahead]))
        if case.flipped_FHWC is not None:
            commanded, opposite = (
                tracker.fingers(frames[ahead], pose[ahead])[:, 0]
                for frames in (case.imagined_KFHWC[0], case.flipped_FHWC)
            )
            dreamt.append(np.stack((commanded - opposite, 2 * opening - 1), axis=1))
    if not dreamt:
        return float("nan")
    answer, command = np.concatenate(dreamt).T
    return _slope(answer, command) / max(_slope(*np.concatenate(real).T, centred=True), 1e-3)


def _slope(seen: FloatArray, given: FloatArray, *, centred: bool = False) -> float:
    by = given - given.mean() if centred else given
    return float((by * seen).sum() / max(float((by * by).sum()), 1e-9))


def _lagged(imagined: FloatArray, real: FloatArray, lag: int) -> float:
    """Mean distance between imagined frame t and real frame t + lag; both through the tracker."""
    steps = np.arange(max(0, -lag), len(imagined) - max(0, lag))
    return float(np.linalg.norm(imagined[steps, :3] - real[steps + lag, :3], axis=1).mean())


def obedience(cases: Sequence[AuditCase]) -> ObedienceFigures:
    """Does the dream follow the command, and in time: from frames alone, in any scene.

    Returns:
        frame_lag: lag at which imagined frames fit the real ones best; -1 means that the dream is one step late;
        lag_error: mean squared difference by lag; gripper_change: RMS by which dreams differ, full scale 1, when the
        gripper gets the opposite command, NaN where that was not dreamt.
    """
    by_lag = {lag: float(np.mean([_frames_lagged(case, lag) for case in cases])) for lag in _LAGS}
    changes = [
        float(rms_error(case.imagined_KFHWC[0], case.flipped_FHWC)[case.start + 1 :].mean())
        for case in cases
        if case.flipped_FHWC is not None
    ]
    return {
        "frame_lag": min(by_lag, key=lambda lag: by_lag[lag]),
        "lag_error": {str(lag): value for lag, value in by_lag.items()},
        "gripper_change": float(np.mean(changes)) if changes else float("nan"),
    }


def _frames_lagged(case: AuditCase, lag: int) -> float:
    """Mean squared difference of imagined frame t and real frame t + lag."""
    dream, real = case.imagined_KFHWC[0], case.real_FHWC
    steps = np.arange(max(case.start + 1, -lag), len(dream) - max(0, lag))
    if not len(steps):
        return 0.0
    return float(np.square(dream[steps].astype(np.float32) - real[steps + lag].astype(np.float32)).mean())


def jumps(cases: Sequence[AuditCase]) -> JumpFigures:
    """Does anything leap: largest change of a block between imagined frames beyond any real change near it."""
    excess = [_largest_jump(case) for case in cases]
    return {"mean": float(np.mean(excess)), "worst": float(np.max(excess))}


def _largest_jump(case: AuditCase) -> float:
    real, imagined = _block_changes(case.real_FHWC), _block_changes(case.imagined_KFHWC[0])
    allowed = real.max(axis=0)
    padded = np.pad(allowed, 1, mode="edge")
    rows, columns = allowed.shape
    near = np.max([padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3)], axis=0)
    return float((imagined[case.start :] - near).max())


def _block_changes(frames: ByteArray) -> FloatArray:
    """(T, blocks, blocks) mean absolute change between neighbouring frames, full scale 1."""
    change = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean(axis=-1) / 255
    side = (frames.shape[1] // _BLOCKS, frames.shape[2] // _BLOCKS)
    cut = change[:, : side[0] * _BLOCKS, : side[1] * _BLOCKS]
    return np.asarray(cut.reshape(len(change), _BLOCKS, side[0], _BLOCKS, side[1]).mean(axis=(2, 4)))


def change_recall(cases: Sequence[AuditCase]) -> ChangeFigures:
    """Do objects move that really moved: share of pixels whose colour really changed for good and did so in the dream.

    Colour is saturation: objects have it, arm and table have little. A pixel counts as changed in the dream when it
    ends nearer to the real end than to the start.
    """
    recalls = [value for case in cases if (value := _recall(case)) is not None]
    return {"mean": float(np.mean(recalls)) if recalls else float("nan"), "episodes": len(recalls)}


def _recall(case: AuditCase) -> float | None:
    start, end, dream = (
        frame.astype(np.float32)
        for frame in (case.real_FHWC[case.start], case.real_FHWC[-1], case.imagined_KFHWC[0][-1])
    )
    changed = np.abs(_saturation(end) - _saturation(start)) > _COLOUR_CHANGE
    if changed.sum() < _LEAST_PIXELS:
        return None
    to_end, to_start = (np.linalg.norm(dream - other, axis=-1)[changed] for other in (end, start))
    return float((to_end < to_start).mean())


def _saturation(frame: FloatArray) -> FloatArray:
    return np.asarray((frame.max(axis=-1) - frame.min(axis=-1)) / np.maximum(frame.max(axis=-1), 32))


def mean_interval(values: FloatArray, rng: np.random.Generator) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean."""
    means = values[rng.integers(len(values), size=(_RESAMPLES, len(values)))].mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))
