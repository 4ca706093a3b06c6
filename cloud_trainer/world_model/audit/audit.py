"""How far to trust a world model: measured on held-out real episodes, bounded, and refused where it is out of bounds.

There is one audit. `gymnast wm audit`, the gate before reinforcement learning, the promotion of a refined model and the
benchmarks all call it, with the parts they ask for:

report, cases = run_audit(dreamer, held_out, judge=judge, tracker_episodes=others, config=config, bounds=bounds)
require_trust(report, overrides=())          raises NotTrustedError; reinforcement learning calls this
require_no_worse(child, parent)              raises NotTrustedError; a refined model is not promoted
write_audit(folder, report, cases)           audit.json and audit.html (page.py)
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from cloud_trainer.world_model.audit import statistics as measure
from cloud_trainer.world_model.audit.cases import AuditCase, as_rollouts
from cloud_trainer.world_model.audit.metrics import GripperTracker, psnr
from cloud_trainer.world_model.audit.outcomes import Judged, OutcomeReport, outcome_report
from cloud_trainer.world_model.audit.report import MISSING, AuditReport, broken_bounds, scalars
from cloud_trainer.world_model.audit.trust import measure_trust
from gymnast_core.errors import ConfigError, NotTrustedError
from gymnast_core.evaluation.statistics import bootstrap_difference
from gymnast_core.jobs.audit import AT_LEAST, AuditBounds
from gymnast_core.judge import Judge


def audit(
    cases: Sequence[AuditCase],
    *,
    judge: Judge | None = None,
    outcomes: OutcomeReport | None = None,
    tracker: GripperTracker | None = None,
    bounds: AuditBounds | None = None,
    model: str = "",
    seed: int = 0,
) -> AuditReport:
    """Measure everything that can be, and compare it with the bounds.

    Args:
        cases: held-out episodes and their dreams; none measures outcomes alone.
        judge: says success or failure of the dreams in `cases`; without it and `outcomes` those bounds are broken.
        outcomes: measured already, on more episodes than these cases.
        tracker: reads the gripper off frames; without one the fidelity bounds are broken.
        bounds: what is demanded.
        model: id of the checkpoint.
        seed: of bootstraps and splits.
    """
    bounds, rng = bounds or AuditBounds(), np.random.default_rng(seed)
    if outcomes is None and judge is not None and cases:
        outcomes = judged_cases(cases, judge, rng)
    trust = None
    if len(cases) >= 8 and min(case.imagined_KFHWC.shape[0] for case in cases) > 1:
        trust = measure_trust(cases, allowed_error=bounds.trusted_error, rng=rng).to_json()
    by_episode = {
        case.episode.episode_id: float(psnr(case.real_FHWC, case.imagined_KFHWC[0])[case.start + 1 :].mean())
        for case in cases
    }
    report = AuditReport(
        model=model,
        outcomes=outcomes,
        pictures=len(cases),
        start=cases[0].start if cases else 0,
        horizon=measure.horizon_curve(cases, rng) if cases else [],
        psnr_db=float(np.mean(list(by_episode.values()))) if cases else MISSING,
        psnr_by_episode=by_episode,
        fidelity=None if tracker is None or not cases else measure.action_fidelity(cases, tracker),
        jump=measure.jumps(cases) if cases else {"mean": MISSING, "worst": MISSING},
        change=measure.change_recall(cases),
        obedience=measure.obedience(cases) if cases else {},
        trust=trust,
        bounds=bounds.model_dump(),
    )
    return replace(report, broken=broken_bounds(report, bounds))


def judged_cases(cases: Sequence[AuditCase], judge: Judge, rng: np.random.Generator) -> OutcomeReport:
    """Outcomes of dreams that were drawn frame by frame, and of the real frames: the judge's own mistakes."""
    episodes = [case.episode for case in cases]
    dreamt, real = (
        Judged.of(judge.version, judge.judge(as_rollouts(cases, imagined=imagined)), episodes)
        for imagined in (True, False)
    )
    return outcome_report(dreamt, rng, on_real=real)


