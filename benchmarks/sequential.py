"""The sequential test on planted Bernoulli policies: error rates under peeking after every pair, trials saved.

python -m benchmarks.sequential [--runs 10000] [--seed 0] [--json FILE] [--figure FILE.svg]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from gymnast_core.evaluation.sequential import HarmRule, SequentialRule, log_capital
from gymnast_core.evaluation.statistics import PairCounts, mcnemar_exact

NULLS = (0.05, 0.3, 0.5, 0.62, 0.8, 0.95)
ALTERNATIVES = ((0.62, 0.95), (0.62, 0.80), (0.30, 0.56), (0.62, 0.77))
ALPHA = 0.05
GUARD_PAIRS = (12, 24, 36)


@dataclass(frozen=True)
class Outcomes:
    """Share of runs per decision, and pairs used."""

    promoted: float
    rolled_back: float
    futile: float
    exhausted: float
    median_pairs: float
    mean_pairs: float


def simulate(before: float, after: float, rule: SequentialRule, runs: int, rng: np.random.Generator) -> Outcomes:
    """Play independent planted policies, deciding after every pair as SequentialRule.decide does."""
    before_RN = rng.random((runs, rule.max_pairs)) < before
    after_RN = rng.random((runs, rule.max_pairs)) < after
    wins = np.cumsum(after_RN & ~before_RN, axis=1)
    losses = np.cumsum(before_RN & ~after_RN, axis=1)
    pairs = np.arange(1, rule.max_pairs + 1)
    ties = pairs - wins - losses
    crossed = [
        log_capital(wins, ties, losses) >= -math.log(rule.alpha_promote),
        log_capital(losses, ties, wins) >= -math.log(rule.alpha_roll_back),
        log_capital(losses, ties, wins, -rule.worthwhile) >= -math.log(rule.alpha_futile),
    ]
    never = rule.max_pairs + 1
    first = np.stack([_first(cross & (pairs >= rule.min_pairs), never) for cross in crossed])
    stop = np.minimum(first.min(axis=0), rule.max_pairs)
    which = np.where(first.min(axis=0) == never, 3, first.argmin(axis=0))
    shares = np.bincount(which, minlength=4) / runs
    promoted, rolled_back, futile, exhausted = (float(share) for share in shares)
    return Outcomes(promoted, rolled_back, futile, exhausted, float(np.median(stop)), float(stop.mean()))


def _first(crossed_RN: npt.NDArray[np.bool_], never: int) -> npt.NDArray[np.int64]:
    return np.where(crossed_RN.any(axis=1), crossed_RN.argmax(axis=1) + 1, never)


def fixed_power(before: float, after: float, pairs: int) -> float:
    """Exact power of the two-sided fixed-n McNemar test (alpha 5 %) to show that after is better."""
    p_win, p_loss = after * (1 - before), before * (1 - after)
    power = 0.0
    for wins in range(pairs + 1):
        for losses in range(pairs + 1 - wins):
            if wins > losses and _p_value(wins, losses) <= ALPHA:
                ties = pairs - wins - losses
                ways = math.comb(pairs, wins) * math.comb(pairs - wins, losses)
                power += ways * p_win**wins * p_loss**losses * (1 - p_win - p_loss) ** ties
    return power


_P_VALUES: dict[tuple[int, int], float] = {}


def _p_value(wins: int, losses: int) -> float:
    if (wins, losses) not in _P_VALUES:
        _P_VALUES[wins, losses] = mcnemar_exact(PairCounts(wins, losses, 0, 0))
    return _P_VALUES[wins, losses]


def fixed_pairs(before: float, after: float, power: float, at_most: int = 400) -> int:
    """Smallest n of the fixed test with at least this power, by bisection (power rises but for small steps)."""
    low, high = 1, at_most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fixed_power(before, after, middle) >= power else (middle + 1, high)
    return low


def naive_peeking(rate: float, pairs: int, runs: int, rng: np.random.Generator) -> float:
    """What happens without this test: McNemar at 5 % looked at after every pair, equal policies."""
    before_RN, after_RN = rng.random((runs, pairs)) < rate, rng.random((runs, pairs)) < rate
    wins, losses = np.cumsum(after_RN & ~before_RN, axis=1), np.cumsum(before_RN & ~after_RN, axis=1)
    refuted = np.array([[_p_value(won, lost) <= ALPHA for lost in range(pairs + 1)] for won in range(pairs + 1)])
    return float(refuted[wins, losses].any(axis=1).mean())


def measure(runs: int, seed: int) -> dict[str, Any]:
    """Return every figure of the table."""
    rng = np.random.default_rng(seed)
    rule = SequentialRule()
    nulls = [{"rate": rate, **vars(simulate(rate, rate, rule, runs, rng))} for rate in NULLS]
    worse = [{"before": b, "after": a, **vars(simulate(b, a, rule, runs, rng))} for a, b in ALTERNATIVES]
    better = [{"before": b, "after": a, **vars(simulate(b, a, rule, runs, rng))} for b, a in ALTERNATIVES]
    return {
        "runs": runs,
        "seed": seed,
        "rule": rule.to_json(),
        "equal": nulls,
        "worse": worse,
        "better": better,
        "false_roll_back": _false_roll_back(rule, runs, rng),
        "naive_peeking_error": naive_peeking(0.62, 60, min(runs, 4000), rng),
        "guard": measure_guard(runs, np.random.default_rng(seed)),
        "savings": [_saving(max_pairs, runs, rng) for max_pairs in (32, 40, 60, 100)],
    }


def _false_roll_back(rule: SequentialRule, runs: int, rng: np.random.Generator) -> list[dict[str, float]]:
    """Futility usually ends a trial first and hides the other error; without it, how often is equal called worse?"""
    patient = replace(rule, alpha_futile=1e-9)
    return [{"rate": rate, **vars(simulate(rate, rate, patient, runs, rng))} for rate in NULLS]


def _saving(max_pairs: int, runs: int, rng: np.random.Generator) -> dict[str, float]:
    """62 % against 95 %: pairs of the sequential test and of the fixed test that has the same power."""
    before, after = ALTERNATIVES[0]
    found = simulate(before, after, replace(SequentialRule(), max_pairs=max_pairs), runs, rng)
    fixed = fixed_pairs(before, after, found.promoted)
    return {
        "budget": max_pairs,
        "power": found.promoted,
        "sequential_median": found.median_pairs,
        "sequential_mean": found.mean_pairs,
        "fixed": fixed,
        "median_saved": 1 - found.median_pairs / fixed,
        "mean_saved": 1 - found.mean_pairs / fixed,
    }


def simulate_guard(
    before: Sequence[float], after: Sequence[float], rule: HarmRule, runs: int, rng: np.random.Generator
) -> dict[str, float]:
    """Play planted policies on tasks in turn, deciding after every pair as HarmRule.decide does."""
    names, turn = len(before), np.arange(rule.max_pairs) % len(before)
    before_RN = rng.random((runs, rule.max_pairs)) < np.array(before)[turn]
    after_RN = rng.random((runs, rule.max_pairs)) < np.array(after)[turn]
    crossed = np.zeros((runs, rule.max_pairs), bool)
    bets = [(turn == task, rule.log_bound) for task in range(names)]
    for of_bet, bound in (*bets, *([(turn >= 0, rule.log_bound_together)] if names > 1 else [])):
        wins = np.cumsum(after_RN & ~before_RN & of_bet, axis=1)
        losses = np.cumsum(before_RN & ~after_RN & of_bet, axis=1)
        crossed |= log_capital(losses, np.cumsum(of_bet) - wins - losses, wins) >= bound
    first = _first(crossed, rule.max_pairs)
    return {
        "harm_shown": float(crossed.any(axis=1).mean()),
        "mean_pairs": float(np.minimum(first, rule.max_pairs).mean()),
    }


def measure_guard(runs: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The canary's second part on three other tasks, by pairs of each."""
    cases = {
        "equal, .3 .6 .9": ((0.3, 0.6, 0.9), (0.3, 0.6, 0.9)),
        "equal, .6 each": ((0.6,) * 3, (0.6,) * 3),
        "one task .65 to 0": ((0.65, 0.7, 0.7), (0.0, 0.7, 0.7)),
        "one task .65 to .3": ((0.65, 0.7, 0.7), (0.3, 0.7, 0.7)),
        "the demo's, 82 to 55 of 120": ((0.7, 0.7, 0.65), (0.69, 0.69, 0.0)),
        "25 points in each, .7": ((0.7,) * 3, (0.45,) * 3),
        "10 points in each, .7": ((0.7,) * 3, (0.6,) * 3),
        "10 points better in each": ((0.6,) * 3, (0.7,) * 3),
    }
    return [
        {"case": case, "pairs": pairs, **simulate_guard(*rates, HarmRule(pairs=pairs, tasks=3), runs, rng)}
        for case, rates in cases.items() for pairs in GUARD_PAIRS
    ]  # fmt: skip


