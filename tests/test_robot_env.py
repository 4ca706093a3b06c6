"""README's environment for a robot, on a machine with ROS 2 and its distribution's old protobuf, grpcio and numpy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.installed import ROOT

pytestmark = pytest.mark.slow

DISTRIBUTION = (
    "ros-rclpy[fastrtps]==7.1.6", "ros-sensor-msgs==5.3.6", "ros-std-msgs==5.3.6", "ros-std-srvs==5.3.6",
    "ros-geometry-msgs==5.3.6", "ros-trajectory-msgs==5.3.6", "ros-diagnostic-msgs==5.3.6",
    "protobuf==4.21.12", "grpcio==1.51.3", "numpy==1.26.4", "pyyaml",
)  # fmt: skip
"""Ubuntu 24.04's python3-protobuf, python3-grpcio and python3-numpy beside Jazzy's rclpy."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The machine's own Python, and the environment after `source /opt/ros/jazzy/setup.bash`."""
    folder = tmp_path_factory.mktemp("machine")
    base = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([base, "-m", "venv", folder / "system"], check=True)
    python = folder / "system" / "bin" / "python"
    put = subprocess.run([python, "-m", "pip", "install", "-q", *DISTRIBUTION], capture_output=True, text=True)
    if put.returncode:
        pytest.skip(f"the ROS wheels could not be installed from the package registry: {put.stderr[-200:]}")
    libraries = subprocess.check_output([python, "-c", "import os; print(os.environ['LD_LIBRARY_PATH'])"], text=True)
    sourced = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    sourced |= {"LD_LIBRARY_PATH": libraries.strip(), "_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1"}
    return python, sourced | {"PATH": f"{python.parent}:{os.environ['PATH']}"}


def test_the_machines_own_python_cannot_run_the_bridge(machine: tuple[Path, dict[str, str]]) -> None:
    """What the environment is for."""
    python, sourced = machine
    check = [python, ROOT / "scripts" / "check_robot_env.py"]
    shown = subprocess.run(check, env=sourced | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert shown.returncode == 1
    assert "this Python cannot run the robot's nodes" in shown.stderr


def test_the_script_makes_an_environment_in_which_the_nodes_run(
    machine: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    python, sourced = machine
    env = tmp_path / "gymnast_env"
    # the system's packages are looked for beside the base interpreter; here they lie in the machine's folder
    (packages,) = (python.parents[1]).glob("lib/python3*/site-packages")
    own = env / "lib" / packages.parent.name / "site-packages"
    own.mkdir(parents=True)
    (own / "zz_system.pth").write_text(f"import site; site.addsitedir({str(packages)!r})\n")
    made = subprocess.run(
        [ROOT / "scripts" / "robot_env.sh", "--no-torch", env], env=sourced, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stdout + made.stderr
    assert "ready: protobuf 7.36.2, grpcio 1.85.1, numpy 1.26.4" in made.stdout
    wrong = ["--ros-args", "-p", "trainer:=nonsense", "-p", "insecure:=true"]
    node = subprocess.run(
        [env / "bin" / "python", "-m", "gymnast_ros.nodes.bridge", *wrong],
        env=sourced | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert node.returncode == 2, node.stderr
    assert "names no port" in node.stderr
