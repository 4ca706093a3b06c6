"""How a real arm's launch ends: Ctrl-C, a driver that died, a launch that was killed; on the stand-in."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gymnast_ros.drivers.keeper import hold
from tests.ros.conftest import wait_until
from tests.ros.fake_launch import Launched, install
from tests.ros.test_launch import load, texts

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
START_S = 180.0


def environment(folder: Path) -> dict[str, str]:
    """With `ros2` on the path, whose driver is alive as long as a file is there."""
    (folder / "bin").mkdir()
    shutil.copy(HERE / "fake_ros2.py", folder / "bin" / "ros2")
    return {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "STANDIN_DRIVER": str(folder / "driver"),
        "STANDIN_REPORT": str(folder / "report.json"), "PYTHONPATH": str(ROOT),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }  # fmt: skip


def arguments(folder: Path, domain_id: int) -> dict[str, str]:
    parameters = folder / "arm.yaml"
    parameters.write_text("arm: {ros__parameters: {vendor: tests.ros.standin, autostart: true}}")
    return texts(robot="widowx", domain=str(domain_id), folder=str(folder / "robot"), parameters=str(parameters))


@pytest.fixture
def launched(domain_id: int, tmp_path: Path) -> Iterator[Callable[[], Launched]]:
    """The launch of one arm, standing at neutral."""
    with pytest.MonkeyPatch.context() as patch:
        for name, module in install().items():
            patch.setitem(sys.modules, name, module)
        bridge = load("bridge.launch.py")
        actions = bridge.start(arguments(tmp_path, domain_id))
    own = environment(tmp_path)
    driver = tmp_path / "driver"

    def start() -> Launched:
        launch.__enter__()
        wait_until(driver.is_file, START_S, "the driver")
        wait_until(lambda: "the arm stands at neutral" in launch.output(), START_S, "the arm to stand")
        wait_until(lambda: "[rollout]: ready" in launch.output(), START_S, "the rollout node")
        return launch

    launch = Launched(actions, tmp_path, own)
    yield start
    launch.interrupt(5.0)
    for claim in bridge.CLAIMS:
        claim.release()


def test_ctrl_c_lays_the_arm_down_before_its_driver_goes(launched, tmp_path: Path) -> None:
    launch = launched()
    assert "interbotix_xsarm_control xsarm_control.launch.py robot_model:=wx250s" in (tmp_path / "driver").read_text()
    codes = launch.interrupt(START_S)
    assert codes == [0] * len(codes), launch.output()
    report = json.loads((tmp_path / "report.json").read_text())
    assert not report["dropped"]
    assert not report["torque"]["shoulder"]
    assert report["ended_s"] < float((tmp_path / "driver.ended").read_text()), "the driver went first"


def test_driver_that_died_first_is_reported_and_the_arm_is_called_unsupervised(launched, tmp_path: Path) -> None:
    launch = launched()
    os.kill(int((tmp_path / "driver").read_text().split()[0]), signal.SIGTERM)
    wait_until(lambda: "FATAL: the arm's driver ended by itself" in launch.output(), START_S, "the keeper's report")
    codes = launch.interrupt(START_S)
    assert 1 in codes
    assert "NOT LYING DOWN, the arm is unsupervised" in launch.output()


def test_keeper_whose_launch_is_killed_ends_the_driver_after_the_arm(tmp_path: Path) -> None:
    """SIGKILL of `ros2 launch`: nobody signals anybody."""
    lock, driver = tmp_path / "arm.lock", tmp_path / "driver"
    keeper = f"{sys.executable} -m gymnast_ros.drivers.keeper --lock {lock} -- ros2 launch vendor"
    launch = subprocess.Popen(["sh", "-c", f"{keeper} & wait"], env={**os.environ, **environment(tmp_path)}, cwd=ROOT)
    arm = hold(lock)
    assert arm is not None
    wait_until(driver.is_file, START_S, "the driver")
    launch.kill()
    launch.wait()
    time.sleep(1.0)  # absence takes time
    assert driver.is_file(), "the driver did not wait for the arm"
    arm.close()
    wait_until(lambda: not driver.is_file(), START_S, "the driver's end")


def test_arm_lies_down_when_its_starter_is_killed(tmp_path: Path, domain_id: int) -> None:
    """kill -9 of `gymnast up`."""
    given = arguments(tmp_path, domain_id)
    command = [sys.executable, "-m", "gymnast_cli.main", "up", "--robot", "widowx", "--domain", str(domain_id)]
    command += ["--folder", given["folder"], "--parameters", given["parameters"]]
    own = environment(tmp_path)
    (tmp_path / "driver").write_text("")
    log = tmp_path / "robot" / "logs" / "arm.log"
    starter = subprocess.Popen(command, env={**os.environ, **own}, cwd=tmp_path, stdout=subprocess.DEVNULL)
    wait_until(lambda: log.is_file() and "the arm stands at neutral" in log.read_text(), START_S, "the arm to stand")
    children = Path(f"/proc/{starter.pid}/task/{starter.pid}/children").read_text().split()
    starter.kill()
    starter.wait()
    wait_until((tmp_path / "report.json").is_file, START_S, "the arm's end")
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["dropped"], report["torque"]["shoulder"]) == (False, False)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), START_S, "every process's end")
