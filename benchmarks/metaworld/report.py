"""Figures and table of a run in Meta-World: by task, over seeds, paired with the base on the same start states."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.flow_seeds import interval
from benchmarks.metaworld.tasks import MetaWorldTask
from gymnast_core.evaluation.results import Trials, counts, difference

VARIANTS = (
    "base", "behaviour cloning on more data", "GRPO in the dream", "GRPO in the dream, judged at its end",
    "RL with true reward",
)  # fmt: skip


def write_report(
    out: Path, tasks: Sequence[MetaWorldTask], *, json_file: Path | None = None, table_file: Path | None = None
) -> None:
    """Print the table of what was measured so far, and write what is asked for."""
    found = [json.loads(path.read_text()) for path in sorted(out.glob("seed-*/result.json"))]
    rows = [figures(one) for one in found]
    table = markdown(rows, [task.name for task in tasks])
    print(table)
    if json_file:
        json_file.write_text(json.dumps(rows, indent=1) + "\n")
    if table_file:
        table_file.write_text(table)


def figures(result: Mapping[str, Any]) -> dict[str, Any]:
    """A seed's successes by variant and task, and the paired differences from the base and from more imitation."""
    measured = {name: _trials(result["trials"][name]) for name in VARIANTS if _whole(result, name)}
    base, more = (measured.get(name) for name in VARIANTS[:2])
    return {
        "seed": result["seed"],
        "cpu_s": result["cpu_s"],
        "practice": {
            name: {key: value for key, value in told.items() if key not in ("candidates", "chosen")}
            for name, told in result["practice"].items()
        },
        "candidates": [
            {"folder": Path(name.removeprefix("choose ")).name, **_short(counts(_trials(rows)))}
            for name, rows in result["trials"].items() if name.startswith("choose ")
        ],
        "variants": {
            name: {
                **counts(trials),
                **({"minus_base": difference(base, trials)} if base and name != "base" else {}),
                **({"minus_more": difference(more, trials)} if more and name not in VARIANTS[:2] else {}),
            }
            for name, trials in measured.items()
        },
    }  # fmt: skip


def markdown(rows: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> str:
    """One line a variant: by seed, its mean, minus the base with a 95 % interval, and by task."""
    heads = ("policy", "by seed", "mean [95 %, t over seeds]", "minus base, by seed [95 %, paired]", *tasks)
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in VARIANTS:
        there = [row["variants"][name] for row in rows if name in row["variants"]]
        if not there:
            continue
        rates = [one["successes"] / one["n"] for one in there]
        gains = [one["minus_base"] for one in there if "minus_base" in one]
        minus = " ".join(f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]" for gain in gains)
        by_task = [f"{np.mean([_rate(one, task) for one in there]):.2f}" for task in tasks]
        lines.append(
            f"| {' | '.join([name, ' '.join(f'{rate:.3f}' for rate in rates), interval(rates), minus, *by_task])} |"
        )
    return "\n".join(lines) + "\n"


def _whole(result: Mapping[str, Any], name: str) -> bool:
    """Whether a variant was tried in every task that the base was."""
    tried = {row[0] for row in result["trials"].get(name, ())}
    return bool(tried) and tried == {row[0] for row in result["trials"].get("base", ())}


def _rate(count: Mapping[str, Any], task: str) -> float:
    one = count["tasks"].get(task, {"successes": 0, "n": 0})
    return float(one["successes"] / one["n"]) if one["n"] else float("nan")


def _short(count: Mapping[str, Any]) -> dict[str, Any]:
    return {"successes": count["successes"], "n": count["n"]}


def _trials(rows: Sequence[Sequence[Any]]) -> Trials:
    return {(task, start): bool(won) for task, start, won in rows}
