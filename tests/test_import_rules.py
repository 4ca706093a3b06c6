"""The direction of imports, walked over every module (DESIGN.md, "Where things live")."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("gymnast_core", "gymnast_ros", "cloud_trainer", "gymnast_cli")
MODULES = sorted(p for top in OURS for p in (ROOT / top).rglob("*.py") if "wire/gymnast" not in p.as_posix())


def imported_by(path: Path) -> set[str]:
    """Every module name that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(path: Path, *folders: str) -> bool:
    relative = path.relative_to(ROOT).as_posix()
    return any(relative == folder or relative.startswith(folder.rstrip("/") + "/") for folder in folders)


def touches(names: set[str], *tops: str) -> set[str]:
    return {name for name in names for top in tops if name == top or name.startswith(top + ".")}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path: Path):
    names = imported_by(path)
    if within(path, "gymnast_core"):
        assert not touches(names, "gymnast_ros", "cloud_trainer", "gymnast_cli")
    if within(path, "gymnast_ros"):
        assert not touches(names, "cloud_trainer", "gymnast_cli")
    if within(path, "cloud_trainer"):
        assert not touches(names, "gymnast_ros", "gymnast_cli")
    if not within(path, "gymnast_ros/nodes", "gymnast_ros/bringup.py"):
        assert not touches(names, "rclpy")
    if not within(path, "gymnast_ros/uplink", "cloud_trainer/service", "gymnast_core/wire"):
        assert not touches(names, "grpc")
    arts = ("world_model", "judge", "practice.grpo", "sft")
    for art in arts:
        if within(path, "cloud_trainer/" + art.replace(".", "/")):
            assert not touches(names, *(f"cloud_trainer.{other}" for other in arts if other != art))
            assert not touches(
                names, "cloud_trainer.jobs", "cloud_trainer.flows", "cloud_trainer.service", "cloud_trainer.store"
            )


DOWNWARDS = (
    ("app",), ("console",), ("service",), ("flows",), ("jobs",), ("practice",), ("records",),
    ("judge", "sft", "world_model"), ("store",),
)  # fmt: skip
"""Rooms of cloud_trainer: each may import those below it. Modules beside the rooms are everybody's."""


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_the_trainer_imports_downwards(path: Path):
    floors = {room: floor for floor, rooms in enumerate(DOWNWARDS) for room in rooms}
    parts = path.relative_to(ROOT).parts
    if parts[0] != "cloud_trainer" or len(parts) < 3:
        return
    above = {
        f"cloud_trainer.{room}" for room, floor in floors.items() if floor <= floors[parts[1]] and room != parts[1]
    }
    assert not touches(imported_by(path), *above)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_pickle_and_no_torch_load(path: Path):
    tree = ast.parse(path.read_text())
    allowed = within(path, "cloud_trainer/world_model/dit/restricted_unpickler.py")
    if not allowed:
        assert not touches(imported_by(path), "pickle", "cloudpickle", "dill", "shelve")
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not calls & {"torch.load", "torch.save"}


def test_rules_cover_modules():
    assert len(MODULES) > 20
