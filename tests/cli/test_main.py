"""The command line's frame: errors become one clear line and an exit code, results one JSON line."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
from rich.console import Console

from cloud_trainer.jobs.worker import JOBS
from gymnast_cli import connect
from gymnast_cli import main as frame
from gymnast_cli.commands import completion, why
from gymnast_core.errors import (
    ConfigError,
    ContractError,
    EstopLatchedError,
    GymnastError,
    NotTrustedError,
    TransientBridgeError,
)
from gymnast_core.jobs import KINDS
from gymnast_ros import bringup
from gymnast_ros.arguments import config_from
from gymnast_ros.graph import GraphConfig


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("port must be 0..65535, got 70000"), 2),
        (NotTrustedError("agreement 0.4 < 0.7"), 3),
        (EstopLatchedError("re-arm first"), 4),
        (ContractError("ours"), 70),
        (TransientBridgeError("the trainer is away"), 75),
        (GymnastError("something [else]/with [/brackets]"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_error_becomes_its_exit_code_and_keeps_its_words(error, code, monkeypatch, capsys) -> None:
    def run(args: argparse.Namespace, console: Console) -> int:
        raise error

    monkeypatch.setattr(why, "run", run)
    assert frame.main(["why", "x"]) == code
    assert str(error) in capsys.readouterr().out
    assert frame.main(["why", "x", "--json"]) == code
    printed = capsys.readouterr().out
    if code != 130:
        told = {"error": type(error).__name__, "message": str(error), "exit_code": code}
        assert json.loads(printed) == told


@pytest.mark.parametrize(
    "words",
    [
        ["--json", "completion", "bash"], ["completion", "bash", "--json"], ["jobs", "--json", "list"],
        ["jobs", "list", "--json"], ["operate", "step", "--json", "a-1", "approve"], ["weights", "list", "--json"],
    ],
)  # fmt: skip
def test_json_may_stand_anywhere(words) -> None:
    assert frame.parser_for(words).parse_args(words).json


def test_every_action_of_every_command_takes_json() -> None:
    def without(parser: argparse.ArgumentParser, name: str) -> list[str]:
        own = [] if "--json" in parser._option_string_actions else [name]
        nested = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        return own + [
            bad for choices in nested for key, sub in choices.items() for bad in without(sub, f"{name} {key}")
        ]

    for command in frame.COMMANDS:
        assert without(frame.parser_for([command]), "gymnast") == []


def test_version_is_that_of_the_package(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        frame.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"gymnast {metadata.version('gymnast_ros')}\n"


def test_unknown_command_and_missing_argument_exit_with_two(capsys) -> None:
    for words in (["dance"], ["why"], ["jobs"], ["weights", "rollback", "x"]):
        with pytest.raises(SystemExit) as ended:
            frame.main(words)
        assert ended.value.code == 2


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["jobs", "list"], "--trainer HOST:PORT"),
        (["jobs", "list", "--trainer", "127.0.0.1:1"], "gymnast enroll"),
        (["jobs", "list", "--trainer", "127.0.0.1:1", "--identity", "/nowhere"], "gymnast enroll"),
        (["why", "policy-1"], "--trainer HOST:PORT"),
        (["console"], "--trainer HOST:PORT"),
        (["wm", "audit", "/nowhere", "--world-model", "w", "--judge", "j"], "name .mcap files or folders"),
        (["loop", "start", "/nowhere.toml"], "/nowhere.toml"),
        (["episodes", "show", "x"], "--trainer HOST:PORT"),
    ],
)
def test_wrong_setting_is_named_with_its_remedy(words, remedy, monkeypatch, capsys) -> None:
    monkeypatch.delenv(connect.TRAINER_VARIABLE, raising=False)
    monkeypatch.delenv(connect.IDENTITY_VARIABLE, raising=False)
    assert frame.main(words) == 2
    assert remedy in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["evaluate", "--count", "0"], "--count: must be 1 to 1000000, got 0"),
        (["collect", "--seed-start", "-3"], "--seed-start: must be 0 to"),
        (["evaluate", "--sample", "x"], "--sample: 'x' is no whole number"),
    ],
)
def test_a_number_that_no_robot_takes_is_named_before_one_is_looked_for(words, named, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        frame.main(words)
    assert named in capsys.readouterr().err


def test_environment_names_trainer_and_identity(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv(connect.TRAINER_VARIABLE, "trainer.lab:50051")
    monkeypatch.setenv(connect.IDENTITY_VARIABLE, str(tmp_path))
    args = frame.parser_for(["jobs"]).parse_args(["jobs", "list"])
    assert (args.trainer, args.identity) == ("trainer.lab:50051", tmp_path)


def test_lists_and_specs_are_parsed_or_refused(tmp_path) -> None:
    assert connect.task_list("lift, put the cube on the plate") == ["lift", "put the cube on the plate"]
    (tmp_path / "spec.json").write_text('{"seed": 3}')
    assert connect.json_argument(f"@{tmp_path / 'spec.json'}") == {"seed": 3}
    for bad in ("[1]", "{", "@/nowhere"):
        with pytest.raises(argparse.ArgumentTypeError):
            connect.json_argument(bad)
    with pytest.raises(argparse.ArgumentTypeError):
        connect.task_list(" , ")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_actions_and_flags(tmp_path: Path, capsys) -> None:
    completion.run(argparse.Namespace(shell="bash"), Console())
    script = tmp_path / "completion.sh"
    script.write_text(capsys.readouterr().out)

    def complete(*words: str) -> list[str]:
        """What is offered for the last word."""
        typed = " ".join(f'"{word}"' for word in words)
        run = f'COMP_CWORD={len(words) - 1}; $(complete -p gymnast | grep -o "_shtab[a-z_]*"); echo "${{COMPREPLY[@]}}"'
        line = f"source {script}; COMP_WORDS=({typed}); {run}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, cwd=tmp_path)
        return done.stdout.split()

    assert {"demo", "jobs", "why", "completion"} <= set(complete("gymnast", ""))
    assert {"submit", "list", "watch", "cancel"} <= set(complete("gymnast", "jobs", ""))
    assert complete("gymnast", "jobs", "watch", "--tr") == ["--trainer"]
    assert "--minutes" in complete("gymnast", "ttt", "--")
    assert complete("gymnast", "completion", "z") == ["zsh"]
    assert complete("gymnast", "replay", "comp") == ["completion.sh"], "files where a path is asked for"


def test_up_takes_what_the_launch_file_takes_and_means_the_same(monkeypatch, tmp_path) -> None:
    started: list[GraphConfig] = []
    monkeypatch.setattr(bringup, "up", lambda config, show: started.append(config) or 0)
    identity = tmp_path / "id"
    identity.mkdir()
    for name in ("cert.pem", "key.pem", "ca.pem"):
        (identity / name).touch()
    words = {
        "robot": "sim", "folder": str(tmp_path), "domain": "7", "trainer": "lab:50051", "identity": str(identity)
    }  # fmt: skip
    flags = ["paced", "realtime", "teleop"]
    line = [part for name, value in words.items() for part in (f"--{name}", value)] + [f"--{flag}" for flag in flags]
    assert frame.main(["up", *line]) == 0
    assert started == [config_from({**words, **dict.fromkeys(flags, "true")})]
    assert frame.main(["up", "--domain", "seven"]) == 2
    monkeypatch.setenv("GYMNAST_TRAINER", "lab:50051")
    monkeypatch.setenv("GYMNAST_IDENTITY", str(identity))
    alone = ["up", "--folder", str(tmp_path), "--domain", "7"]
    assert frame.main(alone) == frame.main([*alone, "--trainer", "", "--identity", ""]) == 0
    named = {"folder": str(tmp_path), "domain": "7", "trainer": "lab:50051", "identity": str(identity)}
    assert started[1:] == [config_from(named), config_from({**named, "trainer": "", "identity": ""})]
    assert frame.main([*alone, "--arm", "menagerie", "--menagerie", str(tmp_path)]) == 2, "before anything starts"
    assert len(started) == 3


def test_the_kinds_of_job_are_those_of_the_trainer() -> None:
    assert set(KINDS) == set(JOBS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["weights", "list", "--trianer", "x"], "usage: gymnast weights list"),
        (["weights", "list", "--trianer", "x"], "unrecognized arguments: --trianer x; did you mean --trainer?"),
        (["collect", "--cuont=3"], "gymnast collect: error: unrecognized arguments: --cuont=3; did you mean --count?"),
        (["jobs", "list", "more"], "gymnast jobs list: error: unrecognized arguments: more\n"),
    ],
)
def test_an_unknown_option_is_answered_by_the_command_it_was_given_to(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        frame.main(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
