"""A second arm by its name: the graph that is started for it, its driver, and episodes of the simulated one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gymnast_core.arm.kinematics import forward
from gymnast_core.episodes.reader import read_episode
from gymnast_core.errors import ConfigError
from gymnast_core.rollout import run_episode
from gymnast_core.spec import VIPERX_300S
from gymnast_ros.arguments import config_from
from gymnast_ros.bringup import Graph
from gymnast_ros.drivers.widowx import WidowXDriver
from gymnast_ros.graph import GraphConfig, graph
from gymnast_ros.keyring import Keyring, folder_of
from gymnast_ros.nodes.client import GraphClient, RobotRefusedError
from gymnast_ros.nodes.topic_env import TopicEnv
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.expert import ScriptedExpert
from gymnast_ros.vendors import external
from tests.ros.standin import StandIn

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "policy"
LIFT = "lift the red cube"


@pytest.fixture(scope="module")
def viperx(domain_id, tmp_path_factory) -> Iterator[Graph]:
    config = GraphConfig(folder=tmp_path_factory.mktemp("robot"), domain_id=domain_id, robot_model="vx300s")
    with Graph(config) as running:
        yield running


@pytest.fixture(scope="module")
def asked(viperx, domain_id) -> Iterator[GraphClient]:
    with GraphClient(domain_id=domain_id, folder=viperx.config.folder) as connected:
        connected.wait_ready(120.0)
        yield connected


def test_the_viperx_lifts_the_cube_and_its_episode_says_which_arm_it_was(asked, viperx, replay) -> None:
    env, moves = SimEnv(image_size=32, robot=VIPERX_300S), []

    class Keep:
        def on_reset(self, instructions, observation) -> None: ...

        def on_step(self, action_BA, result, chunk, index) -> None:
            moves.append(action_BA[0])

    run_episode(env, ScriptedExpert(env), LIFT, seed=3, observers=[Keep()])
    env.close()
    row = asked.run_episode(instruction=LIFT, seed=3, checkpoint=replay(moves))
    assert row["success"], row
    (path,) = viperx.config.folder.rglob(f"spool/**/{row['episode_id']}*.mcap")
    assert read_episode(path).metadata["robot_model"] == "vx300s"


def test_a_checkpoint_of_another_arm_is_refused_by_both_names(asked) -> None:
    with pytest.raises(RobotRefusedError, match="made for the wx250s, and this arm is a vx300s"):
        asked.run_episode(instruction=LIFT, seed=3, checkpoint=str(CHECKPOINT))


def test_a_client_that_takes_it_for_another_arm_is_refused_by_both_names(asked, viperx, context) -> None:
    with pytest.raises(ConfigError, match="the arm is a vx300s, and this graph is for a wx250s"):
        TopicEnv(context=context, keyring=Keyring.load(folder_of(viperx.config.folder)))


def test_a_real_viperx_is_started_as_the_widowx_is() -> None:
    config = config_from({"robot": "vx300s", "camera": "realsense", "folder": "robot", "namespace": "left"})
    arm, gate, rollout = (spec for spec in graph(config) if spec.executable != "bridge")
    assert arm.executable == "widowx_arm"
    assert {spec.parameters["robot_model"] for spec in (arm, gate, rollout)} == {"vx300s"}
    assert arm.parameters["robot_name"] == "left_vx300s"
    assert gate.parameters["effort_limit"] == list(VIPERX_300S.max_effort)
    driver = external(config)[0]
    assert (driver.package, driver.arguments["robot_model"]) == ("interbotix_xsarm_control", "vx300s")
    assert config.policy == ""
    assert config.gate_mode == "required"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"robot": "ur5"}, "robot:='ur5' is not one of 'sim', 'widowx', 'vx300s'"),
        ({"robot_model": "ur5"}, "robot_model:='ur5'"),
        ({"robot": "widowx", "robot_model": "vx300s"}, "a real one is named itself: robot:=wx250s"),
        ({"robot_model": "vx300s", "arm": "menagerie", "menagerie": "x"}, "draws the wx250s, not the vx300s"),
    ],
)
def test_arms_that_do_not_fit_are_refused_by_name(arguments, message) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from(arguments)


def test_settings_of_another_arm_are_refused_before_anything_starts(tmp_path) -> None:
    settings = str(Path(__file__).parents[2] / "config" / "robot_widowx.yaml")
    config = config_from({"robot": "vx300s", "folder": str(tmp_path), "parameters": settings})
    with pytest.raises(ConfigError, match="parameters of arm are for a wx250s, and the arm is a vx300s"):
        graph(config)


def test_the_driver_moves_a_viperx_by_its_own_kinematics() -> None:
    now_s = 0.0

    def wait(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    robot = StandIn(lambda: now_s, lambda: int(now_s * 1e9), VIPERX_300S)
    robot.sleeps = wait
    driver = WidowXDriver(robot, spec=VIPERX_300S, monotonic_s=lambda: now_s, pause=wait)
    driver.start_up()
    np.testing.assert_allclose(driver.read().joints_J, VIPERX_300S.neutral_joints_rad, atol=1e-9)
    start_X, _ = forward(driver.read().joints_J, VIPERX_300S)
    driver.step(np.array([0.04, 0, -0.03, 0, 0, 0, 1], np.float32))
    wait(1.0)
    reached_X, _ = forward(driver.read().joints_J, VIPERX_300S)
    np.testing.assert_allclose(reached_X - start_X, [0.04, 0, -0.03], atol=2e-4)
    driver.sleep()
    assert (robot.dropped, robot.torque["shoulder"]) == (False, False), "it let go in its own sleep pose"
