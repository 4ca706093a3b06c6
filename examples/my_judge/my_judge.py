"""A judge of your own: was the dark gripper over the red dot at the end? It sees pictures alone, and may abstain.

A judge that is a model behind an address needs no code: `kind = "endpoint"`, see cloud_trainer/judge/choice.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gymnast_core.errors import ConfigError
from gymnast_core.judge import Verdict
from gymnast_core.types import ByteArray, Outcome, RolloutBatch


class DotDistance:
    """Keeps gymnast_core.judge.Judge.

    Args:
        near: success below this distance, as a share of the picture's side; failure above twice of it.
    """

    def __init__(self, near: float = 0.1) -> None:
        if not 0 < near < 0.5:
            raise ConfigError(f"near must lie in (0, 0.5), got {near}")
        self._near = near

    @property
    def version(self) -> str:
        """Verdicts of another version are asked again, so everything that changes a verdict is in it."""
        return f"dot-distance-{self._near:g}"

    def judge(self, rollouts: RolloutBatch) -> Sequence[Verdict]:
        """One verdict a row, from its last picture; rows may have ended early."""
        last_B = [int(np.searchsorted(rollouts.frame_steps_F, length, "right")) - 1 for length in rollouts.length_B]
        return [self._verdict(frames[last]) for frames, last in zip(rollouts.frames_BFHWC, last_B, strict=True)]

    def _verdict(self, picture_HWC: ByteArray) -> Verdict:
        red, green, blue = (picture_HWC[..., channel].astype(int) for channel in range(3))
        dot, gripper = _middle((red - green > 60) & (red - blue > 60)), _middle(red + green + blue < 240)
        if dot is None or gripper is None:
            return Verdict(Outcome.ABSTAIN, float("nan"), {"abstained": "dot or gripper is not to be seen"})
        distance = float(np.hypot(*(dot - gripper))) / picture_HWC.shape[0]
        score = float(np.clip(1.5 - distance / self._near / 2, 0.0, 1.0))
        outcome = Outcome.SUCCESS if distance < self._near else Outcome.FAILURE
        if self._near <= distance < 2 * self._near:
            outcome = Outcome.ABSTAIN  # too near to call: an abstention gives no reward, an error would
        return Verdict(outcome, score, {"distance": round(distance, 3)})


def _middle(mask_HW: np.ndarray) -> np.ndarray | None:
    places = np.argwhere(mask_HW)
    return places.mean(axis=0) if len(places) >= 3 else None
