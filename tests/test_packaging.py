"""What is installed is what is written: setup.py, pyproject.toml and package.xml agree, every README command exists."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import setuptools
from packaging.requirements import Requirement

from gymnast_cli.main import COMMANDS, main, parser_for
from gymnast_ros.arguments import ARGUMENTS, config_from
from gymnast_ros.graph import ROBOTS, GraphConfig, graph

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
tomllib = pytest.importorskip("tomllib", reason="pyproject.toml is read with Python 3.11's tomllib")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINUX = {"platform_system": "Linux", "sys_platform": "linux", "platform_machine": "x86_64"}
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PREPARATION = ("cd ", "mkdir ", "git clone", "rosdep install", "python3 -m colcon build", "source ", "export ")
"""README lines that belong to git, ROS and the shell, not to us."""


@pytest.fixture(scope="module")
def setup_arguments() -> dict[str, Any]:
    """What setup.py hands to setuptools."""
    given: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(setuptools, "setup", lambda **arguments: given.update(arguments))
        exec(compile((ROOT / "setup.py").read_text(), "setup.py", "exec"), {"__name__": "__main__"})
    return given


def test_name_and_version_agree(setup_arguments: dict[str, Any]) -> None:
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    names = {setup_arguments["name"], PYPROJECT["project"]["name"], package.findtext("name")}
    versions = {setup_arguments["version"], PYPROJECT["project"]["version"], package.findtext("version")}
    assert names == {"gymnast_ros"}
    assert len(versions) == 1
    assert package.findtext("license") == setup_arguments["license"]
    assert package.findtext("export/build_type") == "ament_python"
    assert (ROOT / "resource" / "gymnast_ros").is_file()


def test_every_entry_point_is_a_function(setup_arguments: dict[str, Any]) -> None:
    scripts = setup_arguments["entry_points"]["console_scripts"]
    assert len(scripts) >= 7
    for script in scripts:
        name, _, target = (part.strip() for part in script.partition("="))
        module, _, function = target.partition(":")
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
        assert function in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)], name


def test_every_node_that_is_launched_is_installed(setup_arguments: dict[str, Any]) -> None:
    installed = {script.partition(" ")[0] for script in setup_arguments["entry_points"]["console_scripts"]}
    everything = {"trainer": "cloud:50051", "insecure": True, "teleop": True, "page": 8081}
    launched = {
        spec.executable for robot in ROBOTS for spec in graph(GraphConfig(folder=Path("x"), robot=robot, **everything))
    }
    assert launched >= {"sim_world", "widowx_arm", "command_gate", "rollout", "bridge"}
    assert launched <= installed


def test_every_module_and_data_file_is_installed(setup_arguments: dict[str, Any]) -> None:
    packages = set(setup_arguments["packages"])
    data = setup_arguments["package_data"]
    for top in ("gymnast_core", "gymnast_client", "gymnast_ros", "cloud_trainer", "gymnast_cli"):
        assert "py.typed" in data[top], "a caller's type checker reads our annotations only beside this marker"
        for path in (ROOT / top).rglob("*"):
            if not path.is_file() or "__pycache__" in path.parts:
                continue
            folder = ".".join(path.relative_to(ROOT).parent.parts)
            if path.suffix == ".py":
                assert folder in packages, f"{path} lies in no package; add an __init__.py"
            else:
                assert path.relative_to(ROOT / top).as_posix() in data[top], f"{path} is not installed; see setup.py"


def test_launch_and_configuration_are_installed(setup_arguments: dict[str, Any]) -> None:
    installed = {file for _, files in setup_arguments["data_files"] for file in files}
    assert {f"launch/{path.name}" for path in (ROOT / "launch").glob("*.launch.py")} <= installed
    assert {"package.xml", "resource/gymnast_ros", "config/loop.toml"} <= installed
    shipped = {path.relative_to(ROOT).as_posix() for path in (ROOT / "checkpoints").rglob("*") if path.is_file()}
    assert "checkpoints/world_model/bounds.json" in shipped
    assert shipped <= installed


def requirements(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for, our own extras left out; without a name, the base and every extra."""
    project = PYPROJECT["project"]
    lists = project["optional-dependencies"]
    groups = [lists[extra] for extra in extras] if extras else lists.values()
    found = [Requirement(entry) for entries in (project["dependencies"], *groups) for entry in entries]
    return [one for one in found if one.name != "gymnast_ros"]


