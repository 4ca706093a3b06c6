"""The judge contract: learned classifier, local VLM and remote endpoint all keep it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gymnast_core.types import Outcome, RolloutBatch


@dataclass(frozen=True)
class Verdict:
    """What a judge finds of one rollout.

    Attributes:
        outcome: SUCCESS, FAILURE or ABSTAIN. An error, an outage or a disagreement is ABSTAIN, never a reward.
        score: probability of success in [0, 1], as far as the judge knows it; NaN when it could not look.
        evidence: JSON values an operator can check: votes, reasons, frames looked at, error text.
    """

    outcome: Outcome
    score: float
    evidence: Mapping[str, Any] = field(default_factory=dict)


class Judge(Protocol):
    """Scores finished rollouts from what a camera saw; never from simulator state."""

    @property
    def version(self) -> str:
        """Id of the judge checkpoint, or of model + prompt for a hosted one."""
        ...

    def judge(self, rollouts: RolloutBatch) -> Sequence[Verdict]:
        """Return one verdict per row."""
        ...
