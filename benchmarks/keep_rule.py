"""A rule by which a benchmark says whether an adaptation was worth keeping, from the simulator's own labels.

The product's rule is its canary's: gymnast_core.evaluation.sequential.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class KeepRule:
    """When an adapted checkpoint stays; declared before the trial.

    Attributes:
        gain: the scene's success must rise by more than this.
        loss: a fall of success on the other tasks beyond this must be excluded by the interval of the difference.
    """

    gain: float = 0.0
    loss: float = 0.10


def judge_trial(scene: Mapping[str, Any], other_tasks: Mapping[str, Any], rule: KeepRule) -> tuple[bool, str]:
    """Apply the rule; returns (kept, the reason in words)."""
    gain = float(scene["difference"]["mean"])
    loss, most = (-float(other_tasks["difference"][name]) if other_tasks else 0.0 for name in ("mean", "low"))
    if gain <= rule.gain:
        return False, f"no gain in the scene: {gain:+.0%}, more than {rule.gain:+.0%} is asked"
    if loss > rule.loss:
        return False, f"gains {gain:+.0%} in the scene but loses {loss:.0%} on the other tasks, {rule.loss:.0%} allowed"
    if most > rule.loss:
        return False, (
            f"gains {gain:+.0%} in the scene, but up to {most:.0%} may be lost on the other tasks, {rule.loss:.0%} "
            "allowed; try it on more start states"
        )
    return True, f"gains {gain:+.0%} in the scene, {-loss:+.0%} on the other tasks"
