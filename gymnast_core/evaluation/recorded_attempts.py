"""What trying again came to, read from the episodes that a trainer has: on its page, and by its client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from gymnast_core.errors import ContractError
from gymnast_core.evaluation.attempts import (
    Attempt,
    AttemptGroup,
    JudgedAttempt,
    RetryFigures,
    end_after,
    retry_figures,
)
from gymnast_core.outcome import is_operators
from gymnast_core.types import Outcome

UNFINISHED = "unfinished"
"""How a group ends of which there should be another attempt: it was cancelled, or the rest is still on its way."""
MOST_LOOKED_AT = 2000
"""Newest episodes that a report looks at."""


class RecordedEpisode(Protocol):
    """An episode as a catalogue has it."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """JSON values."""
        ...

    @property
    def outcome(self) -> str:
        """Its label."""
        ...

    @property
    def labelled_by(self) -> str:
        """The label's author."""
        ...

    @property
    def policy_version(self) -> str:
        """What drove."""
        ...


RowT = TypeVar("RowT", bound=RecordedEpisode)


@dataclass(frozen=True)
class RetriedPolicy:
    """What trying again came to with one policy.

    Attributes:
        policy: checkpoint id.
        figures: of its groups.
    """

    policy: str
    figures: RetryFigures


def attempt_of(metadata: Mapping[str, Any]) -> Attempt | None:
    """Return which attempt an episode is; None where its metadata name none, or one that makes no sense."""
    found = metadata.get("attempt")
    if not isinstance(found, Mapping):
        return None
    group, index, of = (found.get(name) for name in ("group", "index", "of"))
    if not isinstance(group, str) or not isinstance(index, int) or not isinstance(of, int):
        return None
    try:
        return Attempt(group, index, of)
    except ContractError:
        return None


def retried(rows: Iterable[RowT]) -> list[RetriedPolicy]:
    """Count the groups among episodes, by policy and most attempts; a group without its first attempt is left out.

    A judge's label is no ground truth: an attempt that no operator labelled, nor a simulator's state, has no success.
    """
    groups: dict[tuple[str, int], dict[str, dict[int, RowT]]] = {}
    for row in rows:
        if (attempt := attempt_of(row.metadata)) is not None and row.policy_version:
            of_policy = groups.setdefault((row.policy_version, attempt.of), {})
            of_policy.setdefault(attempt.group, {})[attempt.index] = row
    return [
        RetriedPolicy(policy, retry_figures([_group(one, of) for one in found.values() if 0 in one], of))
        for (policy, of), found in groups.items()
    ]


def _group(rows: Mapping[int, RecordedEpisode], of: int) -> AttemptGroup:
    known = [rows[index] for index in range(len(rows)) if index in rows]
    return AttemptGroup(tuple(JudgedAttempt(_success(row), _judged(row)) for row in known), _ended(rows, known[-1], of))


def _ended(rows: Mapping[int, RecordedEpisode], last: RecordedEpisode, of: int) -> str:
    if max(rows) != len(rows) - 1:
        return UNFINISHED  # one in between is missing
    cut = str(last.metadata.get("truncated_reason") or "")[:40]
    return end_after(cut, _judged(last), len(rows), of) or UNFINISHED


def _success(row: RecordedEpisode) -> bool | None:
    if row.outcome not in (Outcome.SUCCESS.value, Outcome.FAILURE.value) or not is_operators(row.labelled_by):
        return None
    return row.outcome == Outcome.SUCCESS.value


def _judged(row: RecordedEpisode) -> Outcome:
    found = row.metadata.get("judge")
    word = found.get("outcome") if isinstance(found, Mapping) else None
    return next((outcome for outcome in Outcome if outcome.value == word), Outcome.UNLABELLED)
