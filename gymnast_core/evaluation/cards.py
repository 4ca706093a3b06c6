"""What trials and evaluations leave behind, as JSON on disk and on the wire: written by the trainer, read by all.

A card is empty until its trial is decided.
"""

from __future__ import annotations

from typing_extensions import TypedDict

from gymnast_core.json_values import JsonObject


class IntervalFigures(TypedDict):
    """A rate or a difference of rates, with its 95 % interval."""

    mean: float
    low: float
    high: float


class PairCountFigures(TypedDict):
    """What N pairs came to; see statistics.PairCounts."""

    wins: int
    losses: int
    both: int
    neither: int


class PairFigures(TypedDict, total=False):
    """Candidate against incumbent on N pairs of equal starts."""

    n: int
    counts: PairCountFigures
    incumbent_success: IntervalFigures
    candidate_success: IntervalFigures
    difference: IntervalFigures


class FinishedPair(TypedDict):
    """One pair of runs."""

    pair: int
    instruction: str
    attempt: int
    start_seed: int
    candidate_first: bool
    candidate: bool
    incumbent: bool
    episodes: list[str]
    labelled_by: str


class SetAsidePair(TypedDict):
    """A pair that was repeated: an abstention, an e-stop, a scene that was not reset."""

    run: str
    reason: str
    labelled: int


class DeclaredPlan(TypedDict, total=False):
    """What was fixed before the first run; see trial_plan.TrialPlan."""

    trial_id: str
    incumbent: str
    candidate: str
    instruction: str
    rule: dict[str, float]
    start_seeds: list[int]
    judge: str
    judge_calibration: JsonObject | None
    versions: JsonObject | None
    tasks: list[str]


class ResultCard(DeclaredPlan, PairFigures, total=False):
    """Everything needed to believe or to repeat the result of a blinded trial."""

    decision: str
    looser: list[str]
    by_task: dict[str, PairFigures]
    difference_note: str
    pairs: list[FinishedPair]
    set_aside: list[SetAsidePair]
    commitment: str
    secret: str
    journal_head: str
    guard: ResultCard


class BlindedTrial(TypedDict, total=False):
    """What may be seen of a trial while it runs: no checkpoint, no score."""

    trial_id: str
    instruction: str
    pairs_done: int
    max_pairs: int
    set_aside: int
    commitment: str
    decided: bool
    next_run: str | None


class SuccessCount(TypedDict):
    """Labelled episodes (n) and how many succeeded; the rest nobody labelled."""

    successes: int
    n: int
    unlabelled: int


class SuccessCounts(SuccessCount):
    """Of an evaluation, and of each of its tasks."""

    tasks: dict[str, SuccessCount]


class PairedDifference(IntervalFigures):
    """After minus before on the same start states, with McNemar's exact p."""

    p: float
    tasks: dict[str, IntervalFigures]
