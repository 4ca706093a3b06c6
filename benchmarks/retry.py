"""Does verify-and-retry gain what a judge's precision and recall promise, and are its false positives as many?

`python -m benchmarks.retry` runs every start up to four times in MuJoCo with the shipped base policy (sampled, as on an
arm no two attempts are alike), through the loop that the robot runs. Three judges decide: two that know the simulator's
state and err at planted rates, and the shipped learned judge, which sees pictures. Beside what was measured stands what
the closed form predicts from the judge's precision and recall on first attempts alone.

The arm goes home and finds the scene as the attempt before left it; beside that, as a control, the same with every
scene laid out anew.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.retry_parts import InProcessArm, PlantedJudge, false_success
from gymnast_core.errors import ContractError
from gymnast_core.evaluation.attempts import Attempt, retry_figures
from gymnast_core.evaluation.statistics import wilson_interval
from gymnast_core.outcome import Judgement, OutcomeJudge
from gymnast_core.policies.processor import use_threads
from gymnast_core.policy import Policy
from gymnast_core.seeds import take
from gymnast_core.types import ByteArray, Outcome
from gymnast_ros.run.episodes import EpisodeRunner
from gymnast_ros.run.operator import SIMULATED_OPERATOR
from gymnast_ros.run.plan import EpisodePlan
from gymnast_ros.run.retry import RetryingRunner

TASKS = ("lift", "push", "put", "drawer")
PLANTED = ((0.95, 0.85), (0.8, 0.6))
"""(precision, recall) on first attempts."""
GRID = tuple((precision, recall) for precision in (0.99, 0.95, 0.9, 0.8, 0.7) for recall in (0.95, 0.85, 0.6))
ATTEMPTS = 4
SEED = 17

Truths = npt.NDArray[np.bool_]
"""(starts, attempts): whether each attempt succeeded, had all before it been judged failures."""


@dataclass(frozen=True)
class JudgeRates:
    """What decides how trying again goes, if every attempt is like the first and errors are independent.

    Attributes:
        pass_1: P(success).
        missed: P(judged a failure | success).
        caught: P(judged a failure | failure).
        fooled: P(judged a success | failure); the rest is abstention.
    """

    pass_1: float
    missed: float
    caught: float
    fooled: float

    @staticmethod
    def of(pass_1: float, precision: float, recall: float) -> JudgeRates:
        """Of a judge that never abstains.

        Raises:
            ContractError: no judge can have these figures.
        """
        fooled = false_success(pass_1, precision, recall)
        if not 0 <= fooled <= 1:
            raise ContractError(f"no judge has precision {precision} and recall {recall} at success {pass_1}")
        return JudgeRates(pass_1, 1 - recall, 1 - fooled, fooled)

    def predict_with(self, later: float, of: int) -> dict[str, float]:
        """As predict(), but every attempt after the first succeeds with probability `later`."""
        if of == 1:
            return self.predict(1)
        rest = replace(self, pass_1=later).predict(of - 1)
        first = self.predict(1)
        stops = self.pass_1 * (1 - self.missed)
        return {
            "pass_n": stops + self.again * rest["pass_n"],
            "attempts": 1.0 + self.again * rest["attempts"],
            "false_positives": first["false_positives"] + self.again * rest["false_positives"],
        }

    @property
    def again(self) -> float:
        """P(judged a failure)."""
        return self.pass_1 * self.missed + (1 - self.pass_1) * self.caught

    def predict(self, of: int) -> dict[str, float]:
        """Return pass_n, attempts, and false_positives as a share of all starts, for at most `of` attempts.

        With q = P(judged a failure), a group reaches attempt k with q^(k-1); it ends there unless that is judged a
        failure and another may follow. So with p = pass_1 and m = P(success, judged a failure)

            pass_N = (p - m) (1 - q^(N-1)) / (1 - q) + p q^(N-1)
            attempts = (1 - q^N) / (1 - q)
            false positives = P(failure, judged a success) (1 - q^N) / (1 - q)

        Without abstentions (p - m) / (1 - q) is the judge's precision: what trying again is bounded by.
        """
        q = self.again
        reached = [q**k for k in range(of)]
        stops = self.pass_1 * (1 - self.missed)
        return {
            "pass_n": stops * sum(reached[:-1]) + self.pass_1 * reached[-1],
            "attempts": sum(reached),
            "false_positives": (1 - self.pass_1) * self.fooled * sum(reached),
        }


def expected(truths_NK: Truths, missed: float, fooled: float, of: int) -> dict[str, float]:
    """Return what JudgeRates.predict does, exact over the errors of a planted judge on these very attempts."""
    truths_NK = truths_NK[:, :of]
    failed_NK = np.where(truths_NK, missed, 1 - fooled)
    reached_NK = np.cumprod(np.hstack([np.ones((len(truths_NK), 1)), failed_NK[:, :-1]]), axis=1)
    ends_NK = np.where(np.arange(of) == of - 1, 1.0, 1 - failed_NK)
    return {
        "pass_n": float((reached_NK * ends_NK * truths_NK).sum(axis=1).mean()),
        "attempts": float(reached_NK.sum(axis=1).mean()),
        "false_positives": float((reached_NK * ~truths_NK * fooled).sum(axis=1).mean()),
    }


class PictureJudge:
    """The shipped learned judge as the robot's OutcomeJudge: first and last frame of the first camera."""

    def __init__(self, folder: Path) -> None:
        from cloud_trainer.judge.learned import LearnedJudge
        from gymnast_core.images import area_downsample

        self._judge, self._small = LearnedJudge.load(folder), area_downsample

    def judge(self, frames: Mapping[str, ByteArray], instruction: str, *, scene: str = "") -> Judgement:
        """See OutcomeJudge."""
        frames_THWC = next(iter(frames.values()))
        small = self._small(frames_THWC[[0, -1]], self._judge.config.image_size)
        score = float(self._judge.scores(small[:1], small[1:], [instruction])[0])
        outcome = self._judge.thresholds.outcome(score)
        return Judgement(outcome, score, len(frames_THWC) - 1, self._judge.version, "first and last frame")


