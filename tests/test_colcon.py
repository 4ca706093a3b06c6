"""colcon builds and installs the package as ROS 2 Jazzy and Kilted would: with the setuptools of Ubuntu 24.04."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.installed import ROOT, check_page, clean_copy

COLCON = (
    "setuptools==68.1.2",
    "colcon-core==0.21.3",
    "colcon-ros==0.5.0",
    "colcon-python-setup-py==0.2.9",
    "colcon-recursive-crawl==0.2.3",
    "colcon-library-path==0.2.1",
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built colcon workspace with this package in its src folder, in an environment of its own."""
    folder = tmp_path_factory.mktemp("ros2_ws")
    venv.create(folder / "venv", with_pip=False)  # ours installs into it: ensurepip takes seconds
    tools = folder / "venv" / "bin"
    pip = (sys.executable, "-m", "pip", "--python", tools / "python", "--disable-pip-version-check")
    installed = subprocess.run([*pip, "install", "--quiet", *COLCON], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"colcon could not be installed from the package registry: {installed.stderr[-200:]}")
    clean_copy(folder / "src" / "gymnast_ros")
    built = subprocess.run([tools / "colcon", "build"], cwd=folder, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "install" / "gymnast_ros"


def test_every_node_is_an_executable_where_ros2_run_looks(workspace: Path) -> None:
    found = {path.name for path in (workspace / "lib" / "gymnast_ros").iterdir() if os.access(path, os.X_OK)}
    scripts = re.findall(r'"(\w+)"', re.search(r"NODES = \((.*?)\)", (ROOT / "setup.py").read_text(), re.DOTALL)[1])
    assert found == {"gymnast", *scripts}
    assert found >= {"sim_world", "command_gate", "rollout", "bridge", "widowx_arm"}


def test_launch_files_configuration_and_index_are_installed(workspace: Path) -> None:
    share = workspace / "share"
    assert (share / "ament_index" / "resource_index" / "packages" / "gymnast_ros").is_file()
    for folder in ("launch", "config"):
        wanted = {path.name for path in (ROOT / folder).glob("*.*") if path.suffix != ".pyc"}
        assert {path.name for path in (share / "gymnast_ros" / folder).iterdir()} == wanted


def test_the_installed_page_answers(workspace: Path, tmp_path: Path) -> None:
    check_page(next((workspace / "lib").glob("python3*/site-packages")), tmp_path)
