"""pip builds a wheel that holds all there is: its page answers, its launch files and settings are where ROS looks."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gymnast_core.shipped import BASE_POLICIES, KINDS
from tests.installed import ROOT, built_wheel, check_page, clean_copy

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
SHIPPED_BYTES = 15_000_000
"""Of the wheel, for checkpoints: what an index takes without asking, and a slow line in a minute."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a clean copy."""
    folder = tmp_path_factory.mktemp("wheel")
    return built_wheel(clean_copy(folder / "source"), folder)


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The prefix that pip put the wheel into."""
    prefix = wheel.parent / "prefix"
    install = [*PIP, "install", "--no-deps", "--no-index", "--ignore-installed", "--prefix", prefix, wheel]
    put = subprocess.run(install, capture_output=True, text=True)
    assert put.returncode == 0, put.stdout + put.stderr
    return prefix


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


def test_the_checkpoints_come_along_and_stay_small(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        shipped = [entry for entry in archive.infolist() if "/share/gymnast_ros/checkpoints/" in entry.filename]
    assert {Path(entry.filename).parent.name for entry in shipped} == {*KINDS, *BASE_POLICIES.values()}
    assert sum(entry.compress_size for entry in shipped) < SHIPPED_BYTES


def test_an_installed_copy_finds_its_checkpoints_and_settings_from_any_folder(installed: Path, tmp_path: Path) -> None:
    program = "from gymnast_core.shipped import *; print(shipped_checkpoints(), settings_file('loop.toml'))"
    shown = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(library(installed))},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    share = installed / "share" / "gymnast_ros"
    assert shown.stdout.split() == [str(share / "checkpoints"), str(share / "config" / "loop.toml")]
    assert (share / "config" / "loop.toml").is_file()


def test_the_wheel_asks_for_ranges_and_a_python(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Requires-Python"] == ">=3.10"
    assert not [one for one in metadata.get_all("Requires-Dist", []) if "==" in one.partition(";")[0]]
