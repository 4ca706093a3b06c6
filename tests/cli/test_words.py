"""Other people's words on a terminal: what they are, not markup, and nothing that steers the terminal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cloud_trainer.service import Service, ServiceConfig, enroll
from gymnast_cli.commands import annotate
from gymnast_cli.main import main
from gymnast_core.episodes import Spool, write_episode
from gymnast_core.text import one_line, printable
from gymnast_ros.uplink import Uplink
from tests.world_model.test_check import bridge_trajectory
from tests.world_model.tiny import tiny_episode

WORDS = {
    "brackets": "put the [red] cube [/INST] on the plate [/]",
    "red": "put the [red] cube on the [bold]plate",
    "smile": "put :red_circle: away",
    "steer": "lift\x1b[2J\x1b]0;owned\x07 the cube\x9b31m",
    "lines": "lift the cube\nep-999  success\r",
    "backwards": "lift \u202eebuc eht",
    "chinese": "把红色方块放到盘子上",
}
SHOWN = {
    **WORDS,
    "steer": r"lift\x1b[2J\x1b]0;owned\x07 the cube\x9b31m",
    "lines": r"lift the cube\nep-999  success\r",
    "backwards": r"lift \u202eebuc eht",
}


def episode_file(folder: Path, name: str) -> Path:
    return write_episode(folder, replace(tiny_episode(size=16, episode_id=name), instruction=WORDS[name]), robot="r")


@pytest.mark.parametrize("name", WORDS)
def test_an_instruction_is_shown_as_it_is(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = episode_file(tmp_path, name)
    assert main(["episodes", "show", str(path)]) == 0
    shown = capsys.readouterr().out
    assert f"instruction: {SHOWN[name]}\n" in shown
    assert "\x1b" not in shown
    assert main(["--json", "episodes", "show", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["instruction"] == WORDS[name], "programs get the words themselves"


def test_one_strange_instruction_does_not_spoil_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spool = Spool(tmp_path / "spool")
    with Service(ServiceConfig(folder=tmp_path / "trainer")) as service:
        robot = enroll(tmp_path / "trainer" / "ca", "r", "robot", out=tmp_path / "r")
        ana = enroll(tmp_path / "trainer" / "ca", "ana", "operator", out=tmp_path / "ana")
        for name in WORDS:
            spool.enqueue(episode_file(spool.recording_folder, name))
        with Uplink(service.address, robot, spool=spool) as uplink:
            assert uplink.flush(60)
        assert service.episodes.settle(60)
        assert main(["episodes", "list", "--trainer", service.address, "--identity", str(ana)]) == 0
    shown = capsys.readouterr().out
    for words in SHOWN.values():
        assert words in shown
    assert "\x1b" not in shown


def test_an_error_with_control_characters_is_one_that_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["episodes", "show", "\x1b[31mno-such\x07"]) == 2
    shown = capsys.readouterr().out
    assert r"\x1b[31mno-such\x07" in shown.replace(r"\\", "\\")
    assert "\x1b" not in shown


def test_a_terminal_that_is_not_utf_8_gets_what_it_can_show(tmp_path: Path) -> None:
    path = episode_file(tmp_path, "chinese")
    command = [sys.executable, "-c", "import sys; from gymnast_cli.main import main; sys.exit(main())"]
    for coding in ("ascii", "latin-1", "cp1252"):
        done = subprocess.run(
            [*command, "episodes", "show", str(path)], env={**os.environ, "PYTHONIOENCODING": coding},
            capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert rb"instruction: \u628a\u7ea2" in done.stdout


def test_a_locale_that_is_not_utf_8_reads_the_same_words(tmp_path: Path) -> None:
    place = bridge_trajectory(tmp_path, "2022-01-01_00-00-00", 0, lag=0)
    (place / "lang.txt").write_bytes(WORDS["chinese"].encode())
    script = (
        "import sys; from pathlib import Path; from cloud_trainer.world_model.data.bridge_raw import BridgeRawSource;"
        "print(ascii(BridgeRawSource(Path(sys.argv[1])).episode(0).instruction))"
    )
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=plain, capture_output=True, check=True)
    assert done.stdout.decode().strip() == ascii(WORDS["chinese"])


def test_a_user_without_a_name_can_annotate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", nobody)
    with pytest.raises(SystemExit, match="0"):
        main(["annotate", "--help"])
    assert main(["completion", "bash"]) == 0
    assert "annotate" in capsys.readouterr().out
    assert annotate._login() == f"uid-{os.getuid()}"


def test_there_is_one_console_and_no_markup_in_our_own_words() -> None:
    package = Path(main.__code__.co_filename).parent
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert path.name == "terminal.py" or not re.search(r"(?<![A-Za-z])Console\(", text), path
        assert not re.search(r"\[/?(bold|red|green|yellow|dim|cyan)\]|\[/\]", text), path


def test_letters_of_every_script_stay() -> None:
    for words in ("положи куб", "ضع المكعب", "שים את הקובייה", "👩‍🔧 lift", "کتاب‌ها"):
        assert printable(words) == words
    assert one_line("a\tb\u2028c\ud800") == r"a\tb\u2028c\ud800"
    assert printable("a\tb\nc\x7f") == "a\tb\nc\\x7f"
