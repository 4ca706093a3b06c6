"""The second part of a canary: whether a policy that won in its scene does harm on what else the robot can do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cloud_trainer.store.episodes import EpisodeCatalogue
from gymnast_core.sequential import ALL_TASKS, Decision, HarmRule
from gymnast_core.statistics import PairCounts
from gymnast_core.trial import TrialPlan
from gymnast_core.types import Outcome

MOST_TASKS = 6
"""Other tasks that are looked at; the most recorded ones."""


def other_tasks(catalogue: EpisodeCatalogue, robot: str, instruction: str) -> tuple[str, ...]:
    """Return what else this robot was seen to succeed at: only there something can be lost."""
    rows = catalogue.list(robot=robot, limit=100_000)
    won = Counter(row.instruction for row in rows if row.outcome == Outcome.SUCCESS.value)
    return tuple(name for name, _ in won.most_common() if name != instruction)[:MOST_TASKS]


def guard_plan(canary: TrialPlan, others: tuple[str, ...], pairs: int) -> TrialPlan:
    """Return the plan of the second part: the same two checkpoints, the tasks in turn, other start states."""
    rule, first = HarmRule(pairs=pairs, tasks=len(others)), canary.start_seeds[-1] + 1
    return replace(
        canary, trial_id=canary.trial_id.replace("canary", "guard"), instruction="other tasks", rule=rule,
        tasks=others, start_seeds=tuple(range(first, first + rule.max_pairs)),
    )  # fmt: skip


def reason_of(card: Mapping[str, Any]) -> str:
    """What a canary's card says of the other tasks, in words; empty where they were not asked."""
    guard = card.get("guard")
    if not guard:
        return ""
    rows = {**guard["by_task"], ALL_TASKS: guard}
    if guard["decision"] == Decision.ROLL_BACK.value:
        counts = {name: PairCounts(**row["counts"]) for name, row in guard["by_task"].items()}
        name = HarmRule(**guard["rule"]).harmed(counts)
        row = rows[name]
        return f"it won here, but harm was shown on {name}: {_rates(row)} in {row['n']} pairs"
    return f"it won here and no harm was shown on the other tasks: {_rates(guard)} in {guard['n']} pairs"


def _rates(row: Mapping[str, Any]) -> str:
    change = row["difference"]
    return (
        f"{row['incumbent_success']['mean']:.0%} -> {row['candidate_success']['mean']:.0%} "
        f"[{change['low']:+.0%}, {change['high']:+.0%}]"
    )