def require_trust(report: AuditReport, *, overrides: Collection[str] = ()) -> None:
    """Let a trustworthy model pass.

    Args:
        report: of the audit.
        overrides: names of bounds an operator decided to ignore.

    Raises:
        NotTrustedError: a bound is broken that nobody overrode; the message names value, bound and remedy.
        ConfigError: an override names no bound.
    """
    unknown = set(overrides) - set(report.bounds)
    if unknown:
        raise ConfigError(f"overrides {sorted(unknown)} are no bounds; bounds are {sorted(report.bounds)}")
    left = {name: text for name, text in report.broken.items() if name not in overrides}
    if left:
        raise NotTrustedError(
            f"world model {report.model or '(unnamed)'} fails its audit: {'; '.join(left.values())}. Refine it on more "
            f"on-policy episodes, or override by name: {' '.join(sorted(left))}"
        )


def require_no_worse(
    child: AuditReport, parent: AuditReport, *, overrides: Collection[str] = (), seed: int = 0
) -> None:
    """Let a refined model pass that audits no worse than its parent on the same episodes.

    Worse is: a bound broken that the parent keeps, or a mean PSNR that a paired bootstrap puts below the parent's.

    Raises:
        NotTrustedError: it is worse.
        ConfigError: the two audits have no episode in common.
    """
    shared = sorted(child.psnr_by_episode.keys() & parent.psnr_by_episode.keys())
    if not shared:
        raise ConfigError("the audits of child and parent share no episode; audit both on the same held-out set")
    before, after = ([r.psnr_by_episode[name] for name in shared] for r in (parent, child))
    change = bootstrap_difference(before, after, rng=np.random.default_rng(seed), resamples=2000)
    reasons = [text for name, text in child.broken.items() if name not in parent.broken and name not in overrides]
    if change.high < 0 and "psnr_db" not in overrides:
        reasons.append(f"PSNR {change.mean:+.2f} dB against its parent (95 %: {change.low:+.2f}..{change.high:+.2f})")
    if reasons:
        raise NotTrustedError(
            f"refined model {child.model} audits worse than {parent.model}: {'; '.join(reasons)}. It is not promoted."
        )


def calibrate_bounds(
    reports: Sequence[AuditReport], bounds: AuditBounds, *, sigmas: float = 4.0, shared: float = 0.0
) -> AuditBounds:
    """Tighten or widen the numeric bounds to mean +- sigmas over audits of a model known to be good.

    Args:
        reports: at least 5, on different held-out episodes.
        bounds: those that are None stay so; episodes, lag and trust stay as they are.
        sigmas: distance of the bound.
        shared: episodes of one audit over those of the pool they were all drawn from, [0, 1).

    Source:
        Drawing without replacement from a pool hides the share `shared` of the variance, and the pool's own mean varies
        as well; audits of new episodes vary by (1 + shared) / (1 - shared) of it: Cochran, Sampling Techniques (1977),
        theorem 2.2.
    """
    if not 0 <= shared < 1:
        raise ConfigError(f"shared is {shared}; audits must leave out some of the pool, [0, 1)")
    if len(reports) < 5:
        raise ConfigError(f"bounds need at least 5 audits of a good model, got {len(reports)}")
    measured = [scalars(report) for report in reports]
    changed: dict[str, float] = {}
    for name in measured[0].keys() - {"episodes", "pictures", "lag", "frame_lag", "trusted_steps"}:
        values = np.array([row[name] for row in measured])
        if getattr(bounds, name) is None or not np.isfinite(values).all():
            continue
        deviation = float(values.std(ddof=1)) * math.sqrt((1 + shared) / (1 - shared))
        spread = sigmas * max(deviation, _binomial_spread(name, reports))
        bound = float(values.mean()) + (-spread if name in AT_LEAST else spread)
        is_share = name in ("agreement", "change_recall", "false_success", "missed_success")
        changed[name] = float(np.clip(bound, 0, 1)) if is_share else bound
    return bounds.changed(**changed)


def _binomial_spread(name: str, reports: Sequence[AuditReport]) -> float:
    """Standard error of an outcome rate in one audit: audits that share episodes vary less than new ones will."""
    found = [report.outcomes.intervals for report in reports if report.outcomes is not None]
    by_name = {"false_success": [each.get("false_success") for each in found],
               "missed_success": [each.get("missed_success") for each in found]}  # fmt: skip
    rates = [(rate["rate"], rate["n"]) for rate in by_name.get(name, ()) if rate]
    if not rates:
        return 0.0
    mean, trials = np.mean(rates, axis=0)
    return float(np.sqrt(mean * (1 - mean) / trials))
