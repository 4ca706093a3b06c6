"""ament_python entry: what colcon installs. Dependencies live in pyproject.toml (pip) and package.xml (rosdep)."""

import sys
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "gymnast_ros"
OURS = ("gymnast_core", "gymnast_client", PACKAGE, "cloud_trainer", "gymnast_cli")
DATA = (".html", ".css", ".js", ".svg", ".pyi", ".xml")
NODES = ("sim_world", "command_gate", "rollout", "bridge", "widowx_arm", "teleop", "page", "keyboard", "evaluate_once")

if sys.version_info < (3, 10):  # noqa: UP036  (colcon does not look at python_requires)
    sys.exit(f"{PACKAGE} needs Python 3.10 or newer, this is {sys.version.split()[0]}")


def files(pattern: str) -> list[str]:
    """Files of this folder, as setuptools wants them: relative."""
    return sorted(str(path) for path in Path().glob(pattern))


def data(top: str) -> list[str]:
    """Pages, pictures, types of generated files and markers of one of our packages, each by its path in it.

    No patterns: `*.html` finds none in a folder without __init__.py, and `**` none with the setuptools of Ubuntu 22.04.
    """
    found = (path for path in Path(top).rglob("*") if path.suffix in DATA or path.name == "py.typed")
    return sorted(path.relative_to(top).as_posix() for path in found)


setup(
    name=PACKAGE,
    version="0.2.0",
    packages=find_packages(include=[f"{top}{sub}" for top in OURS for sub in ("", ".*")]),
    package_data={top: data(top) for top in OURS},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", files("launch/*.launch.py")),
        (f"share/{PACKAGE}/config", files("config/*.*")),
        *((f"share/{PACKAGE}/{folder}", files(f"{folder}/*")) for folder in files("checkpoints/*")),
    ],
    entry_points={
        "console_scripts": [
            "gymnast = gymnast_cli.main:main",
            *(f"{node} = gymnast_ros.nodes.{node}:main" for node in NODES),
        ],
        "gymnast.gates": [
            "bullet = gymnast_ros.sim.bullet.gate:BulletGate",
            "bullet_pictures = gymnast_ros.sim.bullet.gate:drawn_by_bullet",
        ],
    },
    license="Apache-2.0",
    python_requires=">=3.10",
    zip_safe=False,
)
