"""The examples install as packages do, and leave the entry points that the other tests write down by themselves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from examples.installing import EXAMPLES, Terminal, entry_points, install
from gymnast_core.extensions import GATES, GROUPS

OURS = GATES
"""Of this kind Gymnast's own is the example: gymnast_ros/sim/bullet/gate.py."""


def added(site: Path) -> set[tuple[str, str, str]]:
    found = [one for dist in metadata.distributions(path=[str(site)]) for one in dist.entry_points]
    return {(one.group, one.name, one.value) for one in found}


def test_every_kind_of_extension_has_an_example(tmp_path: Path) -> None:
    assert {group for group, _, _ in added(install(tmp_path))} == {*GROUPS} - {OURS}


def test_the_command_lists_them_and_a_broken_one_breaks_no_other(terminal: Terminal, tmp_path: Path) -> None:
    broken = {
        "gymnast.judges": {"raises": "broken:nothing", "ends": "ends:nothing", "dot_distance": "broken:again"},
        "gymnast.worlds": {"dies": "dies:nothing"},
    }  # fmt: skip
    site = tmp_path / "broken"
    (info := site / "broken-0.3.dist-info").mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text(entry_points(broken))
    (site / "broken.py").write_text("raise RuntimeError('no such licence')\n")
    (site / "ends.py").write_text("raise SystemExit('I need a display')\n")
    (site / "dies.py").write_text("import os\nos._exit(41)\n")
    terminal.environment["PYTHONPATH"] += f"{os.pathsep}{site}"
    found = json.loads(terminal.run("--json", "plugins", code=1))["plugins"]
    errors = {(one["name"], one["package"]): one["error"] for one in found if one["error"]}
    assert errors == {
        ("raises", "broken"): "'raises' of gymnast.judges is broken:nothing, which cannot be imported: "
        "RuntimeError: no such licence",
        ("ends", "broken"): "I need a display",
        ("dies", "broken"): "its process ended with 41",
        **dict.fromkeys(
            [("dot_distance", "broken"), ("dot_distance", "my_judge")],
            f"2 packages add 'dot_distance' to gymnast.judges; there are {['dot_distance', 'ends', 'raises']}",
        ),
    }
    assert {(one["name"], one["version"]) for one in found} >= {("my_policy", "0.1"), ("board", "0.1")}


@pytest.mark.slow
def test_pip_installs_the_same(tmp_path: Path) -> None:
    """Slow: pip builds seven wheels."""
    names = sorted(path.parent.name for path in EXAMPLES.glob("*/pyproject.toml"))
    for name in names:  # pip builds in the folder that it is given
        shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=shutil.ignore_patterns("test_*", "__pycache__"))
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", tmp_path / "site"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *(tmp_path / name for name in names)], check=True)
    (tmp_path / "ours").mkdir()
    assert added(tmp_path / "site") == added(install(tmp_path / "ours"))
