"""The direction of imports, walked over every module (DESIGN.md, "Where things live")."""

import ast
import functools
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
DOORS = {
    "cloud_trainer.app": "the trainer's application: serve, identities, a folder's health, what jobs keep for people",
    "cloud_trainer.jobs.desk": "at a desk, without a service: data, world models, measurements, pretraining",
    "cloud_trainer.jobs.tensorboard": "curves of a job that is watched, written as the trainer writes them",
    "gymnast_ros.arguments": "flags of up are those of the launch files",
    "gymnast_ros.bringup": "starts the robot's graph",
    "gymnast_ros.doctor": "looks over a robot's folder",
    "gymnast_ros.enclaves": "writes the keystore of SROS2",
    "gymnast_ros.keyring": "the variable of the domain",
    "gymnast_ros.nodes.access": "what the keystore permits",
    "gymnast_ros.nodes.client": "asks a started robot",
    "gymnast_ros.nodes.onlooker": "shows a started robot",
    "gymnast_ros.nodes.replay": "plays a recording onto topics",
    "gymnast_ros.run.codec": "ranges of a request's arguments",
    "gymnast_ros.run.requests": "the requests a robot takes",
    "gymnast_ros.sim.drivers": "the demonstrations that pretraining clones",
    "gymnast_ros.sim.films": "films of the demo's report",
    "gymnast_ros.sim.tasks": "names of the simulator's tasks in the demo's report",
    "gymnast_ros.uplink": "fetches an identity with a code, on a robot's machine too",
}
"""What of both sides gymnast_cli imports, and why; it parses, calls and prints."""
NOT_IN_CLI = ("torch", "safetensors", "sqlalchemy", "sqlite3", "grpc", "rclpy", "mujoco", "mcap", "cryptography")
"""Libraries of networks, stores, wires and arms."""
TRAINER = (
    ("app",),
    ("console",),
    ("service",),
    ("flows",),
    ("jobs",),
    ("practice",),
    ("records",),
    ("paging",),
    ("judge", "sft", "world_model"),
    ("store",),
)
"""The folders of cloud_trainer from top to bottom: each imports those below its line and none beside it."""
ARTS = ("world_model", "judge", "sft", "practice.grpo")
"""What jobs/ joins through Env, Policy and Judge: none imports another, nor what is stored."""


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported_by(path: Path) -> set[str]:
    """Every module name that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(tree_of(path)):
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


@functools.cache
def imports() -> dict[str, set[str]]:
    """Module -> every name that it imports. Read when a test asks: every process that collects loads this file."""
    return {module_of(path): imported_by(path) for path in MODULES}


def of_package(top: str) -> list[Path]:
    """The modules of one of ours: a test a package, for a test a module costs more than what it looks at."""
    return [path for path in MODULES if within(path, top)]


@pytest.mark.parametrize("top", OURS)
def test_imports_go_one_way(top: str):
    forbidden = {path.relative_to(ROOT).as_posix(): sorted(wrong_way(path)) for path in of_package(top)}
    assert {path: names for path, names in forbidden.items() if names} == {}


def wrong_way(path: Path) -> set[str]:
    """What a module imports and may not."""
    module, names = module_of(path), imports()[module_of(path)]
    top = module.split(".")[0]
    wrong = touches(names, *(set(OURS) - {top, *MAY_IMPORT[top]}))
    wrong |= touches(names, *(library for library, places in FOREIGN.items() if not within(path, *places)))
    for art in ARTS:
        if touches({module}, f"cloud_trainer.{art}"):
            wrong |= touches(names, *(f"cloud_trainer.{other}" for other in ARTS if other != art))
            wrong |= touches(names, "cloud_trainer.store", "cloud_trainer.records")
    if within(path, "gymnast_cli"):
        wrong |= touches(names, *NOT_IN_CLI, "gymnast_core.arm")
        wrong |= touches(names, "cloud_trainer", "gymnast_ros") - touches(names, *DOORS)
    if not within(path, "gymnast_ros/nodes", "gymnast_ros/bringup.py"):
        wrong |= {name for name in names if name.split(".")[0].endswith(("_msgs", "_srvs", "_interfaces"))}
    if within(path, "gymnast_ros") and not within(path, "gymnast_ros/nodes"):
        wrong |= touches(names, "gymnast_ros.nodes")
    return wrong


@pytest.mark.parametrize("door", DOORS)
def test_every_door_of_the_command_line_is_used(door: str):
    assert any(touches(found, door) for name, found in imports().items() if touches({name}, "gymnast_cli")), door


def above(part: str) -> Iterator[str]:
    """The parts of the trainer that another may not import: those of its own line, and of the lines above it."""
    for line in TRAINER:
        yield from (name for name in line if name != part)
        if part in line:
            return


@pytest.mark.parametrize("part", [part for line in TRAINER for part in line])
def test_the_trainers_parts_import_downwards(part: str):
    own = {name: imports()[name] for name in imports() if touches({name}, f"cloud_trainer.{part}")}
    upwards = {
        name: touches(found, *(f"cloud_trainer.{other}" for other in above(part))) for name, found in own.items()
    }
    assert own, f"cloud_trainer/{part} is empty; drop it from TRAINER"
    assert {name: found for name, found in upwards.items() if found} == {}


def test_every_part_of_the_trainer_has_its_line_and_single_files_lie_below_them():
    parts = {part for line in TRAINER for part in line}
    assert {path.parent.name for path in (ROOT / "cloud_trainer").glob("*/__init__.py")} == parts
    for path in (ROOT / "cloud_trainer").glob("*.py"):
        assert not touches(imports()[module_of(path)], *(f"cloud_trainer.{part}" for part in parts)), path.name


def test_no_circles():
    """Imports inside functions and for type checking included: a circle makes two files one that nobody can move."""
    graph = {
        name: {other for other in found if other in imports() and other != name and not name.startswith(other + ".")}
        for name, found in imports().items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circle: {' <- '.join(error.args[1])}")


UNPICKLER = "cloud_trainer/world_model/dit/restricted_unpickler.py"


@pytest.mark.parametrize("top", OURS)
def test_no_pickle_and_no_torch_load(top: str):
    found = {path.relative_to(ROOT).as_posix(): sorted(unpickles(path)) for path in of_package(top)}
    assert found.pop(UNPICKLER, []) in ([], ["pickle"])
    assert {path: what for path, what in found.items() if what} == {}


def unpickles(path: Path) -> set[str]:
    """Modules of pickles that a file imports, and what it calls that opens or writes one."""
    called = (node.func for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call))
    calls = {ast.unparse(func) for func in called if isinstance(func, ast.Attribute) and func.attr in ("load", "save")}
    modules = touches(imports()[module_of(path)], "pickle", "cloudpickle", "dill", "shelve")
    return modules | calls & {"torch.load", "torch.save"}


def test_rules_cover_modules():
    assert len(MODULES) > 20
