"""A file of ours has at most 300 lines, unless its head says why; those that do are named here."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("gymnast_core", "gymnast_client", "gymnast_ros", "cloud_trainer", "gymnast_cli")
MOST_LINES = 300
LONG = {
    "cloud_trainer/flows/scene_engine.py",
    "cloud_trainer/records/trail.py",
    "cloud_trainer/service/handlers/checkpoints.py",
    "cloud_trainer/service/publish.py",
    "cloud_trainer/service/server.py",
    "gymnast_ros/nodes/widowx_loop.py",
    "gymnast_ros/run/arm_jobs.py",
    "gymnast_ros/uplink/robot_store.py",
}
"""Where one more split would cost the reader more than the length does; the reason is in each file's head."""


def long_files() -> set[str]:
    """Files over the limit, without what protoc generates."""
    paths = (path.relative_to(ROOT).as_posix() for top in OURS for path in (ROOT / top).rglob("*.py"))
    ours = (path for path in paths if not path.startswith("gymnast_core/wire/gymnast/"))
    return {path for path in ours if len((ROOT / path).read_text().splitlines()) > MOST_LINES}


def test_a_long_file_is_one_of_those_that_are_named():
    assert long_files() == LONG, "split the new ones by what they are responsible for; take out what is short now"


@pytest.mark.parametrize("path", sorted(LONG))
def test_a_long_file_says_why_in_its_head(path):
    head = ast.get_docstring(ast.parse((ROOT / path).read_text())) or ""
    assert "long file: " in head or "long because " in head
