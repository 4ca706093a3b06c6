"""The forgetting guard: imagined success on everything else, before and after an adaptation, with its uncertainty.

A dream blurs: it lets some real failures pass and misses some successes, so an imagined loss is smaller than the real
one. What is compared with the bound is therefore not the imagined loss but the most it may really be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from cloud_trainer.jobs.judging import replayed_outcomes
from cloud_trainer.jobs.scene_amounts import CONFIDENCE, cannot_tell, too_few_elsewhere
from cloud_trainer.practice.imagine import imagine_from
from cloud_trainer.progress import Cancelled, never
from cloud_trainer.world_model.audit.outcomes import outcomes_of
from cloud_trainer.world_model.compact.data import Clips, starts_of
from cloud_trainer.world_model.worlds import World
from gymnast_core.errors import ConfigError
from gymnast_core.evaluation.statistics import PairCounts, paired_difference
from gymnast_core.jobs.spec import Remembered
from gymnast_core.judge import Judge
from gymnast_core.policies import load_policy
from gymnast_core.policies.trainable import placed
from gymnast_core.policy import Policy
from gymnast_core.types import BoolArray

LEAST_SIGHT = 0.2
"""Below this the dream hardly distinguishes success from failure, and shows nothing about forgetting."""


@dataclass(frozen=True)
class Forgetting:
    """Success imagined from the same starts, greedy; a start where the judge abstains on either is left out.

    Attributes:
        before: imagined rate of the policy that was adapted.
        after: of the adapted one.
        n: starts judged for both.
        low: imagined after - before, lower end at 95 % one-sided confidence.
        high: upper end.
        sight: P(success imagined | success) - P(success imagined | failure) on held-out recorded episodes: an
            imagined difference is this share of a real one (Rogan & Gladen 1978); None where it was not measured,
            because of one of the two there is none.
        by_task: instruction -> {before, after, n, low, high}.
    """

    before: float
    after: float
    n: int
    low: float
    high: float
    sight: float | None
    by_task: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def most(self) -> float:
        """The most that may really have been lost, 0..1, at 95 % one-sided confidence."""
        return self._most(self.low)

    def _most(self, low: float) -> float:
        return 1.0 if self.sight is None or self.sight < LEAST_SIGHT else min(1.0, -low / self.sight)

    def refusal(self, bound: float) -> str:
        """Say why an adaptation must not be offered; empty when a loss beyond the bound is excluded, or it is 1.

        Over all other tasks, and in each of them: what is lost in one task must not hide behind what others gain.
        """
        if bound >= 1:
            return ""
        if blind := blindness(self.sight):
            return blind
        rows = {
            **self.by_task,
            "the other tasks": {name: getattr(self, name) for name in ("before", "after", "n", "low")},
        }
        worst = min(rows, key=lambda name: rows[name]["low"])
        row, most = rows[worst], self._most(rows[worst]["low"])
        if most <= bound:
            return ""
        return (
            f"may forget up to {most:.2f} of success on {worst!r}, {bound:.2f} is allowed (imagined "
            f"{row['before']:.2f} to {row['after']:.2f}, n = {row['n']:.0f}); shorten it, or collect more elsewhere"
        )

    def record(self, bound: float) -> Remembered:
        """Every figure, with the bound and whether it is kept."""
        return Remembered(**asdict(self), most=self.most, bound=bound, ok=not self.refusal(bound))


def blindness(sight: float | None) -> str:
    """Say why a dream shows nothing about forgetting; empty where it does.

    Args:
        sight: see Forgetting.
    """
    if sight is None:
        return "what it forgets elsewhere was not measured: a success and a failure recorded there are needed for that"
    if sight < LEAST_SIGHT:
        return (
            f"the dream confuses success and failure elsewhere (sight {sight:.2f} < {LEAST_SIGHT}); refine the world "
            "model on more episodes of the other tasks"
        )
    return ""


class ForgettingCheck:
    """Imagines policies from the same recorded starts.

    Args:
        world: the world model at home.
        judge: of the imagined ends.
        clips: recorded elsewhere; neither rehearsed from nor in the world model's refinement, if it is to be believed.
        base: the policy before.
        steps: control steps of a whole dream.
        adapted_to: instruction that was adapted; it is in by_task, and left out of the overall figure.
        seed: of the model's noise.
        device: of large policies, see load_batched.
        cancelled: asked before every step.
    """

    def __init__(
        self, world: World, judge: Judge, clips: Clips, base: Path, *, steps: int, adapted_to: str = "",
        seed: int, device: str = "cpu", cancelled: Cancelled = never,
    ) -> None:  # fmt: skip
        self._world, self._judge, self._clips, self._seed, self._steps = world, judge, clips, seed, steps
        self._texts, self._cancelled, self._device = np.array(clips.instructions), cancelled, device
        self._other = self._texts != adapted_to if (self._texts != adapted_to).any() else np.ones(len(clips), bool)
        self._before = self._dream(base)
        self._decided = (0, 0)
        self._sight = self._measure_sight()

    def of(self, after: Path) -> Forgetting:
        """Compare one adapted checkpoint with the base."""
        return self._beside(*self._dream(after))

    def refusal_beforehand(self, bound: float) -> str:
        """Say why no candidate that keeps what the base can do will be let through; empty where one may be.

        Args:
            bound: see Forgetting.refusal().
        """
        if bound >= 1:
            return ""
        if self._sight is None:
            return cannot_tell(*self._decided)
        if blind := blindness(self._sight):
            return blind
        same = self._beside(*self._before)
        tasks = {text: (int(row["n"]), float(row["before"])) for text, row in same.by_task.items()}
        return too_few_elsewhere(tasks, bound * self._sight)

    def _beside(self, success: BoolArray, sure: BoolArray) -> Forgetting:
        before, sure_before = self._before
        both = sure & sure_before
        rows = {str(text): _compared(before, success, both & (self._texts == text)) for text in np.unique(self._texts)}
        whole = _compared(before, success, both & self._other)
        by_task = {text: row for text, row in rows.items() if row["n"]}
        if not whole["n"]:
            return Forgetting(0.0, 0.0, 0, -1.0, 1.0, self._sight, by_task)
        return Forgetting(n=int(whole.pop("n")), sight=self._sight, by_task=by_task, **whole)

    def _dream(self, folder: Path) -> tuple[BoolArray, BoolArray]:
        starts, policy = starts_of(self._clips, ends=self._steps), load_batched(folder, device=self._device)
        rollouts = imagine_from(self._world, starts, policy, seed=self._seed, cancelled=self._cancelled)
        success, decided, _ = outcomes_of(self._judge.judge(rollouts))
        return success, decided

    def _measure_sight(self) -> float | None:
        """From how the recorded episodes themselves end when dreamed again."""
        try:
            report = replayed_outcomes(
                self._world, self._judge, self._clips, seed=self._seed, cancelled=self._cancelled
            )
        except ConfigError:
            return None
        won = round(report.episodes * report.real_success)
        self._decided = won, report.episodes - won
        sight = 1.0 - report.missed_success - report.false_success
        return float(sight) if np.isfinite(sight) else None


def _compared(before: BoolArray, after: BoolArray, rows: BoolArray) -> dict[str, float]:
    if not rows.any():
        return {"before": 0.0, "after": 0.0, "n": 0, "low": -1.0, "high": 1.0}
    change = paired_difference(PairCounts.of(before[rows], after[rows]), confidence=CONFIDENCE)
    rates = {"before": float(before[rows].mean()), "after": float(after[rows].mean())}
    return {**rates, "n": int(rows.sum()), "low": change.low, "high": change.high}


def load_batched(folder: Path, *, device: str = "cpu") -> Policy:
    """Load a policy for large imagined batches: a compact one, adapted or not, takes all rows in one product.

    A large one is put on a device, see placement.device_of.
    """
    policy = placed(load_policy(folder), device)
    inner: object = getattr(policy, "base", policy)
    if hasattr(inner, "row_by_row"):
        inner.row_by_row = False
    return policy
