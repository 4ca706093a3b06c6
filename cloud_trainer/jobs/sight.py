"""Whether the dream still tells the successes of the policy that practises from its failures.

World model and judge are refined on what a policy did before it improved. Of the improved one they may dream successes
that fail: the reward is then high and teaches nothing, or harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cloud_trainer.world_model.audit.outcomes import OutcomeReport
from gymnast_core.errors import NotTrustedError
from gymnast_core.jobs.practice import RefiningSettings
from gymnast_core.jobs.spec import Sight
from gymnast_core.records.manifest import Manifest


@dataclass(frozen=True)
class SightGate:
    """What is demanded of the sight on one policy.

    Attributes:
        policy: the one that is about to practise.
        floor: the least sight; None asks for nothing.
    """

    policy: str
    floor: float | None

    def measured(self, outcomes: OutcomeReport | None) -> Sight | None:
        """Sight on the policy's own held-out episodes; None where none of them succeeded, or none failed."""
        found = {} if outcomes is None else outcomes.sight
        return Sight(policy=self.policy, floor=self.floor, **found[self.policy]) if self.policy in found else None

    def require(self, sight: Sight | None) -> None:
        """Let practice begin unless the sight is lower than the floor, beyond chance.

        Raises:
            NotTrustedError: it is, or was not measured.
        """
        if self.floor is None:
            return
        if sight is None:
            raise NotTrustedError(
                f"sight on policy {self.policy} was not measured: of its own held-out episodes none succeeded or none "
                f"failed; collect more with it (100 are a beginning)"
            )
        if sight.high < self.floor:
            raise NotTrustedError(
                f"sight on policy {self.policy} is {sight.sight:.2f} (95 %: {sight.low:.2f} to {sight.high:.2f}; its "
                f"{sight.succeeded} successes and {sight.failed} failures that were held out), under the floor "
                f"{self.floor:.2f}: the dream confuses them; collect more with this policy, failures too"
            )


def sight_gate(config: RefiningSettings, policy: Manifest) -> SightGate:
    """Return what is asked for a policy: the floor that is set, or the sight of the practice that it came out of."""
    named = config.sight_floor
    return SightGate(policy.id, _when_made(policy) if named is None else named)


def _when_made(policy: Manifest) -> float | None:
    """Sight on the policy's parent in the audit before the practice that made it; None where there was no such."""
    audit = policy.lineage.get("audit")
    by_policy = audit.get("sight") if isinstance(audit, Mapping) else None
    figures = by_policy.get(policy.parents[0]) if isinstance(by_policy, Mapping) and policy.parents else None
    return float(figures["sight"]) if isinstance(figures, Mapping) else None