class Bench:
    """The arm in process, with the shipped policy, and the starts.

    Args:
        checkpoints: folder with policy/ and judge/.
        starts: per task.
    """

    def __init__(self, checkpoints: Path, starts: int) -> None:

        from gymnast_core.policies.compact import CompactPolicy

        use_threads()
        self.arm = InProcessArm()
        self.policy: Policy = CompactPolicy.load(checkpoints / "policy")
        self.pictures = PictureJudge(checkpoints / "judge")
        self._runner = EpisodeRunner(lambda: self.arm, None, "sim-0", _label)
        self.plans = [
            EpisodePlan(instruction, name, seed, temperature_seed=SEED, record=False, purpose="evaluate")
            for seed in take("evaluate", SEED, starts)
            for name, instruction in _instructions()
        ]

    def succeeded(self) -> bool:
        """The simulator's state: for planted judges alone."""
        return bool(self.arm.truth["succeeded"])

    def chains(self, anew: bool, say: Callable[[str], None]) -> tuple[Truths, npt.NDArray[np.str_]]:
        """Run every start all its times, whatever came before; returns truths and what the learned judge saw.

        Args:
            anew: lay every scene out anew, as an arm that has somebody beside it.
            say: gets a line now and then.
        """
        truths, seen = [], []
        for number, plan in enumerate(self.plans):
            rows = []
            for index in range(ATTEMPTS):
                attempt = replace(plan, attempt=Attempt("chain", index, ATTEMPTS))
                self.arm.anew = anew
                rows.append(self._runner.run(attempt, self.policy, lambda: False, self.pictures))
            truths.append([bool(row.success) for row in rows])
            seen.append([str((row.judge or {})["outcome"]) for row in rows])
            if number % 40 == 39:
                say(f"{number + 1} of {len(self.plans)} starts, scenes {'anew' if anew else 'kept'}")
        return np.array(truths), np.array(seen)

    def measure(self, judge: OutcomeJudge, truths_NK: Truths) -> dict[str, Any]:
        """Run the robot's loop with a judge; returns its figures.

        Raises:
            ContractError: an attempt went otherwise than in the chains: then those say nothing of the loop.
        """
        self.arm.anew = False
        retrying = RetryingRunner(self._runner, judge, ATTEMPTS, lambda: False)
        for number, plan in enumerate(self.plans):
            group = retrying.again(retrying.first(plan, self.policy), plan, self.policy)
            won = [bool(row.success) for row in group.rows]
            if won != truths_NK[number, : len(won)].tolist():
                raise ContractError(f"start {number} went {won}, and {truths_NK[number].tolist()} in its chain")
        return {**retry_figures([group.counted for group in retrying.groups], ATTEMPTS)}


