"""Environments with other people's packages (scripts/foreign_env.py), and programs that run in them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKING_S, RUNNING_S = 4000, 300


def python_of(name: str, *, make: bool = True) -> Path:
    """The Python of an environment, which is made at first use; skips where its packages cannot be had.

    One that is not to be made (it is large) skips where nobody made it. GYMNAST_FOREIGN_<NAME> names another.
    """
    if given := os.environ.get(f"GYMNAST_FOREIGN_{name.upper()}"):
        return Path(given)
    command = [sys.executable, ROOT / "scripts" / "foreign_env.py", name, *([] if make else ["--made"])]
    made = subprocess.run(command, capture_output=True, text=True, timeout=MAKING_S, check=False)
    if made.returncode:
        pytest.skip(made.stderr.strip())
    return Path(made.stdout.strip())


def run(python: Path, program: str, *arguments: str, given: str = "", env: dict[str, str] | None = None) -> str:
    """What a program prints there, given a text on its standard input."""
    command = [python, "-c", program, *arguments]
    done = subprocess.run(
        command,
        input=given,
        capture_output=True,
        text=True,
        timeout=RUNNING_S,
        check=False,
        env=env and {**os.environ, **env},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
