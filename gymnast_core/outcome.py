"""The contract of a judge that labels real episodes: what it finds of one, and how its label is written down."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gymnast_core.errors import ContractError
from gymnast_core.json_values import JsonObject
from gymnast_core.types import ByteArray, Outcome

JUDGE_PREFIX = "judge:"
"""Begins labelled_by of an episode that a judge labelled; the rest is the judge's id."""
_REPORTED = re.compile(r"^robot:[^/]*/")
"""What the trainer sets before an author that a robot reported."""


@dataclass(frozen=True)
class Judgement:
    """What a judge finds of one real episode.

    Attributes:
        outcome: SUCCESS, FAILURE or ABSTAIN. An outage, a doubt, and a task or scene for which the judge's precision is
            not proven are ABSTAIN; an abstention is no label, and no failure.
        score: probability of success in [0, 1]; NaN where the judge could not look.
        frame: index of the frame it decided on; -1 where it could not look.
        judge: id of the judge's checkpoint; empty where none was reached.
        reason: why it abstained, or what it decided by.
    """

    outcome: Outcome
    score: float
    frame: int
    judge: str
    reason: str

    def __post_init__(self) -> None:
        """Refuse an outcome that is no judgement, a score out of range, and a verdict by nobody."""
        if self.outcome is Outcome.UNLABELLED:
            raise ContractError("a judgement is success, failure or abstain; a judge that does not know abstains")
        if not (math.isnan(self.score) or 0.0 <= self.score <= 1.0):
            raise ContractError(f"score of a judgement must lie in [0, 1] or be NaN, got {self.score}")
        if self.decided and not self.judge:
            raise ContractError(f"a judgement of {self.outcome.value} needs the id of its judge")

    @staticmethod
    def abstain(reason: str, *, judge: str = "", score: float = math.nan, frame: int = -1) -> Judgement:
        """An abstention, with its reason."""
        return Judgement(Outcome.ABSTAIN, score, frame, judge, reason)

    @property
    def decided(self) -> bool:
        """Whether it is a label: success or failure."""
        return self.outcome in (Outcome.SUCCESS, Outcome.FAILURE)

    @property
    def labelled_by(self) -> str:
        """Author of the label; empty for an abstention, which is no label."""
        return f"{JUDGE_PREFIX}{self.judge}" if self.decided else ""

    @property
    def label(self) -> Outcome:
        """What an episode is labelled with: the outcome, or UNLABELLED for an abstention."""
        return self.outcome if self.decided else Outcome.UNLABELLED

    def metadata(self) -> dict[str, JsonObject]:
        """What an episode's metadata keep of it, under `judge`."""
        score = None if math.isnan(self.score) else round(self.score, 6)
        return {"judge": {"id": self.judge, "outcome": self.outcome.value, "score": score, "frame": self.frame,
                          "reason": self.reason}}  # fmt: skip


def judge_in(labelled_by: str) -> str:
    """Return the id of the judge that wrote a label, whether it stands there as such or as a robot reported it.

    Such a label is no ground truth: it neither calibrates nor proves a judge. Empty where no judge wrote it.
    """
    author = _REPORTED.sub("", labelled_by, count=1)
    return author.removeprefix(JUDGE_PREFIX) if author.startswith(JUDGE_PREFIX) else ""


def is_operators(labelled_by: str) -> bool:
    """Whether a person wrote this label, at the robot or at the trainer (the simulator's state counts as one)."""
    return _REPORTED.sub("", labelled_by, count=1).startswith("operator")


class OutcomeJudge(Protocol):
    """Labels a real episode by what the cameras saw, or abstains."""

    def judge(self, frames: Mapping[str, ByteArray], instruction: str, *, scene: str = "") -> Judgement:
        """Judge an episode that has ended, or what there is of one that has not.

        Args:
            frames: camera name -> (T, H, W, 3) uint8 RGB, the first frame of the episode first, the newest last.
            instruction: what the arm was asked to do.
            scene: where it stands, as episodes of it name the scene.

        Returns:
            The judgement; an outage is an abstention with the reason, never an error.
        """
        ...
