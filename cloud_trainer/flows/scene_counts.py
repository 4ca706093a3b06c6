"""How many real episodes a scene's trust check takes: a judge abstains on some, and those do not count."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cloud_trainer.flows.adaptation_engine import Trust
from gymnast_core.records.manifest import Manifest

LEAST_DECIDED = 0.25
"""Share that is reckoned with at least, so that a judge that hardly ever decides asks for no thousands of episodes."""


def too_few(recorded: int, needed: int, judge: Manifest) -> Trust:
    """Return the answer where so few are recorded that nothing needs to be dreamt.

    Args:
        recorded: labelled episodes of the task in the scene.
        needed: episodes that the judge must decide on.
        judge: of its checkpoint.
    """
    share = decided_share(judge)
    more = to_collect(needed, recorded * share, share)
    count = "1 labelled episode" if recorded == 1 else f"{recorded} labelled episodes"
    reason = f"{count} of this task here: too few to decide; collect {more} more"
    return Trust(False, reason, {"real_episodes_here": recorded, "needed": needed, "more_needed": more})


def of_job(found: Mapping[str, Any], needed: int, *, overridden: bool) -> Trust:
    """Return the answer of a trust job (TrustResult); where the judge decided on too few, how many more it takes.

    Args:
        found: its result.
        needed: episodes that the judge must decide on.
        overridden: whether that is ignored.
    """
    figures, reason = {"needed": needed, **found["figures"]}, str(found["reason"])
    decided, recorded = int(figures.get("episodes", 0)), int(figures["real_episodes_here"])
    dreamt = figures.get("dreamt", recorded) > 0  # what was refused before anything was dreamt no judge has seen
    if not found["ok"] and dreamt and decided < needed and not overridden:
        figures["more_needed"] = to_collect(needed, decided, decided / recorded)
        reason = (
            f"the judge decided on {decided} of {recorded} dreams of this task here and abstained on the others; "
            f"{needed} are needed, so collect {figures['more_needed']} more"
        )
    return Trust(bool(found["ok"]), reason, figures)


def to_collect(needed: int, decided: float, share: float) -> int:
    """Return how many more real episodes make a trust check's count full.

    Args:
        needed: episodes that the judge must decide on.
        decided: those it decides on already.
        share: of the recorded ones that it decides on, the others being abstentions.
    """
    return max(0, math.ceil((needed - decided) / max(share, LEAST_DECIDED)))


def decided_share(judge: Manifest) -> float:
    """Return the share of dreams that a judge decided on when it was calibrated; 1 where its checkpoint keeps none."""
    calibration = judge.lineage.get("calibration")
    overall = calibration.get("overall") if isinstance(calibration, Mapping) else None
    abstained = overall.get("abstained") if isinstance(overall, Mapping) else None
    return 1.0 - abstained if isinstance(abstained, float) and 0.0 <= abstained <= 1.0 else 1.0
