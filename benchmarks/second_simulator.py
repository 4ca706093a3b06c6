"""The gate is itself tested: bad policies stopped, good ones passed, time, and how far two simulators agree.

    python -m benchmarks.second_simulator --starts 40 --gates 200 --out benchmarks/second_simulator_cpu2_202611.json

Each policy runs the same starts once in each simulator. Gates are then drawn from the starts in the second one, with
replacement and task by task in turn, as a gate takes them, and decided by the rule that jobs use, one pair at a time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from benchmarks.planted_policies import BAD, GOOD, Maker
from gymnast_core.errors import PolicyFailedError
from gymnast_core.evaluation.gate import GateTest
from gymnast_core.evaluation.gate_tally import KINDS, GateAttempt, GatePair, GateTally
from gymnast_core.evaluation.statistics import pearson, wilson_interval
from gymnast_core.policies.processor import use_threads
from gymnast_core.rollout import GuardedPolicy, run_episode
from gymnast_core.seeds import take
from gymnast_ros.sim.bullet.gate import BulletGate
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.tasks import TASKS

Attempts = Mapping[str, Sequence[GateAttempt]]
"""Task -> its starts, in the order of their seeds."""

PASS = (
    ("shipped", "shipped"), ("shipped, drawn B", "shipped, drawn A"), ("expert", "shipped"), ("expert", ""),
    ("shipped", ""), ("expert again", "expert"), ("expert, 10 mm off", "expert"),
    ("expert, 20 mm off again", "expert, 20 mm off"), ("expert", "expert, 20 mm off"),
    ("expert, 23 mm off", "expert, 26 mm off"),
)  # fmt: skip
"""(candidate, incumbent) that a gate should let through; "" is a first policy."""
STOP = (
    *((name, "expert") for name in BAD), ("drives down", "shipped"), ("does nothing", "shipped"),
    ("wanders", "shipped"), ("races x3", "shipped"), ("asks for NaN", "shipped"), ("drives down", ""),
    ("does nothing", ""), ("expert, 26 mm off", "expert"), ("expert, 23 mm off", "expert"), ("shipped", "expert"),
)  # fmt: skip
"""Those that it should stop."""
CORRELATED = tuple(GOOD)


def in_first(make: Maker, seeds: Sequence[int]) -> list[tuple[str, bool]]:
    """Success in MuJoCo as it is: no gate, nothing varied."""
    env = SimEnv()
    policy, found = make(env), []
    for seed in seeds:
        for task in TASKS:
            try:
                run_episode(env, GuardedPolicy(policy), TASKS[task].instruction, seed=seed)
                found.append((task, env.succeeded()))
            except PolicyFailedError:
                found.append((task, False))
    env.close()
    return found


def in_second(make: Maker, seeds: Sequence[int]) -> tuple[dict[str, list[GateAttempt]], float]:
    """Attempts in Bullet by task, and the CPU seconds of one."""
    gate = BulletGate()
    policy, begun = make(gate.env), time.process_time()
    found: dict[str, list[GateAttempt]] = {task: [] for task in gate.tasks}
    for seed in seeds:
        for task in gate.tasks:
            found[task].append(gate.attempt(policy, task, seed))
    gate.close()
    return found, (time.process_time() - begun) / (len(seeds) * len(gate.tasks))


def decided(
    candidate: Attempts, incumbent: Attempts | None, test: GateTest, rng: np.random.Generator
) -> tuple[bool, int, str]:
    """Run one gate on drawn starts; returns whether it passed, after how many pairs, and why."""
    tasks, tally = list(candidate), GateTally()
    while (finding := test.find(tally)).decision is None:
        task = tasks[tally.n % len(tasks)]
        start = int(rng.integers(min(len(candidate[task]), len((incumbent or candidate)[task]))))
        other = None if incumbent is None else incumbent[task][start]
        tally.add(GatePair(task, start, candidate[task][start], other))
    return finding.decision == "passed", tally.n, finding.reason


def measured(name: str, starts: int) -> dict[str, object]:
    """One policy in both simulators, in a process of its own."""
    use_threads()
    seeds, make = list(take("gate", 0, starts // len(TASKS))), {**GOOD, **BAD}[name]
    first = in_first(make, seeds)
    attempts, seconds = in_second(make, seeds)
    row: dict[str, object] = {
        "mujoco": float(np.mean([done for _, done in first])),
        "attempts": {task: [_row(each) for each in tried] for task, tried in attempts.items()},
        "seconds": seconds,
    }
    row["by_task"] = [
        [float(np.mean([done for task, done in first if task == each.name])), _rate({"": attempts[each.instruction]})]
        for each in TASKS.values()
    ]
    return row


def measure(starts: int, workers: int, kept: Path) -> dict[str, dict[str, object]]:
    """Every policy in both simulators; those in the file `kept` are not run again."""
    rows = json.loads(kept.read_text()) if kept.is_file() else {}
    names = [name for name in {**GOOD, **BAD} if name not in rows]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        asked = {pool.submit(measured, name, starts): name for name in names}
        for done in as_completed(asked):
            name, row = asked[done], done.result()
            rows[name] = row
            kept.write_text(json.dumps(rows))
            print(f"{name:30s} mujoco {row['mujoco']:.2f} bullet {_rate(_attempts(row)):.2f}", flush=True)
    return {name: rows[name] for name in {**GOOD, **BAD}}


def _rate(attempts: Attempts) -> float:
    return float(np.mean([each.succeeded for tried in attempts.values() for each in tried]))


def _row(attempt: GateAttempt) -> list[object]:
    return [attempt.succeeded, sorted(attempt.violations)]


def _attempts(row: Mapping[str, object]) -> dict[str, list[GateAttempt]]:
    tasks = row["attempts"]
    assert isinstance(tasks, dict)
    return {task: [GateAttempt(done, frozenset(kinds)) for done, kinds in tried] for task, tried in tasks.items()}


def verdicts(rows: Mapping[str, Mapping[str, object]], gates: int, test: GateTest) -> list[dict[str, object]]:
    """Every case of PASS and STOP, drawn so many times."""
    found: list[dict[str, object]] = []
    for wanted, cases in (("pass", PASS), ("stop", STOP)):
        for candidate, incumbent in cases:
            rng = np.random.default_rng(len(found))
            mine, other = _attempts(rows[candidate]), _attempts(rows[incumbent]) if incumbent else None
            drawn = [decided(mine, other, test, rng) for _ in range(gates)]
            right = sum(passed == (wanted == "pass") for passed, _, _ in drawn)
            pairs = [n for _, n, _ in drawn]
            found.append({
                "candidate": candidate, "incumbent": incumbent, "wanted": wanted, "right": right, "gates": gates,
                "pairs": [float(np.median(pairs)), float(np.quantile(pairs, 0.9))], "reason": drawn[0][2],
            })  # fmt: skip
            print(f"{wanted} {candidate!r} against {incumbent!r}: {right}/{gates}, {found[-1]['pairs']}", flush=True)
    return found


def table(document: Mapping[str, object]) -> str:
    """Return the results as Markdown."""
    rows, cases = document["policies"], document["cases"]
    assert isinstance(rows, dict)
    assert isinstance(cases, list)
    lines = ["| Policy | Starts | MuJoCo | Bullet | " + " | ".join(KINDS) + " | s an episode |",
             "|---|---|---|---|" + "---|" * (len(KINDS) + 1)]  # fmt: skip
    for name, row in rows.items():
        attempts = _attempts(row)
        every = [each for tried in attempts.values() for each in tried]
        left = [f"{np.mean([kind in each.violations for each in every]):.2f}" for kind in KINDS]
        figures = [str(len(every)), f"{row['mujoco']:.2f}", f"{_rate(attempts):.2f}", *left, f"{row['seconds']:.3f}"]
        lines.append(f"| {name} | " + " | ".join(figures) + " |")
    lines += ["", "| Candidate | Against | Wanted | Right | 95 % interval | Pairs: median, 90 % | First reason |",
              "|---|---|---|---|---|---|---|"]  # fmt: skip
    for case in cases:
        interval, (median, most) = wilson_interval(case["right"], case["gates"]), case["pairs"]
        right = f"{case['right'] / case['gates']:.3f} | {interval.low:.3f}..{interval.high:.3f}"
        named = f"{case['candidate']} | {case['incumbent'] or 'floors'} | {case['wanted']}"
        lines.append(f"| {named} | {right} | {median:.0f}, {most:.0f} | {case['reason']} |")
    return "\n".join(lines)


def summary(rows: Mapping[str, Mapping[str, object]], cases: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Shares of right verdicts, correlations, and the time of a gate."""
    names = [name for name in CORRELATED if name in rows]
    first = [float(str(rows[name]["mujoco"])) for name in names]
    second = [_rate(_attempts(rows[name])) for name in names]
    cells = np.array([cell for name in names for cell in _cells(rows[name])])
    share = {
        wanted: float(np.mean([int(str(c["right"])) / int(str(c["gates"])) for c in cases if c["wanted"] == wanted]))
        for wanted in ("pass", "stop")
    }
    return {
        "right": share, "policies": len(names), "pearson_policies": pearson(first, second), "cells": len(cells),
        "pearson_cells": pearson(cells[:, 0], cells[:, 1]),
        "seconds_an_episode": float(np.median([float(str(row["seconds"])) for row in rows.values()])),
    }  # fmt: skip


def _cells(row: Mapping[str, object]) -> list[list[float]]:
    """Success in both simulators, task by task."""
    found = row["by_task"]
    assert isinstance(found, list)
    return [each[:2] for each in found]


def main() -> None:
    """Measure, decide, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=40, help="of each policy in each simulator")
    parser.add_argument("--gates", type=int, default=200, help="drawn of each case")
    parser.add_argument("--out", type=Path, default=Path("runs/second_simulator.json"))
    parser.add_argument("--workers", type=int, default=2, help="processes")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rows = measure(args.starts, args.workers, args.out.with_suffix(".starts.json"))
    cases = verdicts(rows, args.gates, GateTest())
    document = {"test": GateTest().to_json(), "policies": rows, "cases": cases, "summary": summary(rows, cases)}
    args.out.write_text(json.dumps(document))
    print(table(document))
    print(json.dumps(document["summary"], indent=1))


if __name__ == "__main__":
    main()
