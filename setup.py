"""ament_python entry: what colcon installs. Dependencies live in pyproject.toml (pip) and package.xml (rosdep)."""

from glob import glob

from setuptools import find_packages, setup

PACKAGE = "gymnast_ros"
NODES = ("sim_world", "command_gate", "rollout", "bridge", "widowx_arm", "teleop")

setup(
    name=PACKAGE,
    version="0.1.0",
    packages=find_packages(include=[f"{top}{sub}" for top in ("gymnast_core", PACKAGE, "cloud_trainer", "gymnast_cli") for sub in ("", ".*")]),
    package_data={"": ["*.html", "*.css", "*.js", "*.svg", "py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", sorted(glob("launch/*.launch.py"))),
        (f"share/{PACKAGE}/config", sorted(glob("config/*.*"))),
    ],
    entry_points={
        "console_scripts": [
            "gymnast = gymnast_cli.main:main",
            *(f"{node} = gymnast_ros.nodes.{node}:main" for node in NODES),
        ]
    },
    zip_safe=False,
)
