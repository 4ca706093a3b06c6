"""Is this the scene that an adapter was kept for? Learned from first images of episodes, answered from one.

Two questions, both must be answered with yes. Is the image no farther from the scene's middle image than its own images
are? That keeps out what looks like nothing recorded there. Does a linear rule between the scene's images and those of
everywhere else see it on the scene's side? That tells a camera that was moved by centimetres, where distances see
nothing. Both limits come from the recorded images themselves, each held against a rule that was fitted without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gymnast_core.errors import ShapeError
from gymnast_core.evaluation.scene import Fingerprint
from gymnast_core.json_values import JsonObject

SAME = 1.0
"""Distance of two fingerprints beyond which no number of recorded images makes them one scene."""
SLACK = 1.5
"""An image of the scene may be so much farther from its middle than the farthest recorded one."""
FEW = 8
"""Fewer recorded images do not show how much those of a scene differ: SAME is its limit then, and the linear rule's
comes from the images that it was fitted to."""
RIDGE = 0.03
"""Weight of the rule's squared length beside the squared errors."""
VIVID_WEIGHT = 2.0
"""Of the vivid colours beside the layout in the linear rule: a small object is few cells, but a colour of its own."""

MOST = 1e6
"""A larger number is no weight and no limit."""

_Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SceneCalibration:
    """What the limits came to on the recorded images, each held against a rule that was fitted without it.

    Attributes:
        here: images of the scene.
        missed: of those, not recognised.
        elsewhere: images of everywhere else.
        mistaken: of those, taken for the scene.
    """

    here: int
    missed: int
    elsewhere: int
    mistaken: int

    @property
    def words(self) -> str:
        """For people."""
        return (
            f"recognised on {self.here - self.missed} of {self.here} images of it, taken for it on {self.mistaken} of "
            f"{self.elsewhere} of elsewhere"
        )


@dataclass(frozen=True)
class SceneRecogniser:
    """Recognises one scene.

    Attributes:
        centre: the recorded image nearest to all the others.
        within: distance from it up to which an image may be of the scene.
        weights_D: (D,) of the linear rule over a fingerprint's numbers, layout first; all zero where nothing was
            recorded elsewhere.
        threshold: value of the rule from which an image is of the scene.
        calibration: how well that went.
    """

    centre: Fingerprint
    within: float
    weights_D: npt.NDArray[np.float32]
    threshold: float
    calibration: SceneCalibration

    @staticmethod
    def fitted(here: Sequence[Fingerprint], elsewhere: Sequence[Fingerprint]) -> SceneRecogniser:
        """Learn a scene.

        Args:
            here: of first images recorded in the scene, at least one.
            elsewhere: of first images of other scenes; none leaves the distance alone to decide.

        Raises:
            ShapeError: there is no image of the scene.
        """
        if not here:
            raise ShapeError("a scene is learned from its images, and there is none; record an episode there")
        distances_NN = np.array([[one.distance(other) for other in here] for one in here])
        centre = here[int(np.median(distances_NN, axis=1).argmin())]
        spread = float(max(centre.distance(one) for one in here))
        within = SAME if len(here) < FEW else min(SAME, SLACK * spread)
        if not elsewhere:
            flat_D = np.zeros(_numbers(centre).size, np.float32)
            return SceneRecogniser(centre, within, flat_D, -1.0, SceneCalibration(len(here), 0, 0, 0))
        here_ND, elsewhere_MD = (np.stack([_numbers(one) for one in side]) for side in (here, elsewhere))
        weights_D, *left_out = _rule(here_ND, elsewhere_MD)
        # without the only image of a side there is no rule to hold it against
        own_N, other_M = (
            values if len(values) >= FEW else images @ weights_D
            for values, images in zip(left_out, (here_ND, elsewhere_MD), strict=True)
        )
        threshold = _between(own_N, other_M)
        near_M = np.array([centre.distance(one) <= within for one in elsewhere])
        found = SceneCalibration(
            len(here), int((own_N <= threshold).sum()), len(elsewhere), int((near_M & (other_M > threshold)).sum())
        )
        return SceneRecogniser(centre, within, weights_D.astype(np.float32), threshold, found)

    def margin(self, seen: Fingerprint) -> float:
        """Return by how much an image is of this scene: above 0 it is, and of several scenes it is the largest's."""
        return min(
            1.0 - self.centre.distance(seen) / self.within, float(self.weights_D @ _numbers(seen)) - self.threshold
        )

    def to_json(self) -> JsonObject:
        """Return it as rounded numbers."""
        return {
            "centre": self.centre.to_json(), "within": round(self.within, 4), "threshold": round(self.threshold, 6),
            "weights": [float(f"{value:.4g}") for value in self.weights_D.tolist()],
            "calibration": vars(self.calibration),
        }  # fmt: skip

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> SceneRecogniser:
        """Return what to_json() wrote.

        Raises:
            ShapeError: it is something else.
        """
        try:
            centre, counts = Fingerprint.from_json(values["centre"]), SceneCalibration(**values["calibration"])
            weights_D = np.array(values["weights"], np.float64)
            within, threshold = values["within"], values["threshold"]
            whole = np.array([within, threshold, *weights_D.ravel()], np.float64)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"{type(error).__name__} {error}"
            raise ShapeError(f"no recogniser of a scene: {what}; keep the adapter again") from error
        if (
            weights_D.shape != (_numbers(centre).size,)
            or not (np.abs(whole) < MOST).all()
            or not 0.0 < whole[0] <= SAME
        ):
            raise ShapeError(f"{weights_D.shape} weights within {within} recognise no scene; keep the adapter again")
        if not all(type(count) is int and count >= 0 for count in vars(counts).values()):
            raise ShapeError(f"{counts} counts no images; keep the adapter again")
        return SceneRecogniser(centre, float(whole[0]), weights_D.astype(np.float32), float(whole[1]), counts)