def _label(truth: Mapping[str, object]) -> tuple[Outcome, str]:
    return (Outcome.SUCCESS if truth["succeeded"] else Outcome.FAILURE), SIMULATED_OPERATOR


def _instructions() -> list[tuple[str, str]]:
    from gymnast_ros.sim.tasks import TASKS as KNOWN

    return [(name, KNOWN[name].instruction) for name in TASKS]


def main() -> int:
    """Run, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=100, help="per task")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    console, began = Console(), time.monotonic()
    bench = Bench(args.checkpoints, args.starts)
    kept_NK, seen_NK = bench.chains(False, console.print)
    anew_NK, seen_anew_NK = bench.chains(True, console.print)
    result: dict[str, Any] = {
        "starts": len(bench.plans), "attempts": ATTEMPTS, "policy": bench.policy.version,
        "kept": _described(kept_NK, bench), "anew": _described(anew_NK, bench),
        "judges": [*_planted(bench, kept_NK, anew_NK), _learned(bench, kept_NK, seen_NK, anew_NK, seen_anew_NK)],
        "grid": {"kept": _grid(kept_NK), "anew": _grid(anew_NK)},
    }  # fmt: skip
    result["seconds"] = time.monotonic() - began
    console.print(_table(result["judges"]))
    console.print(result["kept"], result["anew"], result["grid"])
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    return 0


def _described(truths_NK: Truths, bench: Bench) -> dict[str, Any]:
    """Success by attempt, of all starts and of those that had failed each time before."""
    names = np.array([plan.task for plan in bench.plans])
    failed_NK = np.cumsum(truths_NK, axis=1) == 0
    after = [truths_NK[failed_NK[:, k - 1], k] for k in range(1, truths_NK.shape[1])]
    return {
        "by_attempt": truths_NK.mean(axis=0).tolist(),
        "after_failures": [[int(rows.sum()), len(rows)] for rows in after],
        "first_by_task": {name: float(truths_NK[names == name, 0].mean()) for name in TASKS},
        "pass_n_of_a_perfect_judge": float(truths_NK.any(axis=1).mean()),
    }


def _planted(bench: Bench, kept_NK: Truths, anew_NK: Truths) -> list[dict[str, Any]]:
    rows = []
    for number, (precision, recall) in enumerate(PLANTED):
        rates = JudgeRates.of(float(kept_NK[:, 0].mean()), precision, recall)
        rng = np.random.default_rng([SEED, number])
        judge = PlantedJudge(bench.succeeded, recall=recall, false_success=rates.fooled, rng=rng)
        rows.append({
            "judge": f"planted {precision:g} / {recall:g}", "precision": precision, "recall": recall,
            "rates": vars(rates), "predicted": rates.predict(ATTEMPTS),
            "predicted_by_task": _by_task(bench, kept_NK, rates),
            "second": _second(kept_NK, rates),
            "predicted_with_second": rates.predict_with(_second(kept_NK, rates), ATTEMPTS),
            "expected": expected(kept_NK, rates.missed, rates.fooled, ATTEMPTS),
            "expected_anew": expected(anew_NK, rates.missed, rates.fooled, ATTEMPTS),
            "measured": bench.measure(judge, kept_NK),
        })  # fmt: skip
    return rows


def _second(truths_NK: Truths, rates: JudgeRates) -> float:
    """Success of second attempts: of starts whose first one was judged a failure."""
    weight_N = np.where(truths_NK[:, 0], rates.missed, rates.caught)
    return float((weight_N * truths_NK[:, 1]).sum() / weight_N.sum())


def _by_task(bench: Bench, truths_NK: Truths, rates: JudgeRates) -> dict[str, float]:
    """The closed form for each task by its own success on first attempts, averaged: the judge errs alike in all."""
    names = np.array([plan.task for plan in bench.plans])
    each = [replace(rates, pass_1=float(truths_NK[names == name, 0].mean())).predict(ATTEMPTS) for name in TASKS]
    return {name: float(np.mean([row[name] for row in each])) for name in each[0]}


def _learned(
    bench: Bench, kept_NK: Truths, seen_NK: npt.NDArray[np.str_], anew_NK: Truths, anew_seen_NK: npt.NDArray[np.str_]
) -> dict[str, Any]:
    first, seen = kept_NK[:, 0], seen_NK[:, 0]
    success, failure = seen == Outcome.SUCCESS.value, seen == Outcome.FAILURE.value
    rates = JudgeRates(
        float(first.mean()), float(failure[first].mean()), float(failure[~first].mean()),
        float(success[~first].mean()),
    )  # fmt: skip
    precision = wilson_interval(int((success & first).sum()), int(success.sum()))
    recall = wilson_interval(int((success & first).sum()), int(first.sum()))
    return {
        "judge": "the shipped learned judge", "precision": precision.mean, "recall": recall.mean,
        "precision_interval": precision.to_json(), "recall_interval": recall.to_json(),
        "abstained": float((seen == Outcome.ABSTAIN.value).mean()), "rates": vars(rates),
        "predicted": rates.predict(ATTEMPTS), "predicted_by_task": _by_task(bench, kept_NK, rates),
        "second": _second(kept_NK, rates),
        "predicted_with_second": rates.predict_with(_second(kept_NK, rates), ATTEMPTS),
        "expected": _replayed(kept_NK, seen_NK), "expected_anew": _replayed(anew_NK, anew_seen_NK),
        "measured": bench.measure(bench.pictures, kept_NK),
    }  # fmt: skip


def _replayed(truths_NK: Truths, seen_NK: npt.NDArray[np.str_]) -> dict[str, float]:
    """What the learned judge's own words come to on the chains; it errs the same way each time."""
    ends, false = [], []
    for seen in seen_NK:
        last = next((k for k, word in enumerate(seen) if word != Outcome.FAILURE.value), len(seen) - 1)
        ends.append(last)
        false.append(seen[last] == Outcome.SUCCESS.value)
    rows = np.arange(len(ends))
    won = truths_NK[rows, ends]
    return {
        "pass_n": float(won.mean()), "attempts": float(np.mean(ends) + 1),
        "false_positives": float((np.array(false) & ~won).mean()),
    }  # fmt: skip


