"""How a policy behaved on the arm: every episode gets a verdict.

This is not about success, which trials decide: it is about policies that raise, answer with something that is no
action (gymnast_core.rollout.GuardedPolicy), or ask for what the gate has to refuse over and over. The bridge counts
these verdicts during probation.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from gymnast_ros.run.ports import Publish

REFUSED_SHARE = 0.5
"""Share of an episode's steps that the gate refused, from which on the policy is to blame."""
MIN_REFUSED = 3


def verdict(reason: str, detail: str, sources: Sequence[str]) -> str:
    """Why the policy is to blame for an episode; empty when it is not.

    Args:
        reason: how the episode was cut; empty when it ran to its end.
        detail: the error's own words.
        sources: the source of each step's command; "hold" is the gate refusing.
    """
    if reason == "policy_fault":
        return detail
    refused = sources.count("hold")
    if refused >= max(MIN_REFUSED, REFUSED_SHARE * len(sources)):
        return f"the gate refused {refused} of {len(sources)} steps"
    return ""


class EpisodeEvents:
    """Publishes one JSON object per episode: {run, policy, steps, episode_id, cut, good, ...}.

    Args:
        publish: on rollout/episode, by which the bridge counts a probation.
    """

    def __init__(self, publish: Publish) -> None:
        self._publish = publish
        self._session, self._number = time.time_ns(), 0

    def report(self, policy: str, *, steps: int = 0, episode_id: str = "", blame: str = "", cut: str = "") -> None:
        """Publish how one episode went; `run` names it, so that a listener counts it once.

        Args:
            policy: version.
            steps: actions done.
            episode_id: of the recording; empty when there is none.
            blame: see verdict().
            cut: truncated_reason; an episode that was cut for another reason is no evidence about the policy.
        """
        self._number += 1
        event: dict[str, Any] = {
            "run": f"{self._session}-{self._number}", "policy": policy, "steps": steps, "episode_id": episode_id,
            "cut": cut,
            "good": not blame and not cut, "bad": bool(blame), "reason": blame,
        }  # fmt: skip
        self._publish(event)
