"""The card of an exported checkpoint: README.md with the front matter that the Hugging Face Hub reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from gymnast_core.errors import CheckpointError
from gymnast_core.evaluation.cards import ResultCard
from gymnast_core.evaluation.statistics import Interval, wilson_interval
from gymnast_core.records.gate_record import GateRecord
from gymnast_core.records.manifest import Manifest
from gymnast_core.text import one_line, table_cell

LIBRARY = "gymnast"
LINKED = ("base", "policy", "world_model", "judge")
"""Checkpoints that a lineage names, beside the parents of the manifest."""
DATASETS = ("episodes", "starts", "choosing", "imagined", "recorded")
"""Sets of episodes that a lineage names."""
_MOST_SEEDS = 100


@dataclass(frozen=True)
class Measured:
    """One figure of a checkpoint.

    Attributes:
        metric: its name, e.g. success_rate.
        task: what was asked for; empty is all tasks together.
        where: how it was measured, in words.
        figure: estimate and 95 % interval.
        episodes: it rests on.
        seeds: of their start states, as far as they are known.
    """

    metric: str
    task: str
    where: str
    figure: Interval
    episodes: int
    seeds: tuple[int, ...] = ()


def measured_in(manifest: Manifest) -> list[Measured]:
    """Return what a manifest itself says of how good a judge is; nothing is known of other kinds before they act.

    Raises:
        CheckpointError: it says so in another form than judges are written in.
    """
    calibration = manifest.lineage.get("calibration")
    if manifest.kind != "judge" or not isinstance(calibration, Mapping):
        return []
    try:
        rows = {"": calibration.get("overall", {}), **calibration.get("tasks", {})}
        return [
            Measured(
                name, task, "recorded episodes held out from training", _interval(*row[name]), int(row["examples"])
            )
            for task, row in rows.items()
            for name in ("precision", "recall", "false_success")
            if name in row
        ]
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{manifest.id}: its calibration is none: {error}; calibrate it anew") from error


def _interval(mean: float, low: float, high: float) -> Interval:
    return Interval(float(mean), float(low), float(high))


def measured_on_arms(checkpoint_id: str, cards: Iterable[ResultCard]) -> list[Measured]:
    """Return what decided trials found of a checkpoint.

    Args:
        checkpoint_id: of a policy, which was candidate or incumbent.
        cards: of the trainer.
    """
    found = []
    for card in cards:
        part = next((part for part in ("candidate", "incumbent") if card.get(part) == checkpoint_id), "")
        if not part:
            continue
        trial, judge = card.get("trial_id", "?"), card.get("judge", "") or "operator"
        where = f"trial {trial}: blinded pairs on the arm, labelled by {judge}"
        seeds = tuple(card.get("start_seeds", ()))
        for task, pairs in {card.get("instruction", ""): card, **card.get("by_task", {})}.items():
            figures: Any = pairs.get(f"{part}_success")
            if figures is not None:
                found.append(Measured("success_rate", task, where, Interval(**figures), pairs.get("n", 0), seeds))
    return found


def measured_in_gates(checkpoint_id: str, records: Iterable[GateRecord]) -> list[Measured]:
    """Return what the second simulator found of a checkpoint that was gated."""
    return [
        Measured(
            "success_rate", "", f"gate {record.id} ({record.decision}): {record.simulator}, physics varied",
            wilson_interval(record.candidate_successes, record.n_pairs), record.n_pairs, record.seeds,
        )
        for record in records if record.candidate == checkpoint_id and record.n_pairs
    ]  # fmt: skip


def model_card(manifest: Manifest, measured: Sequence[Measured]) -> str:
    """Return README.md of an exported checkpoint.

    Args:
        manifest: of the checkpoint.
        measured: what is known of how good it is.
    """
    front = yaml.safe_dump(_front(manifest, measured), allow_unicode=True, sort_keys=False, width=120)
    facts = {
        "Kind": manifest.kind,
        "Architecture": manifest.architecture,
        "Action space": manifest.action_space,
        "Weights": f"{manifest.weights_bytes:,} bytes, SHA-256 {manifest.weights_sha256}",
        "Parents": ", ".join(manifest.parents) or "none",
        **{role.replace("_", " ").capitalize(): name for role, name in _linked(manifest).items()},
        **{f"Episodes ({role})": str(number) for role, number in _counted(manifest).items()},
        "Stage": manifest.lineage.get("stage", "unknown"),
        "Seed": manifest.lineage.get("seed", "unknown"),
    }
    table = "\n".join(f"| {fact} | {table_cell(value)} |" for fact, value in facts.items())
    return (
        f"---\n{front}---\n\n# {manifest.id}\n\nWritten by `gymnast weights export`. `gymnast weights import FOLDER` "
        f"reads it back, bit for bit; nothing of it is executed.\n\n| | |\n|---|---|\n{table}\n\n## Measured\n\n"
        f"{_results(measured)}"
    )


def _front(manifest: Manifest, measured: Sequence[Measured]) -> dict[str, Any]:
    return {
        "library_name": LIBRARY,
        "pipeline_tag": "robotics",
        "tags": [LIBRARY, "robotics", manifest.kind.replace("_", "-"), one_line(manifest.architecture)],
        "gymnast": {
            "checkpoint_id": manifest.id,
            "parents": [one_line(parent) for parent in manifest.parents],
            **_linked(manifest),
            "episodes": _counted(manifest),
        },
        **({"model-index": [{"name": manifest.id, "results": _index(measured)}]} if measured else {}),
    }


def _index(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Results as the Hub lists them: one entry per task and way of measuring, which the Hub knows as a data set."""
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for one in measured:
        task, where = one_line(one.task) or "all tasks", one_line(one.where)
        entry = entries.setdefault(
            (task, where),
            {
                "task": {"type": "robotics", "name": task},
                "dataset": {"type": "gymnast-episodes", "name": where},
                "metrics": [],
            },
        )
        interval = [round(one.figure.low, 4), round(one.figure.high, 4)]
        seeds = {"seeds": list(one.seeds[:_MOST_SEEDS])} if one.seeds else {}
        args = {"episodes": one.episodes, "interval_95": interval, **seeds}
        entry["metrics"].append({"type": one.metric, "value": round(one.figure.mean, 4), "args": args})
    return list(entries.values())


def _results(measured: Sequence[Measured]) -> str:
    if not measured:
        return "Nothing yet: no trial was decided and no gate was run of it, as far as this export knows.\n"
    rows = [
        (one.metric, one.task or "all", f"{one.figure.mean:.3f}", f"{one.figure.low:.3f} to {one.figure.high:.3f}",
         one.episodes, _seeds(one.seeds), one.where)
        for one in measured
    ]  # fmt: skip
    head = "| Metric | Task | Value | 95 % interval | Episodes | Seeds | How |\n|---|---|---|---|---|---|---|\n"
    return head + "".join(f"| {' | '.join(map(table_cell, row))} |\n" for row in rows)


def _seeds(seeds: Sequence[int]) -> str:
    if not seeds:
        return "not recorded"
    shown = ", ".join(map(str, seeds[:8]))
    return shown if len(seeds) <= 8 else f"{shown} and {len(seeds) - 8} more"


def _linked(manifest: Manifest) -> dict[str, str]:
    named = {role: manifest.lineage.get(role) for role in LINKED}
    return {role: one_line(name) for role, name in named.items() if isinstance(name, str) and name}


def _counted(manifest: Manifest) -> dict[str, int]:
    sets = {role: manifest.lineage.get(role) for role in DATASETS}
    return {role: len(members) for role, members in sets.items() if isinstance(members, list) and members}
