"""Trials counted, and two policies compared on the same start states: the numbers of result.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gymnast_core.errors import ContractError
from gymnast_core.statistics import PairCounts, mcnemar_exact, paired_difference

Trials = Mapping[tuple[str, int], bool]
"""(task, seed) -> succeeded."""


def counts(trials: Trials) -> dict[str, Any]:
    """Return {successes, n, tasks: {name: {successes, n}}}."""
    tasks = {name: _count([won for (task, _), won in trials.items() if task == name]) for name in task_names(trials)}
    return {**_count(list(trials.values())), "tasks": tasks}


def difference(before: Trials, after: Trials) -> dict[str, Any]:
    """Return after minus before, paired: {mean, low, high, p, tasks: {name: {mean, low, high}}}.

    Raises:
        ContractError: the two were not tried on the same start states.
    """
    if before.keys() != after.keys():
        odd = sorted(before.keys() ^ after.keys())[:3]
        raise ContractError(
            f"the evaluations differ in their start states, e.g. {odd}; evaluate both on the same seeds"
        )
    keys = list(before)
    pairs = PairCounts.of([before[key] for key in keys], [after[key] for key in keys])
    tasks = {}
    for name in task_names(before):
        own = [key for key in keys if key[0] == name]
        of_task = PairCounts.of([before[key] for key in own], [after[key] for key in own])
        tasks[name] = paired_difference(of_task).to_json()
    return {**paired_difference(pairs).to_json(), "p": mcnemar_exact(pairs), "tasks": tasks}


def trials_of(result: Mapping[str, Any], versions: Sequence[str]) -> dict[str, Trials]:
    """Sort an evaluation's rows by version; an episode without a label is no success."""
    trials: dict[str, dict[tuple[str, int], bool]] = {version: {} for version in versions}
    for row in result["episodes"]:
        trials[row["policy"]][row["task"], row["seed"]] = row["success"] is True
    return dict(trials)


def task_names(trials: Trials) -> list[str]:
    """Names in order of first appearance."""
    return list(dict.fromkeys(task for task, _ in trials))


def _count(outcomes: Sequence[bool]) -> dict[str, int]:
    return {"successes": int(sum(outcomes)), "n": len(outcomes)}
