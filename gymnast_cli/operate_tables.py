"""What `gymnast operate` shows, as tables for people."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gymnast_cli.plain import plain
from gymnast_cli.retrying import retry_table
from gymnast_core.practice_status import practice_line
from gymnast_core.text import one_line

if TYPE_CHECKING:
    from rich.text import Text


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else one_line(cell) for cell in row))
    return table


def _robots(answer: Mapping[str, Any]) -> Any:
    columns: tuple[str, ...] = (
        "robot", "state", "policy", "gate", "its word", "turned down", "e-stop", "spool", "spoke"
    )  # fmt: skip
    rows: list[tuple[object, ...]] = [
        (
            row["robot"], "silent" if row["silent"] else row.get("state", ""), row.get("policy_version", ""),
            _gate(row["gate"]), _word(row["words"]), _turned_down(row["words"]),
            "stopped" if row.get("estop") else "", row.get("spool", {}).get("entries", 0), f"{row['age_s']:.0f} s ago",
        )
        for row in answer["robots"]
    ]  # fmt: skip
    if any(row.get("practice") for row in answer["robots"]):
        columns = (*columns, "practice")
        rows = [
            (*cells, practice_line(row["practice"]) if row.get("practice") else "")
            for cells, row in zip(rows, answer["robots"], strict=True)
        ]
    return _table(f"robots: {len(rows)}", columns, rows)


def _gate(gate: Mapping[str, object]) -> Text:
    """How what a robot runs came past its gate; an override in red."""
    from rich.text import Text as Styled

    how, mode = str(gate["how"]), str(gate["mode"])
    said = {
        "passed": f"passed {gate['record']}", "override": f"OVERRIDDEN by {gate['by']}: {gate['reason']}",
        "ran": "ran here before", "warned": f"NOT GATED: {gate['reason']}", "off": "NOT GATED",
    }.get(how, "" if mode else "not checked: before gates")  # fmt: skip
    asks = f" (gate: {mode})" if mode in ("warn", "off") else ""
    style = {"override": "bold red", "warned": "yellow", "off": "yellow"}.get(how, "")
    return Styled(one_line(said + asks), style=style)


def _gates(answer: Mapping[str, Any]) -> Any:
    from rich.text import Text

    rows = [
        (
            row["id"], Text(row["decision"], style="" if row["decision"] == "passed" else "bold red"),
            row["incumbent"] or "none", f"{row['candidate_successes']}/{row['n_pairs']}",
            f"{row['incumbent_successes']}/{row['n_pairs']}" if row["incumbent"] else "", row["violations"],
            row["reason"], _moment(row["made_ns"]),
        )
        for row in answer["gates"]
    ]  # fmt: skip
    columns = ("record", "decision", "against", "candidate", "incumbent", "violations", "reason", "made")
    return _table(f"gates of {answer['checkpoint_id']}: {len(rows)}", columns, rows)


def _word(words: Mapping[str, Any]) -> Text:
    """Since when a robot says it runs its policy, and what it was ordered to run and has not said so of."""
    runs, ordered, left = words["runs"], words["ordered"], words["probation_left"]
    lines = [] if runs is None else [f"since {_moment(runs['at_ns'])}"]
    lines += [f"on probation, {left} to go"] if left else []
    lines += [f"checks {words['checking']}"] if words["checking"] else []
    if ordered is not None and not ordered["done"]:
        lines.append(f"ordered {ordered['checkpoint_id']} ({ordered['kind']} {ordered['sequence']}), not yet")
    return _lines(lines)


def _turned_down(words: Mapping[str, Any]) -> Text:
    return _lines([f"{one['checkpoint_id']}: {one['reason']}" for one in words["refused"]])


def _lines(parts: Sequence[str]) -> Text:
    """A cell of several lines, each safe to print."""
    from rich.text import Text as Styled

    return Styled("\n".join(map(one_line, parts)))


def _moment(at_ns: int) -> str:
    return datetime.datetime.fromtimestamp(at_ns / 1e9).isoformat(" ", "seconds")


def _log(answer: Mapping[str, Any]) -> Any:
    hidden = ("action", "by", "role", "tenant", "at_ns", "sequence")
    rows = [
        (
            _moment(entry["at_ns"]), entry["by"],
            entry["action"],
            ", ".join(f"{key} {plain(value)}" for key, value in entry.items() if key not in hidden and value != {}),
        )
        for entry in answer["entries"]
    ]  # fmt: skip
    return _table(f"actions: {len(rows)}, head {answer['head'][:12]}", ("when", "who", "what", "details"), rows)


def _evaluations(answer: Mapping[str, Any]) -> Any:
    names = ("trial_id", "candidate", "incumbent", "decision", "n")
    harmed = [(card.get("guard") or {}).get("decision") == "roll_back" for card in answer["cards"]]
    rows = [
        ["promote, but harm elsewhere" if harm and name == "decision" else card.get(name, "") for name in names]
        for card, harm in zip(answer["cards"], harmed, strict=True)
    ]
    rows += [
        [row["trial_id"], row["candidate"], row["incumbent"], f"{row['state']} {row['reason']}", row["pairs_done"]]
        for row in answer["trials"] if not row["card"]
    ]  # fmt: skip
    return _table(f"trials: {len(rows)}", names, rows)


def _retries(answer: Mapping[str, Any]) -> Any:
    return retry_table([(row["policy"], row["figures"]) for row in answer["retried"]])


def _ledger(answer: Mapping[str, Any]) -> Any:
    found = dict(answer["tasks"])
    if answer["overall"] is not None:
        found["all tasks"] = answer["overall"]
    found |= {f"in {row['world_model']}": row for row in answer["trend"]}
    rates = ("real", "imagined", "bias")
    rows = [
        (name, row["n"], *(plain(row[rate]["mean"]) for rate in rates), plain(row["correlation"]))
        for name, row in found.items()
    ]
    return _table("real against imagined success", ("", "n", *rates, "r"), rows)


def _adaptations(answer: Mapping[str, Any]) -> Any:
    names = ("adaptation_id", "robot", "instruction", "stage", "candidate", "reason")
    rows = [[view[name] for name in names] for view in answer["adaptations"]]
    return _table(f"adaptations: {len(rows)}", names, rows)


def _checkpoints(answer: Mapping[str, Any]) -> Any:
    names = ("checkpoint_id", "kind", "architecture")
    rows = [
        [*(row[name] for name in names), ", ".join(row["parents"]), _moment(row["since_ns"]),
         "won" if row["won"] else "published" if row["published"] else ""]
        for row in answer["checkpoints"]
    ]  # fmt: skip
    return _table(f"checkpoints: {len(rows)}", (*names, "parents", "since", "trial"), rows)


def _scenes(answer: Mapping[str, Any]) -> Any:
    columns = ("robot", "scene", "adapter", "beside", "since", "state", "recognised")
    rows = [
        (
            row["robot"], row["scene"], row["checkpoint_id"], row["base"], _moment(row["since_ns"]),
            "rests: another base is in force" if row["resting"]
            else f"on probation, {row['probation_left']} to go" if row["probation_left"] else "drives there",
            row["recognised"],
        )
        for row in answer["scenes"]
    ]  # fmt: skip
    return _table(f"scenes with an adapter: {len(rows)}", columns, rows)


def _loops(answer: Mapping[str, Any]) -> Any:
    rows = [
        (
            row["name"], ", ".join(row["robots"]), row["started_by"], row["state"],
            len(row["history"].get("rounds", ())),
            row["reason"] or f"{row['step'].replace('/', ' ')}{', stopping' * row['stopping']}",
        )
        for row in answer["loops"]
    ]  # fmt: skip
    return _table(f"loops: {len(rows)}", ("loop", "robots", "by", "state", "rounds", "now"), rows)


TABLES: dict[str, Callable[[Mapping[str, object]], Any]] = {
    "robots": _robots,
    "log": _log,
    "evaluations": _evaluations,
    "retries": _retries,
    "ledger": _ledger,
    "adaptations": _adaptations,
    "scenes": _scenes,
    "loops": _loops,
    "checkpoints": _checkpoints,
    "gates": _gates,
}
"""Action of `gymnast operate` -> its table."""