def _numbers(one: Fingerprint) -> npt.NDArray[np.float64]:
    """A fingerprint as one vector."""
    return np.concatenate([one.layout_RRC.ravel(), VIVID_WEIGHT * one.colours_HH.ravel()]).astype(np.float64)


def _rule(here_ND: _Matrix, elsewhere_MD: _Matrix) -> tuple[_Matrix, _Matrix, _Matrix]:
    """Fit the linear rule, +1 here and -1 elsewhere, both sides of equal weight.

    Returns:
        Its weights (D,); its value on each image of the scene (N,) and of elsewhere (M,), as a rule that was fitted
        without that image gives it.

    Source:
        Ridge regression in its dual form; leave-one-out values in closed form: Cawley & Talbot, "Fast exact
        leave-one-out cross-validation of sparse least-squares support vector machines", 2004, eq. 11.
    """
    n, m = len(here_ND), len(elsewhere_MD)
    images_LD = np.concatenate([here_ND, elsewhere_MD])
    targets_L = np.concatenate([np.ones(n), -np.ones(m)])
    shares_L = np.concatenate([np.full(n, 0.5 / n), np.full(m, 0.5 / m)]) * (n + m)
    inverse_LL = np.linalg.inv(images_LD @ images_LD.T + 1.0 + RIDGE * np.diag(1.0 / shares_L))
    duals_L = inverse_LL @ targets_L
    left_out_L = targets_L - duals_L / np.diag(inverse_LL)
    offset = float(duals_L.sum())
    return images_LD.T @ duals_L, left_out_L[:n] - offset, left_out_L[n:] - offset


def _between(own_N: _Matrix, other_M: _Matrix) -> float:
    """Return the value that tells them apart; where none does, the one above everything of elsewhere."""
    lowest, highest = float(own_N.min()), float(other_M.max())
    return (lowest + highest) / 2 if lowest > highest else highest