def pinned(python: str) -> dict[str, str]:
    """The versions of constraints.txt for one Python, by name."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    chosen = [
        one
        for one in map(Requirement, lines)
        if one.marker is None or one.marker.evaluate({**LINUX, "python_version": python})
    ]
    names = [one.name for one in chosen]
    assert len(names) == len(set(names)), "a package has two versions"
    assert {spec.operator for one in chosen for spec in one.specifier} == {"=="}
    return {one.name: str(one.specifier).removeprefix("==") for one in chosen}


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_is_a_range_and_the_tested_version_lies_in_it(python: str) -> None:
    versions = pinned(python)
    for asked in requirements():
        assert sorted(spec.operator for spec in asked.specifier) == ["<", ">="], f"{asked} has no range"
        if asked.marker is None or asked.marker.evaluate({**LINUX, "python_version": python, "extra": ""}):
            assert asked.specifier.contains(versions[asked.name]), f"{asked} leaves out {versions[asked.name]}"
    assert versions.keys() <= {asked.name for asked in requirements()}, "nothing asks for it"


def test_our_own_extras_exist() -> None:
    lists = PYPROJECT["project"]["optional-dependencies"]
    asked = [one for entries in lists.values() for one in map(Requirement, entries) if one.name == "gymnast_ros"]
    assert {extra for one in asked for extra in one.extras} <= lists.keys()


def test_nobody_builds_pybullet_for_the_tests() -> None:
    """It has wheels up to Python 3.11 alone."""
    (gate,) = [
        one for one in map(Requirement, PYPROJECT["project"]["optional-dependencies"]["dev"]) if "gate" in one.extras
    ]
    assert gate.marker is not None
    assert [python for python in PYTHONS if gate.marker.evaluate({"python_version": python})] == ["3.10", "3.11"]


def test_make_and_ci_install_the_tested_versions() -> None:
    makefile = (ROOT / "Makefile").read_text()
    lines = [line for line in makefile.splitlines() if not line.startswith("#")]
    installs = [line for line in lines if "pip install" in line or "$(PIP)" in line]
    assert len(installs) == 3
    assert all("--constraint constraints.txt" in line or "$(PIP)" in line for line in installs)
    assert "pip install" not in (ROOT / ".ci" / "run").read_text()


def test_robots_environment_has_every_dependency_in_versions_that_fit_its_ros() -> None:
    """numpy 1, and an OpenCV for it: the distributions' rclpy was built for it; all else as everywhere."""
    lines = (ROOT / "config" / "robot_requirements.txt").read_text().splitlines()
    robot = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins, asked = pinned("3.10"), {one.name: one for one in requirements("page", "openpi")}
    assert robot.keys() == asked.keys()
    assert {name for name in robot if robot[name] != pins[name]} == {"numpy", "opencv-python-headless"}
    assert all(asked[name].specifier.contains(version) for name, version in robot.items())
    assert robot["numpy"].startswith("1.")
    assert f"torch=={pins['torch']}\n" in (ROOT / "scripts" / "robot_env.sh").read_text()


def test_every_command_is_listed_and_has_both_functions() -> None:
    files = {path.stem for path in (ROOT / "gymnast_cli" / "commands").glob("[a-z]*.py")}
    assert files == set(COMMANDS)
    for name in files:
        tree = ast.parse((ROOT / "gymnast_cli" / "commands" / f"{name}.py").read_text())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert {"add_arguments", "run"} <= functions, name


def readme_lines() -> list[str]:
    """Every shell command of the README, comments and && chains taken apart."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    inline = re.findall(r"`((?:make|gymnast|pip install|ros2) [^`]+)`", README)
    lines = [line for block in blocks for line in block.splitlines()] + inline
    parts = [part.strip() for line in lines for part in re.sub(r"\s#.*", "", line).split("&&")]
    return [part for part in dict.fromkeys(parts) if part]


def test_readme_has_commands() -> None:
    assert {line.split()[0] for line in readme_lines()} >= {"make", "gymnast", "ros2"}


@pytest.mark.parametrize("line", readme_lines())
def test_readme_command_exists(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    if line.startswith(PREPARATION):
        return
    words = shlex.split(line)
    if words[0].startswith("gymnast_ros/"):
        check_script([words[0].removeprefix("gymnast_ros/")], capsys)
        return
    checks = {"make": check_make, "gymnast": check_gymnast, "ros2": check_ros2, "pip": check_pip, "ray": check_ray}
    checks["."] = check_activation
    assert words[0] in checks, f"nobody checks {line!r}; add a rule here"
    checks[words[0]](words[1:], capsys)


def check_script(words: list[str], _: object) -> None:
    """A script of the clone's; it explains itself where it gets nothing to do."""
    assert words[0].startswith("scripts/")
    shown = subprocess.run([ROOT / words[0]], capture_output=True, text=True)
    assert (shown.returncode, "usage:" in shown.stderr) == (2, True)


def check_make(words: list[str], _: object) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [word for word in words if "=" not in word and word not in targets] == []


def check_gymnast(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The arguments are accepted; --help itself is run."""
    if "--help" in words:
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        assert "usage: gymnast" in capsys.readouterr().out
    else:
        assert isinstance(parser_for(words).parse_args(words), argparse.Namespace)


def check_ray(words: list[str], _: object) -> None:
    """Ray's own command line knows the flags."""
    ray = Path(sys.executable).with_name("ray")
    text = subprocess.run([ray, words[0], "--help"], capture_output=True, text=True, check=True, timeout=60).stdout
    assert [word for word in words[1:] if word.split("=")[0] not in text] == []


def check_activation(words: list[str], _: object) -> None:
    """The environment that make makes."""
    assert words == [".venv/bin/activate"]
    assert "VENV   := .venv\n" in (ROOT / "Makefile").read_text()


def check_pip(words: list[str], _: object) -> None:
    if words[1].startswith("./"):  # plug-ins, into somebody else's environment
        assert all((ROOT / folder / "pyproject.toml").is_file() for folder in words[1:])
        return
    assert words[:2] == ["install", "-e"], "nothing is published: install from the clone"
    extras = re.search(r"\.\[(.*?)\]", words[-1])
    assert extras is not None
    assert set(extras[1].split(",")) <= set(PYPROJECT["project"]["optional-dependencies"])


def check_ros2(words: list[str], _: object) -> None:
    """Launch files declare the arguments; nodes, topics and types are asked of a running graph in tests/ros."""
    if words[0] == "launch":
        assert (ROOT / "launch" / words[2]).is_file()
        given = dict(word.split(":=") for word in words[3:])
        assert given.keys() <= {argument.name for argument in ARGUMENTS}
        config_from({argument.name: argument.default for argument in ARGUMENTS} | given)
    assert words[0] in ("launch", "lifecycle", "topic", "service", "param", "bag")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert COMMANDS[name] in " ".join(capsys.readouterr().out.split())