def _grid(truths_NK: Truths) -> dict[str, Any]:
    """How far the closed form is off over many planted judges and N = 2, 3, 4, in points."""
    pass_1 = float(truths_NK[:, 0].mean())
    off: dict[str, list[float]] = {"pass_n": [], "attempts": [], "false_positives": []}
    gains = []
    for precision, recall in GRID:
        rates = JudgeRates.of(pass_1, precision, recall)
        for of in range(2, ATTEMPTS + 1):
            there, here = rates.predict(of), expected(truths_NK, rates.missed, rates.fooled, of)
            gains.append((there["pass_n"] - pass_1, here["pass_n"] - pass_1))
            for name, errors in off.items():
                errors.append(there[name] - here[name])
    promised, found = np.array(gains).T
    return {
        "judges": len(GRID), "mean_error": {name: float(np.mean(errors)) for name, errors in off.items()},
        "largest_error": {name: float(max(errors, key=abs)) for name, errors in off.items()},
        "gain_found_of_promised": float(found.sum() / promised.sum()), "correlation": _correlation(promised, found),
    }  # fmt: skip


def _correlation(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if len(x) > 1 and x.std() and y.std() else math.nan


def _table(judges: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=f"pass@1, and after at most {ATTEMPTS} attempts")
    for column in ("judge", "pass@1", "pass@4: closed form", "expected", "measured", "attempts", "false positives"):
        table.add_column(column)
    for row in judges:
        measured, there, here = row["measured"], row["predicted"], row["expected"]
        n = measured["groups"]
        table.add_row(
            row["judge"], _rate(measured["pass_1"]), f"{there['pass_n']:.1%}", f"{here['pass_n']:.1%}",
            _rate(measured["pass_n"]),
            f"{there['attempts']:.2f} / {here['attempts']:.2f} / {measured['attempts']['mean']:.2f}",
            f"{there['false_positives']:.1%} / {here['false_positives']:.1%} / "
            f"{measured['false_positives']['k'] / n:.1%}",
        )  # fmt: skip
    return table


def _rate(share: Mapping[str, Any]) -> str:
    interval = share["interval"]
    return f"{share['k']}/{share['n']} = {interval['mean']:.1%} [{interval['low']:.1%}, {interval['high']:.1%}]"


if __name__ == "__main__":
    raise SystemExit(main())
