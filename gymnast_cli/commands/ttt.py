"""`gymnast ttt`: test-time training for one scene, as one action: the trainer's own flow, followed and decided here."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from gymnast_cli.connect import add_trainer_arguments, emit, trainer
from gymnast_cli.scene_request import add_scene_arguments, scene_asked
from gymnast_cli.stages import Advance, Stages
from gymnast_cli.terminal import styled
from gymnast_core.adaptations import ForgettingFigures
from gymnast_core.errors import ConfigError, GymnastError, TransientBridgeError
from gymnast_core.evaluation.cards import ResultCard
from gymnast_core.text import one_line

if TYPE_CHECKING:
    from rich.table import Table

    from gymnast_client import Adaptation, AdaptationView, Trainer

REFUSED = 3
"""Exit code when nothing was kept: not trusted, declined, cancelled, failed, or it did not win its canary."""
INTERRUPTED = 130
CANCEL_S = 60.0
PARTS = {
    "captured": "look at the scene, check trust", "training": "practise in the dream of it",
    "checking": "check what it forgot, imagine old and new", "canary": "canary on the arm",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_scene_arguments(parser)
    parser.add_argument("--robot", default="", metavar="NAME", help="which one (default: the only one that reports)")
    parser.add_argument(
        "--collect", type=int, default=40, metavar="N",
        help="real episodes at most, where the trust check asks for them (default 40)",
    )  # fmt: skip
    parser.add_argument("--minutes", type=above_zero, help="cut the practice off after so long (default 60)")
    parser.add_argument("--rollouts", type=int, help="budget in imagined rollouts (default 5000)")
    parser.add_argument("--money", type=above_zero, help="budget in the trainer's currency (default 5)")
    parser.add_argument("--mode", choices=("full", "lora"), help="train the whole policy, or a small adapter on it")
    parser.add_argument("--preview", type=Path, metavar="FOLDER", help="save old.webp and new.webp, imagined, here")
    parser.add_argument("--reuse", action="store_true", help="try the adapter that was kept for this scene, unasked")
    parser.add_argument("--yes", action="store_true", help="let the candidate onto the arm for its canary, unasked")
    add_trainer_arguments(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Begin, follow, decide; 0 when it was kept, 3 when not."""
    from gymnast_client import Adaptation, PracticeBudget, Terms

    budget = PracticeBudget(args.minutes, args.rollouts, args.money, args.mode or "")
    with trainer(args) as there, Screen(console) as screen:
        robot = args.robot or only_robot(there)
        begun = there.adaptations.begin(robot, **scene_asked(args))
        adaptation = Adaptation(there.adaptations, begun.adaptation_id, on_view=screen.show)
        operator = Operator(args, console, there, screen)
        try:
            view = adaptation.drive(Terms(args.collect, budget), approve=operator.approve, reuse=operator.reuse)
            if view.stage == "refused":
                adaptation.cancel(CANCEL_S)
        except KeyboardInterrupt:
            return interrupted(adaptation, args, console)
        except TransientBridgeError:
            raise  # it waits at the trainer
        except GymnastError:
            adaptation.cancel(CANCEL_S)
            raise
        return result_of(view, args, console)


def above_zero(text: str) -> float:
    """Parse a budget."""
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return float(text)


def only_robot(there: Trainer) -> str:
    """The robot that reports to this trainer.

    Raises:
        ConfigError: there is none, or more than one.
    """
    live = [row.robot for row in there.robots.list() if not row.silent]
    if not live:
        raise ConfigError("no robot reports to this trainer; start one: gymnast up --trainer ... --orders")
    if len(live) > 1:
        raise ConfigError(f"which robot? give --robot NAME; these report: {', '.join(sorted(live))}")
    return live[0]