def show(result: dict[str, Any], console: Console) -> None:
    """Print the tables for people."""
    errors = Table(title=f"Decisions with a look after every pair, {result['runs']} runs each")
    for column in ("before", "after", "promoted", "rolled back", "futile", "budget spent", "median pairs"):
        errors.add_column(column, justify="right")
    for row in result["equal"]:
        errors.add_row(*_cells({"before": row["rate"], "after": row["rate"], **row}))
    errors.add_section()
    for row in result["worse"]:
        errors.add_row(*_cells(row))
    errors.add_section()
    for row in result["better"]:
        errors.add_row(*_cells(row))
    console.print(errors)
    harm = max(row["rolled_back"] for row in result["false_roll_back"])
    gain = max(row["promoted"] for row in result["false_roll_back"])
    console.print(f"Without the futility stop, equal policies: at most {gain:.2%} promoted, {harm:.2%} rolled back.")
    naive = result["naive_peeking_error"]
    console.print(
        f"For comparison: McNemar at 5 % looked at after each of 60 pairs, 62 % against 62 %: {naive:.1%} wrong.\n"
    )
    savings = Table(title="62 % against 95 %: pairs needed, against the fixed-n test of the same power")
    for column in ("budget", "power", "median", "mean", "fixed n", "median saved", "mean saved"):  # fmt: skip
        savings.add_column(column, justify="right")
    for row in result["savings"]:
        pairs = [f"{row[name]:.0f}" for name in ("sequential_median", "sequential_mean", "fixed")]
        saved = [f"{row[name]:.0%}" for name in ("median_saved", "mean_saved")]
        savings.add_row(f"{row['budget']}", f"{row['power']:.1%}", *pairs, *saved)
    console.print(savings)
    guard = Table(title="Harm on three other tasks after a won canary, a look after every pair")
    for column in ("before and after", "pairs of each", "harm shown", "mean pairs in all"):
        guard.add_column(column, justify="left" if column.startswith("before") else "right")
    for row in result["guard"]:
        guard.add_row(row["case"], f"{row['pairs']}", f"{row['harm_shown']:.2%}", f"{row['mean_pairs']:.0f}")
    console.print(guard)


def _cells(row: dict[str, float]) -> list[str]:
    shares = [f"{row[name]:.2%}" for name in ("promoted", "rolled_back", "futile", "exhausted")]
    return [f"{row['before']:.0%}", f"{row['after']:.0%}", *shares, f"{row['median_pairs']:.0f}"]


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the figure: pairs needed, sequential against fixed, over power."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = result["savings"]
    power = [100 * row["power"] for row in rows]
    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    axes.plot(power, [row["fixed"] for row in rows], "s-", color="#8a8378", label="fixed n, same power")
    axes.plot(power, [row["sequential_mean"] for row in rows], "o--", color="#17718c", label="sequential, mean")
    axes.plot(power, [row["sequential_median"] for row in rows], "o-", color="#17718c", label="sequential, median")
    axes.set(xlabel="power [%]", ylabel="pairs of episodes", ylim=(0, None), title="62 % against 95 % success")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--figure", type=Path, help="also draw this figure (.svg or .png)")
    args = parser.parse_args()
    result = measure(args.runs, args.seed)
    show(result, Console(width=110))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    if args.figure:
        draw(result, args.figure)


if __name__ == "__main__":
    main()
