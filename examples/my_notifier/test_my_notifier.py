"""A call reaches the board through the trainer's own settings and sender; what is wrong with it is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud_trainer.paging.config import read_paging
from cloud_trainer.paging.message import Notice
from cloud_trainer.paging.sending import NotDeliveredError, send
from cloud_trainer.store.sql_pages import PageRow
from gymnast_core.errors import ConfigError

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(site)


def notice(robot: str) -> Notice:
    row = PageRow("default", f"page-{robot}", robot, "motor_fault", "hot", {}, 10**18, 10**18, 1, 0, 0, 0, 0, "", 0, "")
    return Notice([row], 0, 10**18)


def test_calls_appear_the_newest_first_and_the_oldest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GYMNAST_BOARD", str(tmp_path / "board.txt"))
    (receiver,) = read_paging(HERE / "pages.toml").receivers
    for robot in ("wx-1", "wx-2", "wx-3", "wx-4"):
        send(receiver, notice(robot))
    shown = (tmp_path / "board.txt").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in shown] == [f"motor fault on {name}" for name in ("wx-4", "wx-3", "wx-2")]


def test_a_board_that_is_away_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GYMNAST_BOARD", str(tmp_path / "nowhere" / "board.txt"))
    (receiver,) = read_paging(HERE / "pages.toml").receivers
    with pytest.raises(NotDeliveredError, match="board: FileNotFoundError"):
        send(receiver, notice("wx-1"))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ('way = "board"\nlines = 0\npath = "x"', "lines must be at least 1, got 0"),
        ('way = "board"\npath = "x"\ncolour = "red"', "unexpected keyword argument 'colour'"),
        ('way = "board"\npath = "env:NOT_SET_ANYWHERE"', "NOT_SET_ANYWHERE is not set"),
        ('way = "lamp"', "way 'lamp' is not one of webhook, slack, ntfy, email, board"),
    ],
)
def test_wrong_settings_are_refused_when_the_trainer_starts(tmp_path: Path, given: str, named: str) -> None:
    path = tmp_path / "pages.toml"
    path.write_text(f'[[receivers]]\nname = "corridor"\n{given}\n')
    with pytest.raises(ConfigError, match=named):
        read_paging(path)
