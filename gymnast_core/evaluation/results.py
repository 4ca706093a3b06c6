"""Trials counted, and two policies compared on the same start states: the numbers of result.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gymnast_core.errors import ContractError
from gymnast_core.evaluation.cards import PairedDifference, SuccessCount, SuccessCounts
from gymnast_core.evaluation.statistics import PairCounts, mcnemar_exact, paired_difference

Trials = Mapping[tuple[str, int], bool | None]
"""(task, seed) -> succeeded; None where nobody labelled the episode, which is no failure."""


def counts(trials: Trials) -> SuccessCounts:
    """Return {successes, n, unlabelled, tasks: {name: the same}}; n are the labelled ones."""
    tasks = {name: _count([won for (task, _), won in trials.items() if task == name]) for name in task_names(trials)}
    return {**_count(list(trials.values())), "tasks": tasks}


def difference(before: Trials, after: Trials) -> PairedDifference:
    """Return after minus before, paired: {mean, low, high, p, tasks: {name: {mean, low, high}}}.

    A start state that is unlabelled in either is no evidence and is left out.

    Raises:
        ContractError: the two were not tried on the same start states.
    """
    if before.keys() != after.keys():
        odd = sorted(before.keys() ^ after.keys())[:3]
        raise ContractError(
            f"the evaluations differ in their start states, e.g. {odd}; evaluate both on the same seeds"
        )
    both = {key: (won, again) for key, won in before.items() if won is not None and (again := after[key]) is not None}
    pairs = _pairs(list(both.values()))
    tasks = {
        name: paired_difference(_pairs([pair for (task, _), pair in both.items() if task == name])).to_json()
        for name in dict.fromkeys(task for task, _ in both)
    }
    return {**paired_difference(pairs).to_json(), "p": mcnemar_exact(pairs), "tasks": tasks}


def trials_of(result: Mapping[str, Any], versions: Sequence[str]) -> dict[str, Trials]:
    """Sort an evaluation's rows by version."""
    trials: dict[str, dict[tuple[str, int], bool | None]] = {version: {} for version in versions}
    for row in result["episodes"]:
        trials[row["policy"]][row["task"], row["seed"]] = row["success"]
    return dict(trials)


def task_names(trials: Trials) -> list[str]:
    """Names in order of first appearance."""
    return list(dict.fromkeys(task for task, _ in trials))


def _count(outcomes: Sequence[bool | None]) -> SuccessCount:
    labelled = [won for won in outcomes if won is not None]
    return {"successes": sum(labelled), "n": len(labelled), "unlabelled": len(outcomes) - len(labelled)}


def _pairs(pairs: Sequence[tuple[bool, bool]]) -> PairCounts:
    return PairCounts.of([before for before, _ in pairs], [after for _, after in pairs])
