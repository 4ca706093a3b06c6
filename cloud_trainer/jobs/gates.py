"""What a policy's practice must get past: the world model's audit, its promotion over its parent, the judge's trust.

Everything is measured on held-out recorded episodes that neither model nor judge was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cloud_trainer.jobs.scene_amounts import TRACKER_EPISODES
from cloud_trainer.jobs.sight import SightGate
from cloud_trainer.judge.drift import Drift, drift_of
from cloud_trainer.judge.trust import ALL_TASKS, JudgeCalibration, compare, require_trusted
from cloud_trainer.practice.dreams import keep_dreams
from cloud_trainer.progress import Progress, ProgressEvent
from cloud_trainer.world_model.audit.audit import require_no_worse, require_trust
from cloud_trainer.world_model.audit.cases import AuditCase, spread_over
from cloud_trainer.world_model.audit.outcomes import Judged, outcome_report
from cloud_trainer.world_model.audit.page import write_audit
from cloud_trainer.world_model.audit.report import AuditReport
from cloud_trainer.world_model.audit.run import draw_cases, dreamt_verdicts, run_audit
from cloud_trainer.world_model.compact.data import Clips, clips_of, starts_of
from cloud_trainer.world_model.starts import StartState
from cloud_trainer.world_model.worlds import World
from gymnast_core.errors import NotTrustedError
from gymnast_core.jobs.audit import OVERRIDABLE, AuditBounds, AuditConfig, PracticeBounds, SceneBounds, check_overrides
from gymnast_core.jobs.practice import RefiningSettings
from gymnast_core.jobs.spec import JudgeDrift, JudgeTrust, Sight
from gymnast_core.judge import Judge, Verdict
from gymnast_core.records.manifest import Manifest
from gymnast_core.types import Episode

CHUNK = 5
"""Steps between looks of the policy: a horizon is cut to whole chunks."""
NO_WORSE = AuditConfig(parts=("pictures", "objects", "obedience"), draws=1)
"""What a refined model is compared with its parent by: no judge, which has learned from one of the two."""


def practice_bounds(calibrated: Mapping[str, Any], named: SceneBounds | None = None) -> AuditBounds:
    """Return the bounds of an audit before practice: the named ones, else the calibrated ones, else the usual ones.

    Args:
        calibrated: what the world model was calibrated to, by name.
        named: of the job; only what it names counts.
    """
    return PracticeBounds(**{**calibrated, **(named.named() if named is not None else {})})


@dataclass(frozen=True)
class Gates:
    """What is demanded before a policy may practise.

    Attributes:
        audit: which parts of the audit are measured.
        bounds: of the audit.
        overrides: what an operator decided to ignore, and why: a bound of the audit, or one of OVERRIDABLE.
        judge_floor: see RefiningSettings.
        judge_task_floor: see PracticeSettings.
        sight: on the policy that practises; None is of no policy.
        check: False measures and refuses nothing.
    """

    audit: AuditConfig
    bounds: AuditBounds
    overrides: Mapping[str, str] = field(default_factory=dict)
    judge_floor: float | None = 0.4
    judge_task_floor: float | None = None
    sight: SightGate | None = None
    check: bool = True

    def __post_init__(self) -> None:
        """Refuse an override of something that is not asked, and one without a reason."""
        check_overrides(self.overrides, {*AuditBounds.model_fields, *OVERRIDABLE} - {"trusted_error"})


def gates_of(config: RefiningSettings, calibrated: Mapping[str, object], sight: SightGate | None = None) -> Gates:
    """Return what stands before practice at home, in a world model calibrated to these bounds."""
    return Gates(
        config.audit, practice_bounds(calibrated, config.bounds), config.overrides, config.judge_floor,
        config.judge_task_floor, sight, config.check,
    )  # fmt: skip


@dataclass(frozen=True)
class Passed:
    """What the gates found.

    Attributes:
        report: of the world model's audit.
        judge: its precision and recall on the same dreams.
        drift: of the judge the job came with, against its own calibration; None where its checkpoint has none.
        horizon: steps a dream may last, whole chunks; None is no cap.
        sight: on the policy that practises; None where it was not asked for, or could not be measured.
        overridden: what was not good enough and is ignored by an operator's decision, and why.
    """

    report: AuditReport
    judge: JudgeCalibration
    drift: Drift | None
    horizon: int | None
    sight: Sight | None = None
    overridden: Mapping[str, str] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """What a result says of the audit, the judge and the cap, by field of DreamResult."""
        drift = self.drift
        return {
            "audit": self.report.summary(),
            "judge_trust": JudgeTrust.model_validate(self.judge.to_json()),
            "judge_drift": drift and JudgeDrift(alarm=drift.alarm, signs=tuple(drift.signs), p_values=drift.p_values),
            "sight": self.sight,
            "horizon": self.horizon,
            "overridden": dict(self.overridden),
        }


def no_worse_than_parent(
    child: World, parent: World, held_out: Sequence[Episode], gates: Gates, *,
    tracker_episodes: Sequence[Episode] = (), seed: int,
) -> str:  # fmt: skip
    """Say why a refined model must not replace its parent; empty when it may.

    Args:
        child: the refined model.
        parent: what it was refined from.
        held_out: labelled episodes.
        gates: their bounds and overrides hold here too.
        tracker_episodes: other episodes of the same camera.
        seed: of the dreams.
    """
    config = NO_WORSE.changed(pictures=gates.audit.pictures, start=gates.audit.start)
    held_out = [episode for episode in held_out if episode.steps > config.start]
    reports = [
        run_audit(
            world.dreamer(), held_out, judge=None, config=config, bounds=gates.bounds, model=world.version, seed=seed,
            tracker_episodes=spread_over(tracker_episodes, TRACKER_EPISODES),
        )
        for world in (child, parent)
    ]  # fmt: skip
    try:
        require_no_worse(*reports, overrides=gates.overrides, seed=seed)
    except NotTrustedError as refusal:
        return str(refusal)
    return ""


def pass_gates(
    world: World,
    judge: Judge,
    held_out: Sequence[Episode],
    gates: Gates,
    folder: Path,
    *,
    tracker_episodes: Sequence[Episode] = (),
    came_with: tuple[Judge, Manifest] | None = None,
    progress: Progress,
    seed: int,
) -> Passed:
    """Audit world model and judge on held-out episodes, write what was found, and refuse what is not good enough.

    Args:
        world: about to be practised in.
        judge: about to reward.
        held_out: labelled episodes; those that end before gates.audit.start are left out.
        gates: what is demanded.
        folder: audit.json, audit.html, judge_trust.json and the dreams go here.
        tracker_episodes: other episodes of the same camera.
        came_with: the judge before its refinement and its manifest, to notice drift; None leaves that out.
        progress: gets the headline figures.
        seed: of the dreams.

    Raises:
        NotTrustedError: a bound is broken, the judge's precision is not proven, or a judge that drifted was not
            refined.
    """
    found = measure_gates(
        world, judge, held_out, gates, folder, tracker_episodes=tracker_episodes, came_with=came_with,
        progress=progress, seed=seed,
    )  # fmt: skip
    if gates.check:
        require_gates(found, gates, unrefined=came_with is not None and came_with[0] is judge)
    return found


def measure_gates(
    world: World, judge: Judge, held_out: Sequence[Episode], gates: Gates, folder: Path, *,
    tracker_episodes: Sequence[Episode] = (), came_with: tuple[Judge, Manifest] | None = None, progress: Progress,
    seed: int,
) -> Passed:  # fmt: skip
    """Measure and write what pass_gates() asks, refusing nothing; arguments as there."""
    progress(ProgressEvent("audit", 0, 1))
    held_out = [episode for episode in held_out if episode.steps > gates.audit.start]
    dreamer = world.dreamer()
    dreams, imagined, recorded = dreamt_verdicts(dreamer, judge, held_out, start=gates.audit.start, seed=seed)
    outcomes = outcome_report(
        Judged.of(judge.version, imagined, held_out), np.random.default_rng(seed),
        on_real=Judged.of(judge.version, recorded, held_out),
    )  # fmt: skip
    cases: list[AuditCase] = draw_cases(dreamer, held_out, gates.audit, seed=seed)
    report = run_audit(
        dreamer, held_out, judge=judge, outcomes=outcomes, cases=cases, config=gates.audit, bounds=gates.bounds,
        tracker_episodes=spread_over(tracker_episodes, TRACKER_EPISODES), model=world.version, seed=seed,
    )  # fmt: skip
    trust = trust_of(judge, imagined, held_out)
    before = came_with[0].judge(dreams) if came_with is not None else []
    drift = None if came_with is None else drift_of(came_with[1], before, held_out)
    write_audit(folder, report, cases, videos=gates.audit.videos)
    trust.write(folder / "judge_trust.json")
    keep_dreams(world, judge, clips_of(held_out, world.image_size), folder, seed=seed)
    progress(ProgressEvent("audit", 1, 1, {"agreement": outcomes.agreement, "optimism": outcomes.optimism}))
    if drift is not None and drift.alarm:
        progress(ProgressEvent("judge_drift", 1, 1, drift.p_values))
    tasks = tuple(dict.fromkeys(episode.instruction for episode in held_out))
    sight = None if gates.sight is None else gates.sight.measured(outcomes)
    broken = {**report.broken, **_judge_problems(trust, drift, sight, gates, tasks)}
    overridden = {name: why for name, why in gates.overrides.items() if name in broken}
    for name in overridden:
        progress(ProgressEvent(f"overridden_{name}", 1, 1))
    return Passed(report, trust, drift, _horizon(report, gates), sight, overridden)


def require_gates(found: Passed, gates: Gates, *, unrefined: bool = False) -> None:
    """Refuse what measure_gates() found, where it is not good enough.

    Raises:
        NotTrustedError: see pass_gates().
    """
    require_trust(found.report, overrides=[name for name in gates.overrides if name not in OVERRIDABLE])
    tasks = tuple(row.task for row in found.judge.tasks if row.task != ALL_TASKS)
    problems = _judge_problems(found.judge, found.drift if unrefined else None, found.sight, gates, tasks)
    for name, problem in problems.items():
        if name not in gates.overrides:
            raise NotTrustedError(f"{problem}, or override by name: {name}")
    if found.horizon is not None and found.horizon < CHUNK:
        raise NotTrustedError(
            f"trust in the dream ends after {found.report.trusted_steps} steps, less than one chunk of {CHUNK}; refine "
            f"the world model, or override by name: trusted_steps"
        )


def _judge_problems(
    trust: JudgeCalibration, drift: Drift | None, sight: Sight | None, gates: Gates, tasks: Sequence[str]
) -> dict[str, str]:
    """What is wrong with the judge, by the name it is overridden by."""
    problems = {}
    for name, floor, asked in (
        ("judge_floor", gates.judge_floor, (ALL_TASKS,)), ("judge_task_floor", gates.judge_task_floor, tasks),
    ):  # fmt: skip
        if floor is not None:
            try:
                require_trusted(trust, trust.judge, asked, floor=floor)
            except NotTrustedError as refusal:
                problems[name] = str(refusal)
    try:
        if gates.sight is not None:
            gates.sight.require(sight)
    except NotTrustedError as refusal:
        problems["sight_floor"] = str(refusal)
    if drift is not None and drift.alarm:
        problems["judge_drift"] = (
            f"judge {trust.judge} has drifted since its calibration ({', '.join(drift.signs)}); refine it "
            f"(judge_iterations above 0) or calibrate it again"
        )
    return problems


def _horizon(report: AuditReport, gates: Gates) -> int | None:
    if report.trusted_steps is None or "trusted_steps" in gates.overrides or not gates.check:
        return None
    return report.trusted_steps // CHUNK * CHUNK


def trust_of(judge: Judge, verdicts: Sequence[Verdict], episodes: Sequence[Episode]) -> JudgeCalibration:
    """Precision and recall of verdicts on dreams against what the operators labelled."""
    labels, tasks = [e.outcome for e in episodes], [e.instruction for e in episodes]
    return compare(judge.version, verdicts, labels, tasks)


def starts_within(clips: Clips, steps: int, horizon: int | None) -> tuple[list[StartState], list[StartState]]:
    """Return (beginnings, keyframes) of which every dream ends inside the trusted horizon.

    Args:
        clips: recorded episodes of any length; one that ended before a start gives none there.
        steps: control steps of a whole dream.
        horizon: see Passed; None or `steps` starts at the beginning, less starts as late as it takes.
    """
    first = 0 if horizon is None else max(0, steps - horizon)
    later = tuple(range(first + CHUNK, steps, CHUNK))
    begin = starts_of(clips, steps=(first,), ends=steps)
    return begin, starts_of(clips, steps=later, ends=steps) if later else []
