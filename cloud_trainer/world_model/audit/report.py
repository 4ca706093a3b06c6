"""What an audit found, and which bounds it breaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from cloud_trainer.world_model.audit.figures import (
    ChangeFigures,
    FidelityFigures,
    HorizonStep,
    JumpFigures,
    ObedienceFigures,
    TrustScore,
)
from cloud_trainer.world_model.audit.metrics import LPIPS_NOTE
from cloud_trainer.world_model.audit.outcomes import OutcomeReport
from gymnast_core.errors import CorruptError
from gymnast_core.jobs.audit import AT_LEAST, AuditBounds

MISSING = float("nan")


@dataclass(frozen=True)
class AuditReport:
    """What was found; every value is JSON.

    Attributes:
        model: id of the audited checkpoint.
        outcomes: see outcomes.OutcomeReport; None without a judge.
        pictures: held-out episodes dreamt frame by frame; everything below is about them.
        start: last frame the model was shown.
        horizon: PSNR and SSIM by step.
        psnr_db: mean over all imagined steps.
        psnr_by_episode: episode id -> mean PSNR, for paired comparison with another model.
        lpips: why there is none.
        fidelity: see statistics.action_fidelity; None without a tracker.
        jump: see statistics.jumps.
        change: see statistics.change_recall.
        obedience: see statistics.obedience; empty where nothing was dreamt.
        trust: see trust.DreamTrust; None with one dream per episode.
        bounds: what was demanded; None where nothing was.
        broken: bound name -> what is wrong.
    """

    model: str
    outcomes: OutcomeReport | None
    pictures: int
    start: int
    horizon: Sequence[HorizonStep]
    psnr_db: float
    psnr_by_episode: Mapping[str, float]
    fidelity: FidelityFigures | None
    jump: JumpFigures
    change: ChangeFigures
    trust: TrustScore | None
    bounds: Mapping[str, float | bool | None]
    lpips: str = LPIPS_NOTE
    obedience: ObedienceFigures = field(default_factory=ObedienceFigures)
    broken: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """No bound is broken."""
        return not self.broken

    @property
    def trusted_steps(self) -> int | None:
        """Steps a dream may be believed; None without a trust score."""
        return None if self.trust is None else int(self.trust["trusted_steps"])

    def to_json(self) -> dict[str, object]:
        """JSON values; NaN becomes null."""
        return {**_object_without_nan(asdict(self)), "passed": self.passed}

    def summary(self) -> dict[str, object]:
        """JSON values: the numbers without tables, for results and lineage; outcomes lie at the top."""
        outcomes = {} if self.outcomes is None else self.outcomes.to_json()
        for table in ("intervals", "on_real_frames", "cells"):
            outcomes.pop(table, None)
        measured = {name: value for name, value in scalars(self).items() if np.isfinite(value)}
        score = self.trust
        trust = score and {"coverage": score["coverage"], "rank_r": score["rank_r"], "verdict": score["verdict"]}
        return {**_object_without_nan({**measured, **outcomes}), "pictures": self.pictures, "trust": trust or {},
                "broken": dict(self.broken), "passed": self.passed}  # fmt: skip

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> AuditReport:
        """Read what to_json wrote.

        Raises:
            CorruptError: a field is missing or unknown.
        """
        try:
            kept = {name: value for name, value in values.items() if name != "passed"}
            if kept["outcomes"] is not None:
                kept["outcomes"] = OutcomeReport(**_with_nan(OutcomeReport, kept["outcomes"]))
            return AuditReport(**_with_nan(AuditReport, kept))
        except (TypeError, KeyError) as error:
            raise CorruptError(f"not an audit report: {error}") from error


def scalars(report: AuditReport) -> dict[str, float]:
    """Return the bounded numbers of a report by bound name; NaN where one could not be measured."""
    fidelity, outcomes = report.fidelity or FidelityFigures(), report.outcomes
    found = {
        "episodes": MISSING if outcomes is None else float(outcomes.episodes),
        "pictures": float(report.pictures),
        "psnr_db": report.psnr_db,
        "fidelity_excess_m": fidelity.get("excess_m", MISSING),
        "gripper_response": fidelity.get("gripper_response", MISSING),
        "lag": float(abs(fidelity["lag"])) if fidelity else MISSING,
        "frame_lag": abs(_number(report.obedience.get("frame_lag"))),
        "gripper_change": _number(report.obedience.get("gripper_change")),
        "jump": _number(report.jump["mean"]),
        "change_recall": _number(report.change["mean"]),
        "trusted_steps": _number(report.trusted_steps),
    }
    names = ("agreement", "false_success", "missed_success", "optimism", "correlation")
    numbers = {name: MISSING if outcomes is None else _number(getattr(outcomes, name)) for name in names}
    cells = None if outcomes is None else outcomes.cells.get("pearson_r")
    return {**found, **numbers, "cell_correlation": MISSING if cells is None else cells["value"]}


def broken_bounds(report: AuditReport, bounds: AuditBounds) -> dict[str, str]:
    """Return bound name -> what is wrong; a bounded number that could not be measured is a broken bound."""
    broken = {}
    for name, value in scalars(report).items():
        bound = getattr(bounds, name)
        if bound is None:
            continue
        if not np.isfinite(value):
            broken[name] = (
                f"{name} could not be measured (bound {bound:.4g}); give the audit what it needs or drop the bound"
            )
        elif (value < bound) if name in AT_LEAST else (value > bound):
            broken[name] = f"{name} {value:.4g} {'<' if name in AT_LEAST else '>'} {bound:.4g}"
    trust = report.trust or TrustScore()
    if bounds.coverage and not trust.get("calibrated", False):
        share = trust.get("coverage")
        broken["coverage"] = (
            f"trust band uncalibrated: nominal 90 % covers {share if share is None else round(share, 3)}"
        )
    return broken


def _number(value: float | None) -> float:
    return MISSING if value is None else float(value)


def _with_nan(kind: type[AuditReport] | type[OutcomeReport], values: Mapping[str, Any]) -> dict[str, Any]:
    """Put NaN back where a number was written as null."""
    numbers = {entry.name for entry in fields(kind) if entry.type == "float"}
    return {name: MISSING if value is None and name in numbers else value for name, value in values.items()}


def _object_without_nan(values: Mapping[str, object]) -> dict[str, object]:
    return {name: _without_nan(value) for name, value in values.items()}


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
