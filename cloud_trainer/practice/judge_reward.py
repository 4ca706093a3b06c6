"""A judge as the reward of Gymnasium's environments: sparse at the end, or shaped by its score on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_trainer.practice.gathering import Gathering
from gymnast_core.errors import ConfigError
from gymnast_core.judge import Judge, Verdict
from gymnast_core.types import BoolArray, ByteArray, FloatArray, IntArray, Observation, Outcome, StepResult

KINDS = ("sparse", "shaped")
LOOK_EVERY = 5
"""Steps between the frames that a judge sees; the first and the last are always among them."""


class JudgeReward:
    """Keeps world_model.gym.Reward: 1 at the end of a row that the judge finds successful, else 0.

    A judge that abstains, or could not look, rewards nothing; info["outcome"] has what it said, info["score"] its
    probability of success. "shaped" adds discount * potential(next) - potential(now), the potential being the score of
    what is seen so far and 0 at the end, which leaves the best policy what it is (Ng, Harada, Russell 1999); the judge
    is then asked at every step.

    Args:
        judge: of finished rollouts.
        kind: one of KINDS.
        discount: of the learner, for the shaping alone.
        first_frames: (B, H, W, 3) first frames of the rows' episodes, where they begin later; None is where they begin.

    Raises:
        ConfigError: an unknown kind.
    """

    def __init__(
        self, judge: Judge, *, kind: str = "sparse", discount: float = 0.99,
        first_frames: Callable[[], ByteArray] | None = None,
    ) -> None:  # fmt: skip
        if kind not in KINDS:
            raise ConfigError(f"reward must be one of {list(KINDS)}, got {kind!r}")
        self._judge, self._shaped, self._discount, self._first = judge, kind == "shaped", discount, first_frames
        self._gathering = Gathering((), np.zeros((0, 1, 1, 3), np.uint8))
        self._potential_B: FloatArray = np.zeros(0, np.float32)

    def begin(self, rows: Sequence[str], observation: Observation) -> None:
        """See Reward."""
        self._gathering = Gathering(rows, _seen(observation) if self._first is None else self._first())
        every = np.arange(len(rows))
        self._potential_B = self._scores(every, _seen(observation)) if self._shaped else np.zeros(len(rows), np.float32)

    def score(self, result: StepResult) -> tuple[FloatArray, Mapping[str, npt.NDArray[Any]]]:
        """See Reward."""
        ended_B = self._gathering.add(result)
        if ended_B.any() or self._gathering.steps % LOOK_EVERY == 0:
            self._gathering.look(_seen(result.observation))
        reward_B, said = self._at_the_end(ended_B)
        if self._shaped:
            reward_B = reward_B + self._shaping(result)
        return reward_B, said

    def _at_the_end(self, ended_B: BoolArray) -> tuple[FloatArray, dict[str, npt.NDArray[Any]]]:
        """Reward and info of the rows that ended in this step; no info where none did."""
        count, rows = len(ended_B), np.flatnonzero(ended_B)
        if not len(rows):
            return np.zeros(count, np.float32), {}
        outcomes, scores_B = np.full(count, "", object), np.zeros(count, np.float32)
        for row, verdict in zip(rows, self._verdicts(rows), strict=True):
            outcomes[row], scores_B[row] = verdict.outcome.value, verdict.score
        said = {"outcome": outcomes, "_outcome": ended_B, "score": scores_B, "_score": ended_B.copy()}
        return (outcomes == Outcome.SUCCESS.value).astype(np.float32), said

    def _shaping(self, result: StepResult) -> FloatArray:
        """(B,) discounted change of the potential; a row's last step takes back what the others gave."""
        next_B, going = np.zeros_like(self._potential_B), np.flatnonzero(~result.done_B)
        if len(going):
            scores = self._scores(going, _seen(result.observation))
            next_B[going] = np.where(np.isnan(scores), self._potential_B[going], scores)
        change_B = (self._discount * next_B - self._potential_B).astype(np.float32)
        self._potential_B = next_B
        return change_B

    def _scores(self, rows: IntArray, now_BHWC: ByteArray) -> FloatArray:
        """The judge's scores of what is seen so far; 0 at the beginning where it could not look."""
        scores = np.array([verdict.score for verdict in self._verdicts(rows, now_BHWC)], np.float32)
        return scores if self._gathering.steps else np.nan_to_num(scores)

    def _verdicts(self, rows: IntArray, now_BHWC: ByteArray | None = None) -> Sequence[Verdict]:
        """What the judge says of the frames that were looked at, or of the first and those of now."""
        if not len(rows):
            return ()
        return self._judge.judge(self._gathering.rollouts("gymnasium", last_BHWC=now_BHWC).rows(rows))


def _seen(observation: Observation) -> ByteArray:
    return observation.frames_of("")
