"""How far imagined outcomes may be believed: agreement with what really happened, and the bounds on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from gymnast_core.errors import ConfigError, NotTrustedError
from gymnast_core.types import BoolArray, FloatArray


@dataclass(frozen=True)
class AuditBounds:
    """What reinforcement learning demands of its world model and judge.

    Attributes:
        agreement: least share of held-out episodes whose imagined outcome is the real one.
        false_success: largest P(judge says success | the episode really failed).
        optimism: largest imagined minus real success rate.
        correlation: least Pearson correlation of judge score and real outcome.
        episodes: least number of held-out episodes.
    """

    agreement: float = 0.70
    false_success: float = 0.35
    optimism: float = 0.15
    correlation: float = 0.30
    episodes: int = 40


@dataclass(frozen=True)
class AuditReport:
    """What the audit found on held-out recorded episodes, their actions replayed in the model from the first frame.

    Attributes:
        episodes: how many were judged (abstentions excluded).
        abstained: how many were not.
        agreement: share with imagined outcome = real outcome.
        false_success: P(success imagined | failed really); NaN without a real failure.
        missed_success: P(failure imagined | succeeded really); NaN without a real success.
        imagined_success: share imagined successful.
        real_success: share really successful.
        optimism: imagined_success - real_success.
        correlation: Pearson correlation of judge score and real outcome; 0 when either is constant.
        by_task: instruction -> {episodes, agreement, imagined_success, real_success}.
    """

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

    def to_json(self) -> dict[str, object]:
        """JSON values; NaN becomes null."""
        return {
            name: None if isinstance(value, float) and np.isnan(value) else value
            for name, value in asdict(self).items()
        }


def audit_report(
    imagined_B: BoolArray, judged_B: BoolArray, score_B: FloatArray, real_B: BoolArray, tasks: tuple[str, ...]
) -> AuditReport:
    """Compare imagined with real outcomes.

    Args:
        imagined_B: (B,) bool, the judge said success.
        judged_B: (B,) bool, the judge did not abstain.
        score_B: (B,) float, its score.
        real_B: (B,) bool, the recorded outcome.
        tasks: B instructions.

    Raises:
        ConfigError: nothing was judged.
    """
    if not judged_B.any():
        raise ConfigError(f"nothing to audit: the judge abstained on all {len(judged_B)} episodes")
    imagined, score, real = imagined_B[judged_B], score_B[judged_B], real_B[judged_B]
    names = np.array(tasks)[judged_B]
    constant = real.all() or not real.any() or float(np.ptp(score)) == 0.0
    return AuditReport(
        episodes=len(real),
        abstained=int((~judged_B).sum()),
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
    )


def check_audit(report: AuditReport, bounds: AuditBounds) -> None:
    """Let a trustworthy world model pass.

    Raises:
        NotTrustedError: a bound is broken; the message names every value, its bound and the remedy.
    """
    broken = []
    if report.episodes < bounds.episodes:
        broken.append(f"{report.episodes} episodes judged < {bounds.episodes}")
    if report.agreement < bounds.agreement:
        broken.append(f"agreement {report.agreement:.3f} < {bounds.agreement}")
    if report.false_success > bounds.false_success:
        broken.append(f"P(imagined success | real failure) {report.false_success:.3f} > {bounds.false_success}")
    if report.optimism > bounds.optimism:
        broken.append(f"optimism {report.optimism:+.3f} > {bounds.optimism}")
    if report.correlation < bounds.correlation:
        broken.append(f"correlation {report.correlation:.3f} < {bounds.correlation}")
    if broken:
        raise NotTrustedError(
            "world model fails its audit: " + "; ".join(broken) + ". Collect more on-policy episodes and refine it."
        )
