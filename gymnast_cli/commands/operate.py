"""`gymnast operate`: what the operator's page shows and does, without a browser, from anywhere."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from rich.console import Console

from gymnast_cli.connect import add_trainer_arguments, emit, trainer
from gymnast_cli.operate_tables import TABLES
from gymnast_cli.scene_request import add_scene_arguments, scene_asked
from gymnast_client.adaptations import PracticeBudget
from gymnast_core.errors import ConfigError
from gymnast_core.records.gate_record import GateRecord, GateRun
from gymnast_core.records.release import Release

if TYPE_CHECKING:
    from gymnast_client import AdaptationView, LogEntry, Trainer

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
        actions.add_parser("retries", help="what trying again after judged failures came to, per policy"),
        actions.add_parser("ledger", help="real against imagined success, per task and world model"),
        actions.add_parser("adaptations", help="every adaptation to a scene, and where it is"),
        actions.add_parser("checkpoints", help="every checkpoint of the trainer, newest first"),
        actions.add_parser("scenes", help="which scenes have an adapter, on every robot"),
        actions.add_parser("loops", help="unattended loops, and where each is"),
    ]
    offer = actions.add_parser("offer", help="offer a checkpoint of the trainer to robots, for a trial there (admin)")
    offer.add_argument("checkpoint_id")
    offer.add_argument("--robot", action="append", required=True, metavar="NAME", help="may be repeated")
    gate = actions.add_parser(
        "gate", help="hold a checkpoint against what robots run, in the second simulator, where they ask for that"
    )
    gate.add_argument("checkpoint_id")
    gate.add_argument("--robot", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    gates = actions.add_parser("gates", help="what the gate found of a checkpoint, oldest first")
    gates.add_argument("checkpoint_id")
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
    drop = actions.add_parser("drop-adapter", help="have a robot's base drive again in the scene of an adapter")
    drop.add_argument("robot")
    drop.add_argument("checkpoint_id", help="of the adapter")
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
    for action in (offer, promote):
        action.add_argument(
            "--override-gate", default="", metavar="REASON",
            help="release it without a passed gate (admin); signed with your name, and shown in red",
        )  # fmt: skip
    for action in (adapt, step, trial, offer, gate):
        action.add_argument("--wait", action="store_true", help="until it is over or waits for a decision")
    for action in (*shown, offer, gate, gates, promote, trial, stop, drop, adapt, step):
        add_trainer_arguments(action)


def run(args: argparse.Namespace, console: Console) -> int:
    """Do it."""
    with trainer(args) as there:
        if args.action in SHOWN:
            answer = SHOWN[args.action](there)
            emit(args, console, answer, TABLES[args.action](answer))
            return 0
        actions = {
            "offer": _offer,
            "gate": _gate,
            "gates": _gates,
            "promote": _promote,
            "try": _try,
            "stop-trial": _stop_trial,
            "drop-adapter": _drop_adapter,
            "adapt": _adapt,
            "step": _step,
        }
        return actions[args.action](there, args, console)


def _drop_adapter(there: Trainer, args: argparse.Namespace, console: Console) -> int:
    there.robots.drop_adapter(args.robot, args.checkpoint_id)
    said = f"{args.checkpoint_id} is detached; the base of {args.robot} drives there from the next episode on"
    emit(args, console, {"said": said}, said)
    return 0


def _offer(there: Trainer, args: argparse.Namespace, console: Console) -> int:
    name, override = args.checkpoint_id, args.override_gate.strip()
    if override:
        document = there.checkpoints.offer(name, args.robot, override_reason=override)
        release = Release.from_bytes(document.payload)
        said = f"{name} is offered to {_whom(args.robot)} as release {release.sequence}, past its gate"
        emit(args, console, {"said": said, "release": release.sequence}, said)
        return 0
    begun, signed = there.checkpoints.gate_and_offer(name, args.robot)
    offered = None if signed is None else Release.from_bytes(signed.payload)
    said = "" if offered is None else f"{name} is offered to {_whom(offered.robots)} as release {offered.sequence}"
    sequence = None if offered is None else offered.sequence
    return _gated(there, begun, args, console, said, "; it is offered once it has passed", {"release": sequence})


def _gate(there: Trainer, args: argparse.Namespace, console: Console) -> int:
    begun = there.checkpoints.gate(args.checkpoint_id, args.robot)
    said = "" if begun else f"{args.checkpoint_id} needs no gate: every robot named would take it in"
    return _gated(there, begun, args, console, said, "", {})


def _gated(
    there: Trainer, begun: Sequence[GateRun], args: argparse.Namespace, console: Console, said: str, then: str,
    answer: Mapping[str, object],
) -> int:  # fmt: skip
    """Say which gates run first; wait for them where that was asked for."""
    whom = ", ".join(f"{one.job_id} for {', '.join(one.robots)}" for one in begun)
    said = "; ".join(filter(None, (said, f"the gate runs first, as job {whom}{then}" if begun else "")))
    ends = [there.jobs.result(one.job_id) for one in begun] if args.wait else []
    records = [GateRecord.of(end.get("record")) for end in ends]
    found = [f"{one.id} {one.decision}: {one.reason}" for one in records]
    shown = {"said": said, "jobs": [one.job_id for one in begun], "gates": found, **answer}
    emit(args, console, shown, "\n".join([said, *found]))
    return 0 if all(one.passed for one in records) else NOT_KEPT


def _gates(there: Trainer, args: argparse.Namespace, console: Console) -> int:
    rows = [{"id": row.id, **asdict(row)} for row in there.checkpoints.gates(args.checkpoint_id)]
    answer = {"checkpoint_id": args.checkpoint_id, "gates": rows}
    emit(args, console, answer, TABLES["gates"](answer))
    return 0


def _promote(there: Trainer, args: argparse.Namespace, console: Console) -> int:
    document = there.checkpoints.promote(args.checkpoint_id, args.robot, override_reason=args.override_gate.strip())
    release = Release.from_bytes(document.payload)
    when = f"from the next episode on, once checked there (release {release.sequence})"
    said = f"{args.checkpoint_id} runs on {_whom(args.robot)} {when}"
    emit(args, console, {"said": said, "release": release.sequence}, said)
    return 0


def _whom(robots: Sequence[str]) -> str:
    return ", ".join(robots) or "all robots"


def _try(there: Trainer, args: argparse.Namespace, console: Console) -> int:
    view = there.trials.begin(
        args.checkpoint_id, args.robot, args.instruction, against=args.against, scene=args.scene, pairs=args.pairs
    )
    said = f"{view.trial_id} has begun; its card appears when it is decided"
    while args.wait and view.state == "running":
        time.sleep(POLL_S)
        view = there.trials.get(view.trial_id)
    decision = view.card.get("decision", "")
    text = f"{view.trial_id}: {view.state} {decision or view.reason}".rstrip() if args.wait else said
    emit(args, console, {"said": said, **vars(view)}, text)
    return NOT_KEPT if args.wait and decision != "promote" else 0


def _stop_trial(there: Trainer, args: argparse.Namespace, console: Console) -> int:
    view = there.trials.stop(args.trial_id)
    said = f"{view.trial_id} ends after the run at hand; nothing is concluded from it"
    emit(args, console, {"said": said, **vars(view)}, said)
    return 0


def _adapt(there: Trainer, args: argparse.Namespace, console: Console) -> int:
    return _tell(there, there.adaptations.begin(args.robot, **scene_asked(args)), args, console)


def _step(there: Trainer, args: argparse.Namespace, console: Console) -> int:
    if args.step == "reuse" and not args.adapter:
        raise ConfigError("reuse which adapter? give --adapter ID; `gymnast operate adaptations --json` lists them")
    flows = there.adaptations
    view = flows.get(args.adaptation_id)
    if args.revision is not None:
        view = replace(view, revision=args.revision)
    budget = PracticeBudget(args.minutes, args.rollouts, args.money, args.mode or "")
    steps: dict[str, Callable[[], AdaptationView]] = {
        "collect": lambda: flows.collect(view, args.episodes),
        "train": lambda: flows.train(view, budget),
        "reuse": lambda: flows.reuse(view, args.adapter),
        "approve": lambda: flows.approve(view),
        "reject": lambda: flows.reject(view),
        "cancel": lambda: flows.cancel(view),
    }
    return _tell(there, steps[args.step](), args, console)


def _tell(there: Trainer, view: AdaptationView, args: argparse.Namespace, console: Console) -> int:
    """Print where it is now, after waiting where that was asked for."""
    while args.wait and view.busy:
        time.sleep(POLL_S)
        view = there.adaptations.get(view.adaptation_id)
    emit(args, console, vars(view), f"{view.adaptation_id}: {view.stage} {view.reason}".rstrip())
    return NOT_KEPT if args.wait and view.stage in ("refused", "reverted", "cancelled", "failed") else 0


SHOWN: dict[str, Callable[[Trainer], dict[str, object]]] = {
    "robots": lambda there: {"robots": [asdict(row) for row in there.robots.list()]},
    "log": lambda there: {"entries": [_flat(entry) for entry in there.log.entries()], "head": there.log.head()},
    "evaluations": lambda there: {
        "cards": list(there.trials.cards()), "trials": [vars(view) for view in there.trials.list()],
    },
    "retries": lambda there: {"retried": [asdict(row) for row in there.episodes.retried()]},
    "ledger": lambda there: asdict(there.log.ledger()),
    "adaptations": lambda there: {"adaptations": [vars(view) for view in there.adaptations.list()]},
    "checkpoints": lambda there: {"checkpoints": [vars(view) for view in there.checkpoints.list()]},
    "scenes": lambda there: {"scenes": [
        {"robot": row.robot, **asdict(one)} for row in there.robots.list() for one in row.words.adapters
    ]},
    "loops": lambda there: {"loops": [vars(view) for view in there.loops.list()]},
}  # fmt: skip
"""Action -> what is shown, as JSON values."""


def _flat(entry: LogEntry) -> dict[str, object]:
    """An entry as it is printed: what was written down beside the rest, which nothing of it can replace."""
    return {**entry.data, **{name: getattr(entry, name) for name in ("sequence", "at_ns", "by", "role", "action")}}
