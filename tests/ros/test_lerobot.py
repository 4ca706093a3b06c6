"""A real LeRobot, in an environment of its own: its programs drive our arm through the gate, with the policy we serve.

That environment is 8 GB, so nobody makes it by running tests: python3 scripts/foreign_env.py lerobot
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cloud_trainer.service import Service, ServiceConfig, enroll
from cloud_trainer.service.policy import PolicyServicer
from gymnast_core.episodes import read_episode
from gymnast_core.policies import load_policy
from gymnast_core.types import Observation
from gymnast_core.wire.inference import answers
from gymnast_ros.arguments import parameters_from
from gymnast_ros.bringup import Graph, GraphConfig
from tests import foreign
from tests.ros.conftest import wait_until

LONG_S = 280.0
ROBOT, POLICY = (foreign.ROOT / "integrations" / name for name in ("lerobot_robot_gymnast", "lerobot_policy_gymnast"))
TASK = "lift the red cube"

ASK = """
import json, sys
from types import SimpleNamespace
import numpy as np, torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.datasets.utils import hw_to_dataset_features
from lerobot.policies.factory import make_policy, make_pre_post_processors
from lerobot.utils.control_utils import predict_action
from lerobot.utils.import_utils import register_third_party_plugins
register_third_party_plugins()
address, identity, task = sys.argv[1:]
def made(joints, **more):
    seen = dict.fromkeys(map(str, range(joints)), float) | {"over_shoulder": (256, 256, 3)}
    acts = dict.fromkeys("abcdefg", float)
    features = hw_to_dataset_features(seen, "observation") | hw_to_dataset_features(acts, "action")
    config = PreTrainedConfig.get_choice_class("gymnast")(address=address, identity=identity, **more)
    return make_policy(config, SimpleNamespace(features=features, stats=None))
policy = made(7)
before, after = make_pre_post_processors(policy.config)
seen = {"observation.state": np.arange(7, dtype=np.float32) / 10,
        "observation.images.over_shoulder": np.full((256, 256, 3), 100, np.uint8)}
rows = [predict_action(seen, policy, torch.device("cpu"), before, after, False, task)[0].tolist() for _ in range(7)]
refused = []
for joints, more in ((6, {}), (7, {"cameras": {"observation.images.wrist": "wrist"}})):
    try:
        made(joints, **more)
    except ValueError as error:
        refused.append(str(error))
try:
    type(policy.config)(address="trainer.lab:50051", insecure=True)
except ValueError as error:
    refused.append(str(error))
print(json.dumps({"rows": rows, "version": policy.policy_version, "refused": refused}))
"""

DRIVE = """
import json, sys
from lerobot.robots import make_robot_from_config, RobotConfig
from lerobot.utils.import_utils import register_third_party_plugins
register_third_party_plugins()
robot = make_robot_from_config(RobotConfig.get_choice_class("gymnast")(port=int(sys.argv[1]), wait_s=200.0))
wild = dict.fromkeys(robot.action_features, 0.0) | {"delta_x": 1.0, "gripper": 1.0}
refused, seen = [], []
with robot:
    for action in (wild | {"delta_x": float("nan")}, {"delta_x": 0.0}):
        try:
            robot.send_action(action)
        except ValueError as error:
            refused.append(str(error))
    for _ in range(5):
        found = robot.get_observation()
        assert {name: getattr(value, "shape", float) for name, value in found.items()} == robot.observation_features
        seen.append(found["x"])
        robot.send_action(wild)
try:
    robot.send_action(wild)
except ConnectionError as error:
    refused.append(str(error))
