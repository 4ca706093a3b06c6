"""Picture metrics of the audit, and a tracker that reads the gripper off a frame.

LPIPS is not computed: neither torchmetrics nor lpips carries the backbone weights in its wheel (both fetch them from
the internet at first use), and the audit must run offline. Reports say so in their "lpips" field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from gymnast_core.errors import ContractError
from gymnast_core.types import ByteArray, Episode, FloatArray

Numbers = npt.NDArray[np.floating[Any]]

LPIPS_NOTE = "not computed: the backbone weights are in no wheel, and the audit runs offline"
_MAX_PSNR_DB = 60.0
_WINDOW, _SIGMA = 11, 1.5


def psnr(real: ByteArray, imagined: ByteArray) -> FloatArray:
    """Return (...) peak signal-to-noise ratio [dB] of (..., H, W, 3) uint8 pictures, at most 60."""
    error = np.square(real.astype(np.float32) - imagined.astype(np.float32)).mean(axis=(-3, -2, -1))
    return np.asarray(np.minimum(20 * np.log10(255.0) - 10 * np.log10(np.maximum(error, 1e-12)), _MAX_PSNR_DB))


def rms_error(real: ByteArray, imagined: ByteArray) -> FloatArray:
    """Return (...) root mean square difference of (..., H, W, 3) uint8 pictures, in units of full scale."""
    square = np.square(real.astype(np.float32) - imagined.astype(np.float32)).mean(axis=(-3, -2, -1))
    return np.asarray(np.sqrt(square) / 255.0, np.float32)


def ssim(real: ByteArray, imagined: ByteArray) -> FloatArray:
    """Return (N,) structural similarity of (N, H, W, 3) uint8 pictures.

    Source:
        Wang et al. 2004, IEEE TIP 13:600, eq. 13: Gaussian window 11x11, sigma 1.5, K1 0.01, K2 0.03; mean over the
        valid positions and the channels.
    """
    return np.array([_ssim_of(x, y) for x, y in zip(real, imagined, strict=True)], np.float32)


def _ssim_of(real_HWC: ByteArray, imagined_HWC: ByteArray) -> float:
    x, y = real_HWC.astype(np.float64), imagined_HWC.astype(np.float64)
    mx, my = _local_mean(x), _local_mean(y)
    vx, vy = _local_mean(x * x) - mx * mx, _local_mean(y * y) - my * my
    covariance = _local_mean(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = (2 * mx * my + c1) * (2 * covariance + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return float(values.mean())


def _local_mean(picture: Numbers) -> Numbers:
    """Gaussian average at the positions where the whole window fits."""
    edge = _WINDOW // 2
    return np.asarray(cv2.GaussianBlur(picture, (_WINDOW, _WINDOW), _SIGMA))[edge:-edge, edge:-edge]


def average_ranks(values: Numbers) -> Numbers:
    """Return the rank of each of (N,) values, 1 for the least; ties share the mean of their ranks."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[place])


