"""The examples install as packages do, and leave the entry points that the other tests write down by themselves."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from examples.installing import EXAMPLES, install
from gymnast_core.extensions import DATASETS, JUDGES, POLICIES, WORLDS

GROUPS = (POLICIES, JUDGES, DATASETS, WORLDS)


def added(site: Path) -> set[tuple[str, str, str]]:
    found = [one for dist in metadata.distributions(path=[str(site)]) for one in dist.entry_points]
    return {(one.group, one.name, one.value) for one in found}


def test_every_kind_of_extension_has_an_example(tmp_path: Path) -> None:
    assert {group for group, _, _ in added(install(tmp_path))} == set(GROUPS)


@pytest.mark.slow
def test_pip_installs_the_same(tmp_path: Path) -> None:
    """Slow: pip builds five wheels."""
    names = sorted(path.parent.name for path in EXAMPLES.glob("*/pyproject.toml"))
    for name in names:  # pip builds in the folder that it is given
        shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=shutil.ignore_patterns("test_*", "__pycache__"))
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", tmp_path / "site"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *(tmp_path / name for name in names)], check=True)
    (tmp_path / "ours").mkdir()
    assert added(tmp_path / "site") == added(install(tmp_path / "ours"))
