"""`gymnast completion`: a completion script for your shell."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Mapping

from rich.console import Console

SHELLS = ("bash", "zsh")

SCRIPT = """_gymnast() {{
  local cur path word
  cur="${{COMP_WORDS[COMP_CWORD]}}"
  path=""
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$word" in -*) continue;; esac
    case " {paths} " in *" $path${{path:+/}}$word "*) path="$path${{path:+/}}$word";; esac
  done
  local words=""
  case "$path" in
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  case "$cur" in -*) ;; *) [ -n "$path" ] && COMPREPLY+=($(compgen -f -- "$cur"));; esac
}}
complete -o filenames -F _gymnast gymnast
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("shell", choices=SHELLS, help='bash: eval "$(gymnast completion bash)"; zsh likewise')


def run(args: argparse.Namespace, console: Console) -> int:
    """Print the script."""
    words = dict(_words())
    paths = " ".join(path for path in words if path)
    cases = "\n".join(f'    "{path}") words="{" ".join(found)}";;' for path, found in words.items())
    if args.shell == "zsh":
        print("autoload -U +X bashcompinit && bashcompinit")
    print(SCRIPT.format(paths=paths, cases=cases), end="")
    return 0


def _words() -> Iterator[tuple[str, list[str]]]:
    """Path of subcommands, e.g. "jobs/watch" -> what may follow."""
    from gymnast_cli.main import COMMANDS

    yield "", [*COMMANDS, "--json", "--help"]
    for name in COMMANDS:
        parser = argparse.ArgumentParser(prog=name)
        importlib.import_module(f"gymnast_cli.commands.{name}").add_arguments(parser)
        yield from _walk(name, parser)


def _walk(path: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[str]]]:
    found: list[str] = []
    below: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        found += action.option_strings
        if isinstance(action.choices, Mapping):
            below |= action.choices
        elif action.choices and not action.option_strings:
            found += [str(choice) for choice in action.choices if choice]
    yield path, [*below, *found]
    for name, sub in below.items():
        yield from _walk(f"{path}/{name}", sub)
