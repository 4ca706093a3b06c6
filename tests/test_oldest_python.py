"""The oldest Python that is promised (setup.py) has everything the code asks of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("gymnast_core", "gymnast_client", "gymnast_ros", "cloud_trainer", "gymnast_cli", "launch")
PACKAGES = (*FOLDERS, "setup.py", "conftest.py")


def test_nothing_needs_a_younger_python_than_promised() -> None:
    pytest.importorskip("vermin")
    promised = re.search(r"sys\.version_info < \((\d), (\d+)\)", (ROOT / "setup.py").read_text(encoding="utf-8"))
    assert promised is not None
    options = ["--eval-annotations", "--no-parse-comments", "--violations", f"-t={promised[1]}.{promised[2]}-"]
    options += ["--exclude-regex", r"\.pyi$"]  # nothing runs the stubs' types
    command = [sys.executable, "-c", "import vermin; vermin.main()", "-q", *options, *PACKAGES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
