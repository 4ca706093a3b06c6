"""The `gymnast` command line: finds the subcommand, runs it, turns errors into one clear line and an exit code."""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Collection, Sequence
from importlib import metadata
from typing import Any

from rich.console import Console

from gymnast_cli.terminal import Terminal, spell_out_the_unprintable, styled
from gymnast_core.errors import (
    ConfigError,
    ContractError,
    GymnastError,
    NotTrustedError,
    OccupiedError,
    SafetyError,
    StorageError,
    TransientBridgeError,
)
from gymnast_core.lifeline import STARTER, end_with_parent
from gymnast_core.wire.errors import IdentityError

COMMANDS = {
    "demo": "the whole loop on this machine: base policy, practice in the world model, better policy",
    "pretrain": "make the shipped checkpoints again from nothing",
    "begin": "first checkpoints for another camera or simulator, out of recorded episodes",
    "serve": "run the trainer: ingest, weights, jobs, the operator's page",
    "console": "where a trainer's page is, and a token for it",
    "operate": "robots, log, trials, ledger, promote, adapt: what the page does, without a browser",
    "up": "start the robot side's nodes without a ROS installation",
    "rearm": "let the arm move again after a stop, for whoever may read the robot's folder",
    "recover": "let a real arm recover from a motor fault, for whoever may read the robot's folder",
    "enclaves": "an SROS2 keystore for the robot's nodes: DDS itself asks who publishes and who listens",
    "enroll": "create the local certificate authority and issue an identity",
    "collect": "run episodes on a started robot and ship them",
    "practise": "a task and what undoes it in turns, for hours, on a started robot; a person is called when needed",
    "evaluate": "compare checkpoints on a started robot, same start states for all",
    "queue": "what robots shall do, in which order: list, add, pause, resume, cancel, move",
    "jobs": "submit, watch, list and cancel training jobs",
    "weights": "publish, list, fetch and roll back checkpoints",
    "ttt": "test-time training: adapt the policy to one scene",
    "loop": "collect, refine, audit, train, canary, promote, again",
    "pages": "calls for a person: list and answer them, try the receivers",
    "episodes": "list, label, retract, show, import and export recorded episodes",
    "env": "an environment of Gymnasium's: serve it from its own virtual environment, check it, record episodes in it",
    "wm": "world models: convert, check the data, train, roll out, audit how far to trust one, serve",
    "view": "a recorded episode, or the running robot, in the rerun viewer",
    "replay": "play a recorded episode onto its topics, as ros2 bag play does",
    "annotate": "note something at this moment of the running episode",
    "judge": "a judge against operator labels, and where it may label real episodes",
    "why": "where a checkpoint comes from, down to every episode",
    "plugins": "what installed packages add, and what of it cannot be loaded",
    "doctor": "what is damaged, lost or about to expire in a trainer's folder, and what to do",
    "completion": "a completion script for your shell",
}
"""name -> help; gymnast_cli.commands.<name> has add_arguments(parser) and run(args, console) -> exit code."""

EXIT_CODES: dict[type[GymnastError], int] = {
    ConfigError: 2,
    ContractError: 70,
    NotTrustedError: 3,
    SafetyError: 4,
    TransientBridgeError: 75,
    OccupiedError: 75,
    IdentityError: 77,
}
"""Exit code by error; every other GymnastError is 1. 130 is Ctrl-C."""
EXIT_HELP = (
    "exit codes: 0 done; 1 failed; 2 a wrong setting; 3 refused (not trusted, not better, tainted); "
    "4 the arm was stopped; 75 worth trying again; 77 one side is not who the other needs (a certificate's name or "
    "authority, a role); 130 interrupted"
)

DISTRIBUTION = "gymnast_ros"
PIPED_WIDTH = 160
"""Columns of a table that nobody's terminal limits."""


def parser_for(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser, complete for the subcommand that is asked for; the others' modules are not imported."""
    wanted = next((word for word in arguments if word in COMMANDS), None)
    return _parser([] if wanted is None else [wanted])


def whole_parser() -> argparse.ArgumentParser:
    """Return the parser with the arguments of every subcommand."""
    return _parser(COMMANDS)


def _parser(complete: Collection[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gymnast", description="Robots that practise in a dream and come back better.", epilog=EXIT_HELP
    )
    parser.add_argument("--json", action="store_true", help="print results as JSON lines, nothing else")
    parser.add_argument("--version", action="version", version=f"gymnast {metadata.version(DISTRIBUTION)}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        sub = subparsers.add_parser(name, help=text, description=text, epilog=EXIT_HELP)
        if name in complete:
            importlib.import_module(f"gymnast_cli.commands.{name}").add_arguments(sub)
        _finish(sub)
    return parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; an option that the command does not have is answered with that command's own usage."""
    args, unknown = parser_for(arguments).parse_known_args(arguments)
    asked: argparse.ArgumentParser = vars(args).pop("asked")
    if unknown:
        option = next((word for word in unknown if word.startswith("-")), "").partition("=")[0]
        near = difflib.get_close_matches(option, asked._option_string_actions, n=1)
        asked.error(f"unrecognized arguments: {' '.join(unknown)}" + (f"; did you mean {near[0]}?" if near else ""))
    return args


def _finish(parser: argparse.ArgumentParser) -> None:
    """--json may stand behind the command, behind its action, and after their arguments; the innermost is known."""
    parser.set_defaults(asked=parser)
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="results as JSON lines")
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for nested in action.choices.values():
                _finish(nested)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if os.environ.get(STARTER) == str(os.getppid()):
        end_with_parent()
    args = parse(arguments)
    piped = not (sys.stderr if args.json else sys.stdout).isatty()
    spell_out_the_unprintable()
    console = Terminal(stderr=args.json, soft_wrap=True, width=PIPED_WIDTH if piped else None)
    before = _let_go_on_sigterm()
    try:
        command = importlib.import_module(f"gymnast_cli.commands.{args.command}")
        return int(command.run(args, console))
    except KeyboardInterrupt:
        console.print("interrupted; what was finished is kept", style="yellow")
        return 130
    except GymnastError as error:
        return _report(error, args.json, console)
    except OSError as error:
        return _report(StorageError(str(error)), args.json, console)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _let_go_on_sigterm() -> Any:
    """SIGTERM unwinds the command as Ctrl-C does, so that it ends what it has started; returns the handler before."""
    if threading.current_thread() is not threading.main_thread():
        return None

    def unwind(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # the second one does not interrupt the unwinding
        raise SystemExit(128 + number)

    return signal.signal(signal.SIGTERM, unwind)


def _report(error: GymnastError, as_json: bool, console: Console) -> int:
    code = next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)
    if as_json:
        print(json.dumps({"error": type(error).__name__, "message": str(error), "exit_code": code}))
    console.print(styled("red", type(error).__name__, f": {error}"), soft_wrap=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
