"""The direction of imports, walked over every module (DESIGN.md, "Where things live")."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("gymnast_core", "gymnast_client", "gymnast_ros", "cloud_trainer", "gymnast_cli")
MODULES = sorted(
    p for top in OURS for p in (ROOT / top).rglob("*.py") if "gymnast_core/wire/gymnast/" not in p.as_posix()
)

MAY_IMPORT = {
    "gymnast_core": (),
    "gymnast_client": ("gymnast_core",),
    "gymnast_ros": ("gymnast_core", "gymnast_client"),
    "cloud_trainer": ("gymnast_core",),
    "gymnast_cli": ("gymnast_core", "gymnast_client", "gymnast_ros", "cloud_trainer"),
}
"""Package -> ours that it may import. The robot side and the trainer meet on the wire and in the core."""
FOREIGN = {
    "rclpy": ("gymnast_ros/nodes", "gymnast_ros/bringup.py"),
    "grpc": ("gymnast_client", "gymnast_ros/uplink", "cloud_trainer/service", "gymnast_core/wire"),
}
"""Library -> the only places that import it."""
TRAINER = (
    ("app",),
    ("console",),
    ("service",),
    ("flows",),
    ("jobs",),
    ("practice",),
    ("records",),
    ("judge", "sft", "world_model"),
    ("store",),
)
"""The folders of cloud_trainer from top to bottom: each imports those below its line and none beside it."""
ARTS = ("world_model", "judge", "sft", "practice.grpo")
"""What jobs/ joins through Env, Policy and Judge: none imports another, nor what is stored."""


def imported_by(path: Path) -> set[str]:
    """Every module name that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(path: Path, *folders: str) -> bool:
    relative = path.relative_to(ROOT).as_posix()
    return any(relative == folder or relative.startswith(folder.rstrip("/") + "/") for folder in folders)


def touches(names: set[str], *tops: str) -> set[str]:
    return {name for name in names for top in tops if name == top or name.startswith(top + ".")}


NAMES = {module_of(path): imported_by(path) for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path: Path):
    module, names = module_of(path), NAMES[module_of(path)]
    top = module.split(".")[0]
    assert not touches(names, *(set(OURS) - {top, *MAY_IMPORT[top]}))
    for library, places in FOREIGN.items():
        assert within(path, *places) or not touches(names, library)
    for art in ARTS:
        if touches({module}, f"cloud_trainer.{art}"):
            assert not touches(names, *(f"cloud_trainer.{other}" for other in ARTS if other != art))
            assert not touches(names, "cloud_trainer.store", "cloud_trainer.records")
    if within(path, "gymnast_cli"):  # it parses, calls and prints
        inner = ("store", "records", "flows", "practice", "sft", "console")
        assert not touches(names, "torch", "mujoco", "gymnast_core.arm", "gymnast_ros.drivers")
        assert not touches(names, *(f"cloud_trainer.{room}" for room in inner))
    if not within(path, "gymnast_ros/nodes", "gymnast_ros/bringup.py"):
        assert not {name for name in names if name.split(".")[0].endswith(("_msgs", "_srvs", "_interfaces"))}
    if within(path, "gymnast_ros") and not within(path, "gymnast_ros/nodes"):
        assert not touches(names, "gymnast_ros.nodes")


def above(part: str) -> Iterator[str]:
    """The parts of the trainer that another may not import: those of its own line, and of the lines above it."""
    for line in TRAINER:
        yield from (name for name in line if name != part)
        if part in line:
            return


@pytest.mark.parametrize("part", [part for line in TRAINER for part in line])
def test_the_trainers_parts_import_downwards(part: str):
    own = {name: NAMES[name] for name in NAMES if touches({name}, f"cloud_trainer.{part}")}
    upwards = {
        name: touches(found, *(f"cloud_trainer.{other}" for other in above(part))) for name, found in own.items()
    }
    assert own, f"cloud_trainer/{part} is empty; drop it from TRAINER"
    assert {name: found for name, found in upwards.items() if found} == {}


def test_every_part_of_the_trainer_has_its_line_and_single_files_lie_below_them():
    parts = {part for line in TRAINER for part in line}
    assert {path.parent.name for path in (ROOT / "cloud_trainer").glob("*/__init__.py")} == parts
    for path in (ROOT / "cloud_trainer").glob("*.py"):
        assert not touches(NAMES[module_of(path)], *(f"cloud_trainer.{part}" for part in parts)), path.name


def test_no_circles():
    """Imports inside functions and for type checking included: a circle makes two files one that nobody can move."""
    graph = {
        name: {other for other in found if other in NAMES and other != name and not name.startswith(other + ".")}
        for name, found in NAMES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circle: {' <- '.join(error.args[1])}")


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
