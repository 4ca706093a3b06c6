"""pip builds a wheel that holds all there is: its page answers, its launch files and settings are where ROS looks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.installed import ROOT, check_page, clean_copy


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prefix that pip put the wheel into."""
    folder = tmp_path_factory.mktemp("wheel")
    source = clean_copy(folder / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    built = subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("*.whl")
    install = [*pip, "install", "--no-deps", "--no-index", "--ignore-installed", "--prefix", folder / "prefix", wheel]
    put = subprocess.run(install, capture_output=True, text=True)
    assert put.returncode == 0, put.stdout + put.stderr
    return folder / "prefix"


def library(prefix: Path) -> Path:
    return next(prefix.glob("lib/python3*/site-packages"))


def test_the_installed_page_answers(installed: Path, tmp_path: Path) -> None:
    check_page(library(installed), tmp_path)


def test_launch_files_and_settings_are_in_the_share_folder(installed: Path) -> None:
    share = installed / "share" / "gymnast_ros"
    for folder in ("launch", "config"):
        wanted = {path.name for path in (ROOT / folder).glob("*.*") if path.suffix != ".pyc"}
        assert {path.name for path in (share / folder).iterdir() if path.is_file()} == wanted
    assert (installed / "share" / "ament_index" / "resource_index" / "packages" / "gymnast_ros").is_file()


def test_every_file_of_our_packages_is_in_the_wheel(installed: Path) -> None:
    files = subprocess.check_output(["git", "ls-files", "-z", "gymnast_*", "cloud_trainer"], cwd=ROOT, text=True)
    missing = [name for name in files.split("\0") if name and not (library(installed) / name).is_file()]
    assert missing == []
