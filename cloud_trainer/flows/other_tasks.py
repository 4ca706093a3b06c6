"""The second part of a canary: whether a policy that won in its scene does harm on what else the robot can do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from cloud_trainer.store.episodes import EpisodeCatalogue
from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.cards import PairFigures, ResultCard
from gymnast_core.evaluation.sequential import ALL_TASKS, Decision, HarmRule
from gymnast_core.evaluation.statistics import PairCounts
from gymnast_core.evaluation.trial_plan import TrialPlan
from gymnast_core.types import Outcome

MOST_TASKS = 6
"""Other tasks that are looked at; the most recorded ones."""


def other_tasks(
    catalogue: EpisodeCatalogue, robot: str, instruction: str, asked: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return what else this robot was seen to succeed at: only there something can be lost.

    Args:
        catalogue: of the trainer's episodes.
        robot: the robot they ran on.
        instruction: what was adapted.
        asked: look at these alone; empty is the most recorded ones.

    Raises:
        ConfigError: it was never seen to succeed at one of those asked for.
    """
    rows = catalogue.list(robot=robot, limit=100_000)
    won = Counter(row.instruction for row in rows if row.outcome == Outcome.SUCCESS.value)
    if unknown := [name for name in asked if name not in won]:
        raise ConfigError(
            f"{robot} was not seen to succeed at {unknown}, so nothing can be lost; it was at {list(won)}"
        )
    known = tuple(asked) or tuple(name for name, _ in won.most_common())
    return tuple(name for name in dict.fromkeys(known) if name != instruction)[: None if asked else MOST_TASKS]


def declared(others: Sequence[str], pairs: int) -> str:
    """Say what the second part will be, for the plan of the first."""
    if not pairs:
        return "none is tried: the trainer runs with --guard-pairs 0"
    if not others:
        return "none is tried: this robot was not seen to succeed at any"
    rule = HarmRule(pairs=pairs, tasks=len(others))
    return f"after a win at most {pairs} pairs of each of {', '.join(others)}; alpha {rule.alpha:g} in all"


def guard_plan(canary: TrialPlan, others: tuple[str, ...], pairs: int) -> TrialPlan:
    """Return the plan of the second part: the same two checkpoints, the tasks in turn, other start states."""
    rule, first = HarmRule(pairs=pairs, tasks=len(others)), canary.start_seeds[-1] + 1
    return replace(
        canary, trial_id=canary.trial_id.replace("canary", "guard"), instruction="other tasks", rule=rule,
        tasks=others, start_seeds=tuple(range(first, first + rule.max_pairs)),
    )  # fmt: skip


def reason_of(card: ResultCard) -> str:
    """What a canary's card says of the other tasks, in words; empty where it was not won."""
    if card.get("decision") != Decision.PROMOTE.value:
        return ""
    guard = card.get("guard")
    if not guard:
        return f"it won its canary; of the other tasks {(card['versions'] or {})['other_tasks']}"
    rows = {**guard["by_task"], ALL_TASKS: guard}
    if guard["decision"] == Decision.ROLL_BACK.value:
        counts = {name: PairCounts(**row["counts"]) for name, row in guard["by_task"].items()}
        name = HarmRule.from_json(guard["rule"]).harmed(counts)
        worst = min(guard["by_task"], key=lambda task: guard["by_task"][task]["difference"]["mean"])
        shown = [f"{task}: {_rates(rows[task])} in {rows[task]['n']} pairs" for task in dict.fromkeys((name, worst))]
        return f"it won here, but harm was shown on {', most of it on '.join(shown)}"
    lost = ", ".join(f"{name} {may_be_lost(row):.0%}" for name, row in guard["by_task"].items())
    return (
        f"it won here and no harm was shown on the other tasks: {_rates(guard)} in {guard['n']} pairs; what may be "
        f"lost is up to {may_be_lost(guard):.0%} ({lost})"
    )


def may_be_lost(row: PairFigures) -> float:
    """The largest loss of success that the interval of a result does not exclude."""
    return max(0.0, -float(row["difference"]["low"]))


def _rates(row: PairFigures) -> str:
    change = row["difference"]
    return (
        f"{row['incumbent_success']['mean']:.0%} -> {row['candidate_success']['mean']:.0%} "
        f"[{change['low']:+.0%}, {change['high']:+.0%}]"
    )