class Screen:
    """Shows an adaptation while it works: one line of progress for each of its parts."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._part = ""
        self._open = ExitStack()
        self._advance: Advance | None = None

    def __enter__(self) -> Screen:
        """Nothing is shown yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the line that is shown."""
        self._open.close()

    def show(self, view: AdaptationView) -> None:
        """Take a new view in."""
        part = PARTS[view.stage] if view.busy else ""
        if part and view.history[-1]["kind"] == "collecting":
            part = "collect real episodes here, check trust"
        if part != self._part:
            self._open.close()
            self._part, self._advance = part, None
            if part:
                stages = self._open.enter_context(Stages(self._console))
                self._advance = self._open.enter_context(stages.stage(part))
        if self._advance is not None:
            self._advance(*progress(view))
        if view.stage == "refused":
            self._console.print(styled("yellow", "not trusted here yet", f": {view.reason}"))


def progress(view: AdaptationView) -> tuple[int, int, str]:
    """Done, total and a note of the part an adaptation is in."""
    if view.card:
        return len(view.canary), len(view.canary), f"{len(view.canary)} pairs; {view.stage}"
    if view.stage in ("training", "checking", "preview"):
        rewards = [f"imagined reward {row['imagined_reward']:.2f}" for row in view.iterations[-1:]]
        return (
            view.rollouts,
            int(view.budget.get("rollouts", 0)),
            ", ".join([f"iteration {len(view.iterations)}", *rewards]),
        )
    if view.stage == "canary":
        elsewhere = sum(row.get("part") == "other tasks" for row in view.canary)
        note = (
            f"it won here; {elsewhere} on the other tasks" if elsewhere else "the winner is hidden until it is decided"
        )
        return len(view.canary), 0, f"{len(view.canary)} pairs; {note}"
    return 0, 0, ""


class Operator:
    """Whoever sits at the terminal, as far as the flags do not speak for them."""

    def __init__(self, args: argparse.Namespace, console: Console, there: Trainer, screen: Screen) -> None:
        self._args, self._console, self._there, self._screen = args, console, there, screen
        self._reuse: bool | None = True if args.reuse else None

    def reuse(self, view: AdaptationView) -> bool:
        """Whether to try what was kept for this scene before; asked once."""
        if self._reuse is None:
            adapter = view.known_adapters[-1]
            self._reuse = self._ask(f"This scene is known: {adapter} was kept for it. Try that instead of training?")
        return bool(self._reuse)

    def approve(self, view: AdaptationView) -> bool | None:
        """Show what there is to see, and ask; None where nobody can be asked."""
        name, say = view.adaptation_id, self._console.print
        if view.forgetting:
            say(f"other tasks, in imagination: {forgetting_words(view.forgetting)}")
        if self._args.preview is not None:
            self._args.preview.mkdir(parents=True, exist_ok=True)
            for which in ("old", "new"):
                film = self._there.adaptations.picture(name, which)
                (self._args.preview / f"{which}.webp").write_bytes(film)
            say(f"old.webp and new.webp, imagined from this very frame, are in {self._args.preview}", soft_wrap=True)
        say(f"old and new side by side: {self._there.log_in().address}/adapt/{name}", soft_wrap=True)
        if self._args.yes:
            return True
        return self._ask(f"Let {view.candidate} onto {view.robot} for a canary?")

    def _ask(self, question: str) -> bool | None:
        if self._args.json or not self._console.is_terminal:
            return None
        return self._console.input(styled("", f"{question} [y/N] ")).strip().lower() in ("y", "yes")


def forgetting_words(found: ForgettingFigures) -> str:
    """The forgetting check in one line."""
    words = [f"{found['before']:.0%} before, {found['after']:.0%} after"] if "before" in found else []
    if "sight" in found and found["sight"] is None:
        words.append("what was lost was not measured: too little is recorded there")
    elif "most" in found and "bound" in found:
        words.append(f"at most {max(found['most'], 0.0):.0%} lost, {found['bound']:.0%} allowed")
    return "; ".join([*words, "passed" if found.get("ok") else "not passed"])


def interrupted(adaptation: Adaptation, args: argparse.Namespace, console: Console) -> int:
    """Cancel it and say what is left."""
    view = adaptation.cancel(CANCEL_S)
    name, robot, stage = adaptation.adaptation_id, view.robot, view.stage
    if stage == "kept":
        left = f"{name} was kept before that; {view.candidate} drives on {robot} there"
    elif view.over:
        left = f"{name} is {stage}; {robot} runs what it ran before"
    else:
        left = f"{name} ends after what it is doing ({stage}); {robot} then runs what it ran before"
    emit(args, console, summary(view), styled("yellow", "interrupted", f": {left}"))
    return INTERRUPTED


def result_of(view: AdaptationView, args: argparse.Namespace, console: Console) -> int:
    """Say how it ended."""
    if view.ended_by and not args.json:
        console.print(f"practice ended by {view.ended_by}")
    if view.card and not args.json:
        console.print(card_table(view.card))
    stage, reason = view.stage, view.reason
    name = view.adaptation_id
    if stage == "kept":
        text = styled("bold", "kept", f": {view.candidate} drives on {view.robot} in this scene, beside its base")
    elif stage == "preview":
        text = styled(
            "yellow",
            "nobody to ask here",
            f": {view.candidate} waits; `gymnast operate step {name} approve` or `reject`, or run with --yes",
        )
    elif stage == "refused":
        text = styled("yellow", "not trusted here", f": {reason}; {view.robot} runs what it ran before")
    else:
        text = styled("bold", stage, f": {reason}; {view.robot} runs what it ran before")
    emit(args, console, summary(view), text)
    return 0 if stage == "kept" else REFUSED


def summary(view: AdaptationView) -> dict[str, object]:
    """The one line of --json."""
    names = (
        "adaptation_id", "robot", "instruction", "scene", "stage", "reason", "candidate", "ended_by", "trust",
        "forgetting",
    )  # fmt: skip
    return {
        "kept": view.stage == "kept", **{name: getattr(view, name) for name in names}, "card": view.card,
        "iterations": len(view.iterations), "rollouts": view.rollouts,
    }  # fmt: skip


def card_table(card: ResultCard) -> Table:
    """A canary's result card: the scene, then the other tasks."""
    from rich.table import Table

    decision = str(card.get("decision", "")).replace("_", " ")
    shown = Table(title=f"Canary: {decision} after {card.get('n', 0)} pairs")
    shown.add_column("task")
    for column in ("pairs", "before", "candidate", "difference [95 %]", "may be lost"):
        shown.add_column(column, justify="right")
    for name, row in {card.get("instruction", ""): card, **card.get("guard", ResultCard()).get("by_task", {})}.items():
        if "incumbent_success" in row and "candidate_success" in row:
            rates = [f"{row['incumbent_success']['mean']:.0%}", f"{row['candidate_success']['mean']:.0%}"]
            change = row["difference"]
            interval = f"{change['mean']:+.0%} [{change['low']:+.0%}, {change['high']:+.0%}]"
            shown.add_row(one_line(name), str(row["n"]), *rates, interval, f"{max(0.0, -change['low']):.0%}")
    return shown
