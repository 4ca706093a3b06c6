"""`gymnast operate`: what the operator's page shows and does, without a browser, from anywhere."""

from __future__ import annotations

import argparse
import datetime
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from gymnast_cli.connect import add_trainer_arguments, console_client, emit
from gymnast_cli.scene_request import add_scene_arguments, scene_form
from gymnast_core.errors import ConfigError
from gymnast_core.text import one_line

if TYPE_CHECKING:
    from gymnast_ros.uplink import ConsoleClient

STEPS = ("collect", "train", "reuse", "approve", "reject", "cancel")
POLL_S = 0.5
NOT_KEPT = 3
"""Exit code when what was waited for was refused, reverted, cancelled or failed, or the trial was not won."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    shown = [
        actions.add_parser("robots", help="what every robot last said, and how long ago"),
        actions.add_parser("log", help="who did what"),
        actions.add_parser("evaluations", help="trials and their result cards"),
        actions.add_parser("ledger", help="real against imagined success, per task and world model"),
        actions.add_parser("adaptations", help="every adaptation to a scene, and where it is"),
    ]
    offer = actions.add_parser("offer", help="offer a checkpoint of the trainer to robots, for a trial there (admin)")
    offer.add_argument("checkpoint_id")
    offer.add_argument("--robot", action="append", required=True, metavar="NAME", help="may be repeated")
    promote = actions.add_parser(
        "promote", help="have robots run a checkpoint that has won its trial, from their next episode on (admin)"
    )
    promote.add_argument("checkpoint_id")
    promote.add_argument("--robot", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    trial = actions.add_parser("try", help="begin a blinded trial of a checkpoint on a robot; prints the id")
    trial.add_argument("checkpoint_id", help="the candidate, which the robot must have been offered")
    trial.add_argument("--robot", required=True, metavar="NAME")
    trial.add_argument(
        "--instruction", required=True, action="append", help="what it shall do; of several, pairs take turns"
    )
    trial.add_argument("--against", default="", metavar="ID", help="checkpoint (default: what the robot runs)")
    trial.add_argument("--scene", default="", help="the robot's name for where it stands (default: the trainer's)")
    trial.add_argument("--pairs", type=int, help="at most so many (default: the rule's)")
    stop = actions.add_parser("stop-trial", help="end a trial; nothing is concluded from it")
    stop.add_argument("trial_id")
    adapt = actions.add_parser("adapt", help="begin to adapt a robot to the scene before it; prints the id")
    adapt.add_argument("robot")
    add_scene_arguments(adapt)
    step = actions.add_parser("step", help="go on with an adaptation: " + ", ".join(STEPS))
    step.add_argument("adaptation_id")
    step.add_argument("step", choices=STEPS)
    step.add_argument("--revision", type=int, help="what you decided on (default: as it is now)")
    step.add_argument("--minutes", type=float, help="train: cut off after so long (default 60)")
    step.add_argument("--rollouts", type=int, help="train: budget in imagined rollouts (default 5000)")
    step.add_argument("--money", type=float, help="train: budget in the trainer's currency (default 5)")
    step.add_argument("--mode", help="train: lora or full (default: the trainer's first)")
    step.add_argument("--episodes", type=int, help="collect: so many real ones (default 10)")
    step.add_argument("--adapter", help="reuse: which kept one")
    for action in (adapt, step, trial):
        action.add_argument("--wait", action="store_true", help="until it is over or waits for a decision")
    for action in (*shown, offer, promote, trial, stop, adapt, step):
        add_trainer_arguments(action)


def run(args: argparse.Namespace, console: Console) -> int:
    """Do it."""
    with console_client(args) as page:
        if args.action in TABLES:
            answer = page.get(f"/api/{args.action}")
            emit(args, console, answer, TABLES[args.action](answer))
            return 0
        actions = {
            "offer": _offer,
            "promote": _promote,
            "try": _try,
            "stop-trial": _stop_trial,
            "adapt": _adapt,
            "step": _step,
        }
    return actions[args.action](page, args, console)


def _offer(page: ConsoleClient, args: argparse.Namespace, console: Console) -> int:
    answer = page.post(f"/checkpoints/{args.checkpoint_id}/publish", {"robots": ",".join(args.robot)})
    emit(args, console, answer, str(answer["said"]))
    return 0


def _promote(page: ConsoleClient, args: argparse.Namespace, console: Console) -> int:
    answer = page.post(f"/checkpoints/{args.checkpoint_id}/promote", {"robots": ",".join(args.robot)})
    emit(args, console, answer, str(answer["said"]))
    return 0


def _try(page: ConsoleClient, args: argparse.Namespace, console: Console) -> int:
    names = ("robot", "against", "scene", "pairs")
    values = {name: str(getattr(args, name)) for name in names if getattr(args, name) is not None}
    values |= {"tasks": json.dumps(args.instruction), "key": secrets.token_hex(12)}
    said = str(page.post(f"/checkpoints/{args.checkpoint_id}/try", values)["said"])
    view = trial_of(page, values["key"])
    while args.wait and view["state"] == "running":
        time.sleep(POLL_S)
        view = trial_of(page, values["key"])
    decision = view["card"].get("decision", "")
    text = f"{view['trial_id']}: {view['state']} {decision or view['reason']}".rstrip() if args.wait else said
    emit(args, console, {"said": said, **view}, text)
    return NOT_KEPT if args.wait and decision != "promote" else 0


def trial_of(page: ConsoleClient, key: str) -> Mapping[str, Any]:
    """A trial of the page, as far as it may be seen, by the key it was begun with."""
    return next(row for row in page.get("/api/evaluations")["trials"] if row["key"] == key)


def _stop_trial(page: ConsoleClient, args: argparse.Namespace, console: Console) -> int:
    answer = page.post(f"/evaluations/{args.trial_id}/stop", {})
    emit(args, console, answer, str(answer["said"]))
    return 0


def _adapt(page: ConsoleClient, args: argparse.Namespace, console: Console) -> int:
    answer = page.post("/adapt", scene_form(args, args.robot))
    adaptation_id = str(answer["go"]).rpartition("/")[2]
    return _tell(page, adaptation_id, str(answer["said"]), args, console)


def _step(page: ConsoleClient, args: argparse.Namespace, console: Console) -> int:
    names = ("minutes", "rollouts", "money", "mode", "episodes", "adapter")
    values = {name: str(getattr(args, name)) for name in names if getattr(args, name) is not None}
    if args.step == "reuse" and not args.adapter:
        raise ConfigError("reuse which adapter? give --adapter ID; `gymnast operate adaptations --json` lists them")
    revision = args.revision
    if revision is None:
        revision = page.get(f"/api/adaptations/{args.adaptation_id}")["revision"]
    answer = page.post(f"/adapt/{args.adaptation_id}/{args.step}", {**values, "revision": str(revision)})
    return _tell(page, args.adaptation_id, str(answer["said"]), args, console)


def _tell(page: ConsoleClient, adaptation_id: str, said: str, args: argparse.Namespace, console: Console) -> int:
    """Say where it is now, after waiting where that was asked for."""
    path = f"/api/adaptations/{adaptation_id}"
    view = page.get(path)
    while args.wait and view["busy"]:
        time.sleep(POLL_S)
        view = page.get(path)
    text = f"{adaptation_id}: {said}" if not args.wait else f"{adaptation_id}: {view['stage']} {view['reason']}"
    emit(args, console, {"said": said, **view}, text.rstrip())
    return NOT_KEPT if args.wait and view["stage"] in ("refused", "reverted", "cancelled", "failed") else 0


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    from rich.table import Table

    table = Table(title=title)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(one_line, row))
    return table


def _robots(answer: Mapping[str, Any]) -> Any:
    columns = ("robot", "state", "policy", "its word", "turned down", "e-stop", "spool", "spoke")
    rows = [
        (
            row["robot"], "silent" if row["silent"] else row.get("state", ""), row.get("policy_version", ""),
            _word(row["words"]), _turned_down(row["words"]),
            "stopped" if row.get("estop") else "", row.get("spool", {}).get("entries", 0), f"{row['age_s']:.0f} s ago",
        )
        for row in answer["robots"]
    ]  # fmt: skip
    return _table(f"{len(rows)} robots", columns, rows)


def _word(words: Mapping[str, Any]) -> str:
    """Since when a robot says it runs its policy, and what it was ordered to run and has not said so of."""
    runs, ordered, left = words["runs"], words["ordered"], words["probation_left"]
    lines = [] if runs is None else [f"since {_moment(runs['at_ns'])}"]
    lines += [f"on probation, {left} to go"] if left else []
    lines += [f"checks {words['checking']}"] if words["checking"] else []
    if ordered is not None and not ordered["done"]:
        lines.append(f"ordered {ordered['checkpoint_id']} ({ordered['kind']} {ordered['sequence']}), not yet")
    return "\n".join(lines)


def _turned_down(words: Mapping[str, Any]) -> str:
    return "\n".join(f"{one['checkpoint_id']}: {one['reason']}" for one in words["refused"])


def _moment(at_ns: int) -> str:
    return datetime.datetime.fromtimestamp(at_ns / 1e9).isoformat(" ", "seconds")


def _log(answer: Mapping[str, Any]) -> Any:
    hidden = ("action", "by", "role", "tenant", "at_ns")
    rows = [
        (
            _moment(entry["at_ns"]), entry["by"],
            entry["action"], ", ".join(f"{key} {value}" for key, value in entry.items() if key not in hidden),
        )
        for entry in answer["entries"]
    ]  # fmt: skip
    return _table(f"{len(rows)} actions, head {answer['head'][:12]}", ("when", "who", "what", "details"), rows)


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
    return _table(f"{len(rows)} trials", names, rows)


def _ledger(answer: Mapping[str, Any]) -> Any:
    found = dict(answer["tasks"])
    if answer["overall"] is not None:
        found["all tasks"] = answer["overall"]
    found |= {f"in {row['world_model']}": row for row in answer["trend"]}
    rates = ("real", "imagined", "bias")
    rows = [
        (name, row["n"], *(_short(row[rate]["mean"]) for rate in rates), _short(row["correlation"]))
        for name, row in found.items()
    ]
    return _table("real against imagined success", ("", "n", *rates, "r"), rows)


def _adaptations(answer: Mapping[str, Any]) -> Any:
    names = ("adaptation_id", "robot", "instruction", "stage", "candidate", "reason")
    rows = [[view[name] for name in names] for view in answer["adaptations"]]
    return _table(f"{len(rows)} adaptations", names, rows)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)


TABLES: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "robots": _robots,
    "log": _log,
    "evaluations": _evaluations,
    "ledger": _ledger,
    "adaptations": _adaptations,
}
