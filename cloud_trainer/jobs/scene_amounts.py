"""How many recorded episodes say how a scene is: what flows choose and what jobs look at."""

from __future__ import annotations

from collections.abc import Mapping

from gymnast_core.evaluation.statistics import PairCounts, paired_difference

MOST_HERE = 200
"""Newest episodes of a scene that are looked at."""
TRACKER_EPISODES = 60
"""From elsewhere, to learn reading the gripper from; spread over all there are, as the first ones may be of one task,
and a tracker misreads poses it has not seen."""


CONFIDENCE = 0.90
"""Of what is said about forgetting, two-sided; its ends are 95 % one-sided bounds."""
MOST_STARTS = 2000
HELD_OUT = 2
"""Recorded episodes for one that nothing is learned from, see splits.SHARES."""
_REMEDY = "(gymnast collect), or have nothing refused for it (setting forgetting: 1)"


def cannot_tell(successes: int, failures: int) -> str:
    """Say why nobody can tell what an adaptation forgets: of one of the two there is none."""
    return (
        f"what it would forget elsewhere cannot be measured: of episodes recorded there that nothing is learned from, "
        f"{successes} are successes and {failures} failures, and some of both are needed; collect more of the other "
        f"tasks {_REMEDY}"
    )


def starts_needed(rate: float, allowed: float) -> int:
    """Return how many starts of a task exclude a larger loss than allowed, where nothing changes.

    Args:
        rate: of success there.
        allowed: largest loss of imagined success, above 0.
    """
    for n in range(1, MOST_STARTS):
        both = round(rate * n)
        if -paired_difference(PairCounts(0, 0, both, n - both), confidence=CONFIDENCE).low <= allowed:
            return n
    return MOST_STARTS


def too_few_elsewhere(tasks: Mapping[str, tuple[int, float]], allowed: float) -> str:
    """Say of which tasks so few starts are recorded that even a policy that changes nothing would be refused.

    Args:
        tasks: instruction -> starts that nothing is learned from, and the rate of success there.
        allowed: largest loss of imagined success.

    Returns:
        Empty where there are enough of each.
    """
    needed = {task: starts_needed(rate, allowed) - n for task, (n, rate) in tasks.items()}
    missing = [f"about {HELD_OUT * more} more of {task!r}" for task, more in needed.items() if more > 0]
    if not missing:
        return ""
    return (
        f"too little is recorded elsewhere to show that a policy forgets nothing there, even if it forgets nothing; "
        f"collect {', '.join(missing)} {_REMEDY}"
    )
