"""Real evaluations beside their replay in imagination: rows of the ledger, made by a job that has no database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from gymnast_core.errors import ContractError
from gymnast_core.jobs.replay import LedgerRow
from gymnast_core.judge import Verdict
from gymnast_core.outcome import judge_in
from gymnast_core.types import Episode, Outcome

Imagine = Callable[[Sequence[Episode]], Sequence[Verdict]]
"""Replays recorded episodes in the world model, same starts and policy or actions, and judges the dreams."""


def rows_of(
    episodes: Sequence[Episode], imagine: Imagine, *, policy: str, world_model: str, judge: str
) -> list[LedgerRow]:
    """Replay a real evaluation in imagination: one row per task.

    Args:
        episodes: of one policy; unlabelled and abstained ones, and what a judge labelled, are skipped.
        imagine: see Imagine.
        policy: checkpoint id.
        world_model: checkpoint id.
        judge: version.

    Raises:
        ContractError: imagine() returned another number of verdicts than episodes.
    """
    labels = (Outcome.SUCCESS, Outcome.FAILURE)
    known = [one for one in episodes if one.outcome in labels and not judge_in(one.labelled_by)]
    verdicts = list(imagine(known)) if known else []
    if len(verdicts) != len(known):
        raise ContractError(f"{len(verdicts)} verdicts for {len(known)} episodes; return one per episode")
    by_task: dict[str, list[tuple[Episode, Verdict]]] = defaultdict(list)
    for episode, verdict in zip(known, verdicts, strict=True):
        by_task[episode.instruction].append((episode, verdict))
    return [_row_of(task, pairs, policy, world_model, judge) for task, pairs in by_task.items()]


def _row_of(
    task: str, pairs: Sequence[tuple[Episode, Verdict]], policy: str, world_model: str, judge: str
) -> LedgerRow:
    decided = [
        (episode.outcome is Outcome.SUCCESS, verdict.outcome is Outcome.SUCCESS)
        for episode, verdict in pairs
        if verdict.outcome in (Outcome.SUCCESS, Outcome.FAILURE)
    ]
    return LedgerRow(
        task=task,
        policy=policy,
        world_model=world_model,
        judge=judge,
        both=decided.count((True, True)),
        real_only=decided.count((True, False)),
        imagined_only=decided.count((False, True)),
        neither=decided.count((False, False)),
        abstained=len(pairs) - len(decided),
        episodes=tuple(episode.episode_id for episode, _ in pairs),
    )