@dataclass(frozen=True)
class GripperTracker:
    """Reads gripper position and opening off a frame: kernel ridge regression on principal components.

    Fitted on real frames with measured proprioception, from the camera it is used on. Its own error on held-out real
    frames is the floor below which nothing can be said about imagined ones.

    Attributes:
        mean: average feature.
        components: (features, C) whitened principal directions.
        anchors: (M, C) training points.
        weights: (M, 4) of the kernel.
        centre: (4,) mean target.
        bandwidth: of the Gaussian kernel.
        side: pixels frames are reduced to.
        on_pose: (10, C + 1) what gripper place alone says about the features and (last column) the opening.
        finger_anchors: (M, C) features of the training frames beyond that.
        finger_weights: (M,) from them to the opening beyond that.
        finger_bandwidth: of that kernel.
    """

    mean: FloatArray
    components: FloatArray
    anchors: FloatArray
    weights: FloatArray
    centre: FloatArray
    bandwidth: float
    side: int
    on_pose: FloatArray
    finger_anchors: FloatArray
    finger_weights: FloatArray
    finger_bandwidth: float

    @staticmethod
    def fit(
        episodes: Sequence[Episode],
        *,
        camera: str | None = None,
        side: int = 32,
        components: int = 200,
        limit: int = 1600,
        seed: int = 0,
    ) -> GripperTracker:
        """Learn from real episodes.

        Args:
            episodes: real, with measured proprioception.
            camera: default the first.
            side: reduced frame side.
            components: principal components kept.
            limit: most frames used, drawn at random.
            seed: of that draw.

        Raises:
            ContractError: fewer than 50 frames.
        """
        frames = np.concatenate([e.images[camera or next(iter(e.images))] for e in episodes])
        poses = np.concatenate([e.proprio_TP for e in episodes])[:, [0, 1, 2, 6]].astype(np.float64)
        if len(frames) < 50:
            raise ContractError(f"a gripper tracker needs at least 50 real frames, got {len(frames)}")
        rows = np.random.default_rng(seed).permutation(len(frames))[:limit]
        features, targets = _features(frames[rows], side), poses[rows]
        mean = features.mean(axis=0)
        squares, left = np.linalg.eigh((features - mean) @ (features - mean).T)
        singular, left = np.sqrt(np.maximum(squares[::-1], 1e-12)), left[:, ::-1]
        kept = min(components, int((singular > 1e-3 * singular[0]).sum()))
        directions = (features - mean).T @ left[:, :kept] / singular[:kept]
        # square roots keep the order of the components without drowning the small ones
        whitening = directions / np.sqrt(singular[:kept] * singular[0])
        points = (features - mean) @ whitening
        centre = targets.mean(axis=0)
        weights, bandwidth = _kernel_ridge(points, targets - centre)
        basis, both = _pose_basis(targets[:, :3]), np.concatenate((points, targets[:, 3:]), axis=1)
        on_pose, *_ = np.linalg.lstsq(basis, both, rcond=None)
        beyond = both - basis @ on_pose
        finger_weights, finger_bandwidth = _kernel_ridge(beyond[:, :-1], beyond[:, -1])
        return GripperTracker(
            mean=mean.astype(np.float32),
            components=whitening.astype(np.float32),
            anchors=points.astype(np.float32),
            weights=weights.astype(np.float32),
            centre=centre.astype(np.float32),
            bandwidth=bandwidth,
            side=side,
            on_pose=on_pose.astype(np.float32),
            finger_anchors=beyond[:, :-1].astype(np.float32),
            finger_weights=finger_weights.astype(np.float32),
            finger_bandwidth=finger_bandwidth,
        )

    def track(self, frames_FHWC: ByteArray) -> FloatArray:
        """Return (F, 4): gripper x, y, z [m] and opening (0 closed, 1 open)."""
        kernel = np.exp(-_squared_distances(self._points(frames_FHWC), self.anchors) / (2 * self.bandwidth**2))
        return np.asarray(kernel @ self.weights + self.centre, np.float32)

    def fingers(self, frames_FHWC: ByteArray, pose_F4: FloatArray) -> FloatArray:
        """Return (F, 2): opening seen in the frame, and true opening, both beyond what the gripper's place predicts.

        Where the gripper is says much about whether it is open; without taking that off, a model that ignores the
        gripper command would still seem to obey it.
        """
        basis = _pose_basis(pose_F4[:, :3])
        beyond = self._points(frames_FHWC) - basis @ self.on_pose[:, :-1]
        kernel = np.exp(-_squared_distances(beyond, self.finger_anchors) / (2 * self.finger_bandwidth**2))
        truth = pose_F4[:, 3] - basis @ self.on_pose[:, -1]
        return np.asarray(np.stack((kernel @ self.finger_weights, truth), axis=1), np.float32)

    def _points(self, frames_FHWC: ByteArray) -> Numbers:
        return np.asarray((_features(frames_FHWC, self.side) - self.mean) @ self.components)


def _kernel_ridge(points: Numbers, targets: Numbers) -> tuple[Numbers, float]:
    """Weights of the training points and the kernel's bandwidth (median distance)."""
    squared = _squared_distances(points, points)
    bandwidth = float(np.sqrt(np.median(squared[squared > 0])))
    kernel = np.exp(-squared / (2 * bandwidth**2)) + 1e-3 * np.eye(len(points))
    return np.linalg.solve(kernel, targets), bandwidth


def _pose_basis(position: Numbers) -> Numbers:
    """1, the coordinates [dm] and their products: (F, 10)."""
    x, y, z = (position.astype(np.float64) * 10).T
    return np.stack((np.ones_like(x), x, y, z, x * x, y * y, z * z, x * y, x * z, y * z), axis=1)


def _features(frames: ByteArray, side: int) -> FloatArray:
    small = [cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA) for frame in frames]
    return np.stack(small).reshape(len(frames), -1).astype(np.float32) / 255.0


def _squared_distances(a: Numbers, b: Numbers) -> Numbers:
    squared = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None] - 2 * a @ b.T
    return np.asarray(np.maximum(squared, 0))
