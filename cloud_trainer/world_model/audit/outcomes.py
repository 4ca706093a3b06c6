"""Did dreams end as reality did? Verdicts on imagined ends of held-out episodes beside what really happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from cloud_trainer.world_model.audit.figures import (
    AgreementFigures,
    BootstrapFigures,
    CellFigures,
    MistakeFigures,
    RateFigures,
    SightFigures,
)
from cloud_trainer.world_model.audit.metrics import average_ranks
from gymnast_core.errors import ConfigError, ContractError
from gymnast_core.evaluation.statistics import independent_difference, pearson, wilson_interval
from gymnast_core.judge import Verdict
from gymnast_core.types import BoolArray, Episode, FloatArray, Outcome


@dataclass(frozen=True)
class Judged:
    """What a judge said of B dreams of labelled episodes.

    Attributes:
        judge: its version.
        success_B: (B,) bool, it said success.
        decided_B: (B,) bool, it did not abstain.
        score_B: (B,) float, its score.
        real_B: (B,) bool, the recorded outcome.
        tasks: B instructions.
        policies: B names of the policies that acted.
    """

    judge: str
    success_B: BoolArray
    decided_B: BoolArray
    score_B: FloatArray
    real_B: BoolArray
    tasks: tuple[str, ...]
    policies: tuple[str, ...]

    @staticmethod
    def of(judge: str, verdicts: Sequence[Verdict], episodes: Sequence[Episode]) -> Judged:
        """Put verdicts beside the episodes they are about; unlabelled episodes are left out.

        Raises:
            ContractError: another number of verdicts than episodes.
        """
        if len(verdicts) != len(episodes):
            raise ContractError(f"{len(verdicts)} verdicts for {len(episodes)} episodes; return one per episode")
        labelled = [row for row, e in enumerate(episodes) if e.outcome in (Outcome.SUCCESS, Outcome.FAILURE)]
        success, decided, score = outcomes_of([verdicts[row] for row in labelled])
        chosen = [episodes[row] for row in labelled]
        real = np.array([episode.outcome is Outcome.SUCCESS for episode in chosen], bool)
        tasks = tuple(episode.instruction for episode in chosen)
        return Judged(judge, success, decided, score, real, tasks, tuple(map(policy_of, chosen)))


def outcomes_of(verdicts: Sequence[Verdict]) -> tuple[BoolArray, BoolArray, FloatArray]:
    """Return (B,) success, (B,) decided, (B,) score of verdicts."""
    success = np.array([verdict.outcome is Outcome.SUCCESS for verdict in verdicts], bool)
    decided = np.array([verdict.outcome in (Outcome.SUCCESS, Outcome.FAILURE) for verdict in verdicts], bool)
    return success, decided, np.array([verdict.score for verdict in verdicts], np.float32)


def policy_of(episode: Episode) -> str:
    """The policy that acted in an episode."""
    named = episode.metadata.get("policy")
    versions = [version for version in episode.policy_versions if version]
    return str(named) if named else (versions[0] if versions else "unknown")


@dataclass(frozen=True)
class OutcomeReport:
    """How imagined outcomes compare with real ones.

    Attributes:
        judge: its version.
        episodes: how many were judged (abstentions excluded).
        abstained: how many were not.
        agreement: share with imagined outcome = real outcome.
        false_success: P(judge says success | really failed); NaN without a real failure.
        missed_success: P(judge says failure | really succeeded); NaN without a real success.
        imagined_success: share imagined successful.
        real_success: share really successful.
        optimism: imagined_success - real_success.
        correlation: Pearson correlation of judge score and real outcome; 0 when either is constant.
        by_task: instruction -> {episodes, agreement, imagined_success, real_success}.
        intervals: false_success and missed_success as {rate, low, high, n}; None where there was nothing to count.
        on_real_frames: the same two on the recordings: the judge's own mistakes; None when it was not asked.
        sight: policy -> how well its successes are told from its failures, where it has both.
        cells: real and imagined success per task and policy, with pearson_r, rank_r and policy_order_kept over them.
    """

    judge: str
    episodes: int
    abstained: int
    agreement: float
    false_success: float
    missed_success: float
    imagined_success: float
    real_success: float
    optimism: float
    correlation: float
    by_task: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    intervals: MistakeFigures = field(default_factory=MistakeFigures)
    on_real_frames: MistakeFigures | None = None
    sight: Mapping[str, SightFigures] = field(default_factory=dict)
    cells: AgreementFigures = field(default_factory=AgreementFigures)

    def to_json(self) -> dict[str, object]:
        """JSON values; NaN stays NaN."""
        return asdict(self)


def outcome_report(judged: Judged, rng: np.random.Generator, *, on_real: Judged | None = None) -> OutcomeReport:
    """Compare imagined with real outcomes.

    Args:
        judged: verdicts on dreams.
        rng: of bootstraps.
        on_real: verdicts on the recordings of the same episodes.

    Raises:
        ConfigError: nothing was judged.
    """
    decided = judged.decided_B
    if not decided.any():
        raise ConfigError(f"nothing to audit: the judge abstained on all {len(decided)} episodes")
    imagined, score, real = judged.success_B[decided], judged.score_B[decided], judged.real_B[decided]
    names = np.array(judged.tasks)[decided]
    constant = real.all() or not real.any() or float(np.ptp(score)) == 0.0
    return OutcomeReport(
        judge=judged.judge,
        episodes=len(real),
        abstained=int((~decided).sum()),
        agreement=float((imagined == real).mean()),
        false_success=float(imagined[~real].mean()) if not real.all() else float("nan"),
        missed_success=float((~imagined[real]).mean()) if real.any() else float("nan"),
        imagined_success=float(imagined.mean()),
        real_success=float(real.mean()),
        optimism=float(imagined.mean() - real.mean()),
        correlation=0.0 if constant else float(np.corrcoef(score, real)[0, 1]),
        by_task={
            str(name): {
                "episodes": int((names == name).sum()),
                "agreement": float((imagined == real)[names == name].mean()),
                "imagined_success": float(imagined[names == name].mean()),
                "real_success": float(real[names == name].mean()),
            }
            for name in np.unique(names)
        },
        intervals=outcome_rates(judged),
        on_real_frames=None if on_real is None else outcome_rates(on_real),
        sight=sight_of(judged),
        cells=agreement(judged, rng),
    )


def outcome_rates(judged: Judged) -> MistakeFigures:
    """P(judge says success | really failed) and P(judge says failure | really succeeded), Wilson intervals."""
    failed, succeeded = ~judged.real_B & judged.decided_B, judged.real_B & judged.decided_B
    return {
        "abstained": int((~judged.decided_B).sum()),
        "false_success": _rate(judged.success_B[failed]),
        "missed_success": _rate(~judged.success_B[succeeded]),
    }


def sight_of(judged: Judged) -> dict[str, SightFigures]:
    """Return policy -> its sight, for every policy with a success and a failure that the judge decided on.

    An imagined difference between policies is this share of a real one (Rogan & Gladen 1978); at 0 the judge is blind.
    """
    found: dict[str, SightFigures] = {}
    policies = np.array(judged.policies)
    for policy in dict.fromkeys(judged.policies):
        mine = (policies == policy) & judged.decided_B
        said = [judged.success_B[mine & (judged.real_B == real)] for real in (False, True)]
        if not all(part.size for part in said):
            continue
        (failed, of_failed), (succeeded, of_succeeded) = ((int(part.sum()), int(part.size)) for part in said)
        apart = independent_difference(failed, of_failed, succeeded, of_succeeded)
        found[policy] = SightFigures(
            sight=apart.mean, low=apart.low, high=apart.high, succeeded=of_succeeded, failed=of_failed
        )
    return found


def _rate(hits: BoolArray) -> RateFigures | None:
    """{rate, low, high, n}; None without a trial."""
    if not hits.size:
        return None
    interval = wilson_interval(int(hits.sum()), int(hits.size))
    return {"rate": interval.mean, "low": interval.low, "high": interval.high, "n": int(hits.size)}


def agreement(judged: Judged, rng: np.random.Generator) -> AgreementFigures:
    """Imagined against real success rate per task and policy: Pearson r, rank correlation, order of policies.

    Intervals are 95 % percentile bootstraps over the episodes of each cell.
    """
    cells: dict[tuple[str, str], list[tuple[bool, bool]]] = {}
    rows = zip(judged.tasks, judged.policies, judged.real_B, judged.success_B, judged.decided_B, strict=True)
    for task, policy, real, success, decided in rows:
        if decided:
            cells.setdefault((task, policy), []).append((bool(real), bool(success)))
    keys = sorted(cells)
    pairs = [np.array(cells[key]) for key in keys]
    table: list[CellFigures] = [
        {"task": task, "policy": policy, "n": len(p), "real": _rate(p[:, 0]), "imagined": _rate(p[:, 1])}
        for (task, policy), p in zip(keys, pairs, strict=True)
    ]

    def measured(drawn: Sequence[FloatArray]) -> tuple[float, float, float]:
        real, dreamt = (np.array([p[:, column].mean() for p in drawn]) for column in (0, 1))
        return (
            pearson(real, dreamt),
            pearson(average_ranks(real), average_ranks(dreamt)),
            _order_kept(keys, real, dreamt),
        )

    values = measured(pairs)
    draws = np.array([measured([p[rng.integers(len(p), size=len(p))] for p in pairs]) for _ in range(500)])
    pearson_r, rank_r, kept = (
        BootstrapFigures(value=value, low=_quantile(column, 0.025), high=_quantile(column, 0.975))
        for value, column in zip(values, draws.T, strict=True)
    )
    return {"cells": table, "pearson_r": pearson_r, "rank_r": rank_r, "policy_order_kept": kept}


def _order_kept(keys: Sequence[tuple[str, str]], real: FloatArray, dreamt: FloatArray) -> float:
    """Share of pairs of policies on the same task, really different, that the dream puts in the same order."""
    kept = [
        float(np.sign(dreamt[i] - dreamt[j]) == np.sign(real[i] - real[j]))
        for i in range(len(keys))
        for j in range(i)
        if keys[i][0] == keys[j][0] and real[i] != real[j]
    ]
    return float(np.mean(kept)) if kept else float("nan")


def _quantile(values: FloatArray, share: float) -> float:
    finite = values[np.isfinite(values)]
    return float(np.quantile(finite, share)) if finite.size else float("nan")
