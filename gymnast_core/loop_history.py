"""What an unattended loop writes of its rounds, as JSON in its folder and on the wire."""

from __future__ import annotations

from typing_extensions import TypedDict

from gymnast_core.evaluation.cards import IntervalFigures, PairedDifference, SuccessCounts
from gymnast_core.json_values import JsonObject, JsonValue


class TriedCandidate(TypedDict):
    """A candidate that a round tried in a blinded canary."""

    candidate: str
    decision: str
    n: int
    difference: IntervalFigures
    rule: dict[str, float]
    trial_id: str
    wins: int
    losses: int


class GatedCandidate(TypedDict):
    """A candidate that went through the gate before any robot got it."""

    candidate: str
    refused: str
    """Why it did not pass; empty where it did."""


class LoopRound(TypedDict, total=False):
    """One round; what comes after its training is there where something was trained."""

    round: int
    policy: str
    before: SuccessCounts
    collected: dict[str, int]
    """Robot -> episodes it recorded for this round."""
    refused: str
    audit: JsonObject
    world_model: str
    judge: str
    judge_trust: JsonObject | None
    sight: JsonObject | None
    """Of the round's dream, on the policy that practised in it; None: not measured. See jobs.spec.Sight."""
    imagined_reward: JsonValue
    gate: list[GatedCandidate]
    canary: list[TriedCandidate]
    promoted: bool
    after: SuccessCounts
    evaluated: dict[str, int]
    """Robot -> episodes of the evaluation after this round."""
    difference: PairedDifference


class LoopHistory(TypedDict, total=False):
    """A loop so far; empty before its first round."""

    name: str
    robots: list[str]
    behind: dict[str, str]
    """Robot that does not run the policy in force, because it was away -> why."""
    state: str
    base_policy: str
    policy: str
    world_model: str
    judge: str
    rounds: list[LoopRound]
    episodes: int
    seconds: float
    before: SuccessCounts
    after: SuccessCounts
    difference: PairedDifference
