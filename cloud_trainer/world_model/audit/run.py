"""From a dreamer and held-out episodes to a report and a page; `gymnast wm audit` and the training jobs are this."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cloud_trainer.world_model.audit.audit import audit
from cloud_trainer.world_model.audit.cases import (
    AuditCase,
    Dreamer,
    imagine_cases,
    imagined_ends,
    recorded_ends,
    spread_over,
)
from cloud_trainer.world_model.audit.metrics import GripperTracker
from cloud_trainer.world_model.audit.outcomes import Judged, OutcomeReport, outcome_report
from cloud_trainer.world_model.audit.page import write_audit
from cloud_trainer.world_model.audit.report import AuditReport
from gymnast_core.errors import ConfigError, ContractError
from gymnast_core.jobs.audit import AuditBounds, AuditConfig
from gymnast_core.judge import Judge, Verdict
from gymnast_core.types import Episode, Outcome, RolloutBatch


def dreamt_verdicts(
    dreamer: Dreamer, judge: Judge, held_out: Sequence[Episode], *, start: int = 0, seed: int = 0
) -> tuple[RolloutBatch, Sequence[Verdict], Sequence[Verdict]]:
    """Dream the ends of held-out episodes; returns them with the verdicts on them and on the recorded ends.

    Raises:
        ConfigError: an episode has no label.
    """
    if not all(episode.outcome in (Outcome.SUCCESS, Outcome.FAILURE) for episode in held_out):
        raise ConfigError("the audit needs labelled episodes; leave the others out")
    dreams = imagined_ends(dreamer, held_out, start=start, seed=seed)
    recorded = recorded_ends(held_out, dreams.frames_BFHWC.shape[2])
    return dreams, judge.judge(dreams), judge.judge(recorded)


def dreamt_outcomes(
    dreamer: Dreamer, judge: Judge, held_out: Sequence[Episode], *, start: int = 0, seed: int = 0
) -> OutcomeReport:
    """Judge imagined and recorded ends of held-out episodes, and compare with what happened.

    Raises:
        ConfigError: an episode has no label, or all were abstained on.
    """
    _, imagined, recorded = dreamt_verdicts(dreamer, judge, held_out, start=start, seed=seed)
    dreamt, real = (Judged.of(judge.version, verdicts, held_out) for verdicts in (imagined, recorded))
    return outcome_report(dreamt, np.random.default_rng(seed), on_real=real)


def run_audit(
    dreamer: Dreamer,
    held_out: Sequence[Episode],
    *,
    judge: Judge | None,
    tracker_episodes: Sequence[Episode] = (),
    config: AuditConfig | None = None,
    bounds: AuditBounds | None = None,
    outcomes: OutcomeReport | None = None,
    cases: Sequence[AuditCase] | None = None,
    out: Path | None = None,
    model: str = "",
    seed: int = 0,
) -> AuditReport:
    """Audit a world model on episodes it was not trained on.

    Args:
        dreamer: of any world model, see worlds.load_world().
        held_out: labelled real episodes.
        judge: says success or failure; None leaves the outcome bounds broken.
        tracker_episodes: other real episodes of the same camera, to learn reading the gripper from; too few leave the
            motion bounds broken.
        config: which parts; bounds of the others are not demanded.
        bounds: what is demanded.
        outcomes: measured already; None asks the judge.
        cases: dreams of some of held_out that exist already; None draws them.
        out: where audit.json and audit.html go; None writes nothing.
        model: id of the checkpoint.
        seed: of everything random.

    Raises:
        ConfigError: no episodes, an unlabelled one, or one that is in both sets.
    """
    config = config or AuditConfig()
    both = {e.episode_id for e in held_out} & {e.episode_id for e in tracker_episodes}
    if both:
        raise ConfigError(f"episodes {sorted(both)[:3]} are held out and train the tracker; keep the sets apart")
    if cases is None:
        cases = draw_cases(dreamer, held_out, config, seed=seed)
    if outcomes is None and judge is not None and "outcomes" in config.parts:
        outcomes = dreamt_outcomes(dreamer, judge, held_out, start=config.start, seed=seed)
    tracker = _tracker(tracker_episodes, seed) if {"motion", "gripper"} & set(config.parts) else None
    demanded = (bounds or AuditBounds()).only(config.parts)
    report = audit(cases, outcomes=outcomes, tracker=tracker, bounds=demanded, model=model, seed=seed)
    if out is not None:
        write_audit(out, report, cases, videos=config.videos)
    return report


def draw_cases(
    dreamer: Dreamer, held_out: Sequence[Episode], config: AuditConfig, *, seed: int = 0, draws: int | None = None
) -> list[AuditCase]:
    """Dream some held-out episodes frame by frame; none when no part looks at them."""
    if not config.looks:
        return []
    chosen = spread_over(held_out, config.pictures)
    flip = bool({"gripper", "obedience"} & set(config.parts))
    return imagine_cases(dreamer, chosen, draws=draws or config.draws, start=config.start, seed=seed, flip_gripper=flip)


def _tracker(episodes: Sequence[Episode], seed: int) -> GripperTracker | None:
    """A tracker, or None when the episodes are too few to learn one: the report says what that leaves unmeasured."""
    if not episodes:
        return None
    try:
        return GripperTracker.fit(episodes, seed=seed)
    except ContractError:
        return None
