"""The wheel in a fresh environment, in the newest versions its ranges allow: `gymnast demo` in an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.installed import built_wheel, clean_copy

pytestmark = pytest.mark.slow

PYTHONS = ("3.10", "3.13")
"""The oldest and the newest that are promised."""
INSTALL_S, DEMO_S = 3000, 3000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a clean copy."""
    folder = tmp_path_factory.mktemp("wheel")
    return built_wheel(clean_copy(folder / "source"), folder)


def interpreter(version: str) -> str:
    """A Python of this version, or the test skips."""
    installed = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    found = str(installed[-1]) if installed else shutil.which(f"python{version}")
    if found is None:
        pytest.skip(f"Python {version} is not on this machine")
    return found


@pytest.mark.parametrize("version", PYTHONS)
def test_the_demo_runs_from_the_wheel_alone(version: str, wheel: Path, tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run([interpreter(version), "-m", "venv", tmp_path / "venv"], check=True, env=clean)
    tools = tmp_path / "venv" / "bin"
    install = [tools / "pip", "install", "--quiet", f"{wheel}[sim]"]
    put = subprocess.run(install, capture_output=True, text=True, timeout=INSTALL_S, env=clean)
    assert put.returncode == 0, put.stderr
    (folder := tmp_path / "empty").mkdir()
    demo = [tools / "gymnast", "--json", "demo", "--smoke"]
    done = subprocess.run(demo, cwd=folder, capture_output=True, text=True, timeout=DEMO_S, env=clean)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])
    assert [path.name for path in folder.iterdir()] == ["runs"]
    assert list(folder.glob("runs/*/report.html"))