print(json.dumps({"refused": refused, "x": seen}))
"""

READ = """
import json, sys
from lerobot.datasets.lerobot_dataset import LeRobotDataset
data = LeRobotDataset("lab/eval_arm", root=sys.argv[1], video_backend="pyav")  # torchcodec needs a system FFmpeg
rows = [data.hf_dataset[index] for index in range(len(data.hf_dataset))]
image = list(data[0]["observation.images.over_shoulder"].shape)
actions = [row["action"].tolist() for row in rows]
print(json.dumps({"episodes": data.num_episodes, "robot": data.meta.robot_type, "action": actions, "image": image}))
"""


@pytest.fixture(scope="module")
def theirs() -> Path:
    return foreign.python_of("lerobot", make=False)


@pytest.fixture(scope="module")
def env(theirs, tmp_path_factory) -> dict[str, str]:
    """Their environment with both plug-ins, as pip installs them; LeRobot finds them by their names."""
    plugins = tmp_path_factory.mktemp("plugins")
    install = [theirs, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", plugins]
    subprocess.run([*install, POLICY, ROBOT], check=True, timeout=LONG_S, capture_output=True)
    home = str(tmp_path_factory.mktemp("home"))
    alone = {"HF_HUB_OFFLINE": "1", "HF_HOME": home, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return {**os.environ, **alone, "PYTHONPATH": str(plugins)}


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return foreign.ROOT / "checkpoints" / "policy"


@pytest.fixture(scope="module")
def trainer(theirs, checkpoint, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """Serves the shipped policy over TLS: address and identity."""
    folder = tmp_path_factory.mktemp("trainer")
    policy = load_policy(checkpoint)
    with Service(ServiceConfig(folder=folder), policy=PolicyServicer(lambda: answers(policy))) as running:
        yield running.address, enroll(folder / "ca", "lerobot-pc", "robot", out=folder / "id")


@pytest.fixture(scope="module")
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def graph(theirs, domain_id, port, tmp_path_factory) -> Iterator[Graph]:
    """The simulated arm as the page has it started, waiting longer: this machine may be busy."""
    parameters = parameters_from(ROBOT / "rollout.yaml")
    parameters["rollout"]["remote_deadline_s"] = 60.0
    folder = tmp_path_factory.mktemp("robot")
    config = GraphConfig(
        folder=folder, domain_id=domain_id, policy=f"openpi://127.0.0.1:{port}", openpi=str(ROBOT / "openpi.yaml"),
        parameters=parameters,
    )  # fmt: skip
    with Graph(config) as running:
        yield running


def listens(port: int, process: subprocess.Popen[str]) -> Callable[[], bool]:
    def there() -> bool:
        assert process.poll() is None, process.stderr.read()
        with socket.socket() as trying:
            return trying.connect_ex(("127.0.0.1", port)) == 0

    return there


def episode_with(command: list[object], env, port: int, client) -> tuple[dict, str]:
    """One episode of the arm with what a program of LeRobot's answers; the episode's row, and what it printed."""
    process = subprocess.Popen(
        list(map(str, command)), env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        wait_until(listens(port, process), LONG_S, "its port")
        with ThreadPoolExecutor(1) as reading:  # a full pipe would stop it
            told = reading.submit(process.communicate, timeout=LONG_S)
            rows = [client.run_episode(instruction="lift", seed=3, timeout_s=LONG_S)]
            if not rows[0]["steps"]:  # it finds the link of the last program closed, and dials again
                rows.append(client.run_episode(instruction="lift", seed=3, timeout_s=LONG_S))
            out, err = told.result()
        assert process.returncode == 0, err
        return rows[-1], out
    finally:
        process.kill()
        process.wait()


def test_their_loop_gets_our_policys_actions_and_what_it_cannot_drive_is_named(theirs, env, trainer, checkpoint):
    address, identity = trainer
    *_, last = foreign.run(theirs, ASK, address, str(identity), TASK, env=env).strip().splitlines()
    found, policy = json.loads(last), load_policy(checkpoint)
    frames = {"over_shoulder": np.full((1, 256, 256, 3), 100, np.uint8)}
    seen = Observation(frames, np.arange(7, dtype=np.float32)[None] / 10, np.zeros(1, np.int64))
    (chunk_KA,) = policy.act(seen, [TASK]).actions_BKA
    assert found["version"] == policy.version
    np.testing.assert_allclose(found["rows"], [chunk_KA[step % len(chunk_KA)] for step in range(7)], atol=1e-6)
    state, camera, open_link = found["refused"]
    assert "observation.state must have 7 numbers, got (6,)" in state
    assert "the robot has no observation.images.wrist" in camera
    assert "trainer.lab:50051 is not on this machine" in open_link


def test_their_recorder_drives_our_arm_with_our_policy_and_both_recordings_agree(
    theirs, env, trainer, graph, client, port, tmp_path
):
    address, identity = trainer
    record = [
        theirs.parent / "lerobot-record", "--robot.type=gymnast", f"--robot.port={port}", "--robot.wait_s=200",
        "--policy.type=gymnast", f"--policy.address={address}", f"--policy.identity={identity}",
        "--policy.deadline_s=30", "--policy.push_to_hub=false", "--dataset.repo_id=lab/eval_arm",
        f"--dataset.root={tmp_path / 'data'}", f"--dataset.single_task={TASK}", "--dataset.num_episodes=1",
        "--dataset.fps=5", "--dataset.episode_time_s=2.9", "--dataset.reset_time_s=0", "--dataset.vcodec=h264",
        "--dataset.push_to_hub=false", "--play_sounds=false",
    ]  # fmt: skip
    row, _ = episode_with(record, env, port, client)
    *_, last = foreign.run(theirs, READ, str(tmp_path / "data"), env=env).strip().splitlines()
    data = json.loads(last)
    assert (data["episodes"], data["robot"], data["image"]) == (1, "gymnast", [3, 256, 256])
    assert 1 <= row["steps"] == len(data["action"]) <= 15
    assert row["truncated_reason"] == ("" if row["steps"] == 15 else "link_lost")  # a slow machine does fewer in 2.9 s
    (path,) = (graph.config.folder / "spool" / "pending").glob(f"{row['episode_id']}*.mcap")
    ours = read_episode(path)
    assert set(ours.policy_versions) == {row["policy"]}
    np.testing.assert_allclose(data["action"], ours.actions_TA, atol=1e-5)
    assert row["policy"].startswith("openpi-127-0-0-1-")


def test_the_gate_limits_what_their_program_asks_for_and_its_end_ends_the_episode(theirs, env, graph, client, port):
    row, out = episode_with([theirs, "-c", DRIVE, port], env, port, client)
    found = json.loads(out.strip().splitlines()[-1])
    assert (row["steps"], row["truncated_reason"], row["blame"]) == (5, "link_lost", "")
    assert row["interventions"] == 5
    assert 0 < found["x"][-1] - found["x"][0] <= 4 * 0.05 + 0.02
    infinite, narrow, gone = found["refused"]
    assert "an action is finite" in infinite
    assert "an action has delta_x, delta_y" in narrow
    assert "connect() comes first" in gone
