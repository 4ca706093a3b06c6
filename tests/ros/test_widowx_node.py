"""The widowx_arm process on the vendor stand-in: the rollout drives it through the gate as it drives the simulator."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from mcap.reader import make_reader
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image, JointState

from gymnast_cli.main import main
from gymnast_core.episodes import read_episode
from gymnast_core.episodes.messages import JOINTS_TOPIC, image_topic
from gymnast_ros.bringup import Graph, GraphConfig
from gymnast_ros.keyring import Keyring
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.client import GraphClient, RobotRefusedError
from gymnast_ros.nodes.reset_permit import ResetPermits
from tests.ros.conftest import wait_until
from tests.ros.test_page import ask, free_port


@dataclass
class Camera:
    """A 640x480 camera at 30 Hz with a switch."""

    context: object
    frozen: bool = False
    unplugged: bool = False
    _closing: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self._node = Node("usb_cam", context=self.context)
        self._publisher = self._node.create_publisher(Image, "/blue/image_raw", 5)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self._node)
        self._rng = np.random.default_rng(0)
        self._frame = self._rng.integers(0, 256, (480, 640, 3), np.uint8)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._closing.wait(1 / 30):
            if self.unplugged:
                continue
            if not self.frozen:
                self._frame = np.roll(self._frame, 1, axis=1)
            now_ns = self._node.get_clock().now().nanoseconds
            self._publisher.publish(messages.to_image(self._frame, now_ns, "camera"))

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._executor.shutdown()
        self._node.destroy_node()


@pytest.fixture(scope="module")
def faults(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("standin") / "faults.json"


@pytest.fixture(scope="module")
def graph(domain_id, faults, tmp_path_factory) -> Iterator[Graph]:
    os.environ["STANDIN_FAULTS"] = str(faults)
    os.environ["STANDIN_REPORT"] = str(faults.with_name("report.json"))
    config = GraphConfig(
        folder=tmp_path_factory.mktemp("robot"),
        robot="widowx",
        domain_id=domain_id,
        page=free_port(),
        parameters={
            "arm": {
                "vendor": "tests.ros.standin",
                "autostart": True,
                "max_steps": 10,
                "camera_topics": ["/blue/image_raw"],
                "camera_reliability": "reliable",
                "camera_max_frozen_s": 1.0,
                "camera_max_age_s": 3.0,
                "joint_max_age_s": 1.0,
            },
            "rollout": {"label_timeout_s": 0.0},
        },
    )
    with Graph(config) as running:
        yield running
        codes = running.stop()
    assert codes["arm"] == 0
    report = json.loads(Path(os.environ["STANDIN_REPORT"]).read_text())
    assert not report["dropped"], "torque went off outside the sleep pose"
    assert not report["torque"]["shoulder"]
    del os.environ["STANDIN_FAULTS"], os.environ["STANDIN_REPORT"]


@pytest.fixture(scope="module")
def camera(context) -> Iterator[Camera]:
    camera = Camera(context)
    camera.start()
    yield camera
    camera.close()


def re_armed(client: GraphClient) -> bool:
    """The gate refuses while it has heard nothing fresh of the arm."""
    try:
        client.re_arm()
    except RobotRefusedError as refusal:
        if "no fresh observation" not in str(refusal):
            raise
        return False
    return True


@pytest.fixture(scope="module")
def client(graph, camera, domain_id) -> Iterator[GraphClient]:
    with GraphClient(domain_id=domain_id, folder=graph.config.folder) as connected:
        connected.wait_ready(30.0)
        assert connected.gate["state"] == "disarmed"  # a real arm waits for its operator
        wait_until(lambda: re_armed(connected), 20.0, "the arm's first observations at the gate")
        yield connected


@pytest.fixture
def forwards(replay) -> str:
    return replay(np.tile([0.01, 0, 0, 0, 0, 0, 1.0], (10, 1)))


def test_episode_on_the_arm_is_recorded_with_what_it_was_told(graph, client, forwards) -> None:
    row = client.run_episode(instruction="lift the red cube", seed=0, checkpoint=forwards)
    assert (row["steps"], row["truncated_reason"], row["success"]) == (10, "", None)
    (path,) = (graph.config.folder / "spool" / "pending").glob(f"{row['episode_id']}*")
    episode = read_episode(path)
    told = episode.actions_TA[:, 0] > 0.005
    assert told.sum() >= 8  # a tick whose command came late is a hold, and recorded as one
    moved = episode.proprio_TP[-1, 0] - episode.proprio_TP[0, 0]
    assert moved == pytest.approx(0.01 * told.sum(), abs=0.015)
    assert episode.images["over_shoulder"].shape == (11, 256, 256, 3)
    joints = recorded(path, JOINTS_TOPIC, JointState)
    assert [len(message.position) for _, message in joints] == [6] * 11
    assert all(len(message.velocity) == 6 for _, message in joints)
    assert np.ptp([message.position[0:3] for _, message in joints], axis=0).max() > 0.01  # they moved with the arm
    for stamp_ns, image in recorded(path, image_topic("over_shoulder"), CompressedImage):
        captured_ns = image.header.stamp.sec * 10**9 + image.header.stamp.nanosec
        assert 0 < stamp_ns - captured_ns < 3 * 10**9  # the camera's own, before the tick that used it
    period_s = np.diff(episode.time_ns_T) / 1e9
    assert np.median(period_s) == pytest.approx(0.2, abs=0.02)


def recorded(path: Path, topic: str, kind: type) -> list[tuple[int, Any]]:
    """Messages of one topic as any reader of ROS 2 bags sees them, with their time in the file."""
    with path.open("rb") as file:
        found = make_reader(file).iter_messages(topics=[topic])
        return [(message.log_time, deserialize_message(message.data, kind)) for _, _, message in found]


def freeze_in_an_episode(graph: Graph, camera: Camera) -> None:
    """As soon as one is being recorded."""
    spool = graph.config.folder / "spool"
    wait_until(lambda: any(spool.rglob("*.partial")), 30.0, "a recording")
    camera.frozen = True


def test_frozen_camera_stops_the_episode_and_the_next_one_runs_when_it_is_back(
    graph, client, camera, keyring, forwards
) -> None:
    log = graph.logs / "arm.log"
    freezing = threading.Thread(target=freeze_in_an_episode, args=(graph, camera))
    freezing.start()
    try:
        row = client.run_episode(instruction="lift", seed=0, checkpoint=forwards)
        freezing.join()
        assert row["truncated_reason"] in ("refused", "fault", "arm_lost", "estop")
        assert row["steps"] < 10
        refused = client.run_episode(instruction="lift", seed=0, checkpoint=forwards)
        assert (refused["steps"], refused["truncated_reason"]) == (0, "refused"), refused
        assert "shows the same picture" in refused["detail"]
    finally:
        camera.frozen = False
    assert log.read_text().count("the arm holds: observation failed") == 1  # said once, not five times a second
    wait_until(lambda: refusal(client, "arm/reset", keyring) == "", 20.0, "the arm to begin again by itself")
    if client.gate["state"] in ("stopped", "disarmed"):
        client.re_arm()
    assert client.run_episode(instruction="lift", seed=0, checkpoint=forwards)["truncated_reason"] == ""


def test_motor_that_drops_torque_ends_the_episode_until_its_operator_recovers_it(
    graph, client, domain_id, faults, forwards
) -> None:
    faults.write_text(json.dumps({"drop_torque": ["elbow"], "unrepairable": True}))
    row = client.run_episode(instruction="lift", seed=0, checkpoint=forwards)
    assert row["truncated_reason"] in ("motor_fault", "refused"), row
    assert "elbow" in row["detail"]
    assert row["truncated_reason"] != "fault", "an arm that saw the motor fail names it"
    pages = graph.config.folder / "pages"
    wait_until(lambda: "motor_fault" in kinds(pages), 20.0, "the call for a person")
    refused = client.run_episode(instruction="lift", seed=0, checkpoint=forwards)
    assert refused["truncated_reason"] == "refused"
    assert "elbow" in refused["detail"]
    assert "gymnast recover" in refused["detail"]
    faults.write_text("{}")
    assert "needs the operator's word" in refusal(client, "arm/recover")
    with pytest.raises(RobotRefusedError, match="not this arm's word"):
        client.set("arm", {"recover_word": "0" * 16})
    word = (graph.config.folder / "gate" / "recover").read_text()
    assert main(["recover", "--folder", str(graph.config.folder), "--domain", str(domain_id)]) == 0
    assert client.run_episode(instruction="lift", seed=0, checkpoint=forwards)["truncated_reason"] == ""
    with pytest.raises(RobotRefusedError, match="one that was used"):
        client.set("arm", {"recover_word": word})


def kinds(pages: Path) -> set[str]:
    """Of the calls for a person that wait."""
    return {json.loads(path.read_text())["kind"] for path in pages.glob("page-*.json")}


def test_page_recovers_the_arm_for_who_is_logged_in(graph, client, faults, forwards) -> None:
    own = graph.config.folder / "page"
    address, token = (own / "address").read_text(), (own / "token").read_text()
    assert "no motor has failed" in ask(address, "/recover", token)[1]
    faults.write_text(json.dumps({"drop_torque": ["elbow"], "unrepairable": True}))
    row = client.run_episode(instruction="lift", seed=0, checkpoint=forwards)
    assert row["truncated_reason"] in ("motor_fault", "refused"), row
    wait_until(lambda: "Recover</button>" in look(address, token), 30.0, "the page to offer it")
    faults.write_text("{}")
    assert ask(address, "/recover", "0" * 32)[0] in (302, 303, 401, 403)
    status, said = ask(address, "/recover", token)
    assert (status, "stands at neutral" in said) == (200, True), said
    assert client.run_episode(instruction="lift", seed=0, checkpoint=forwards)["truncated_reason"] == ""
    assert '"recover"' in (own / "actions.jsonl").read_text()


def look(address: str, token: str) -> str:
    """The robot's page, as its operator sees it."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    connection.request("GET", "/", headers={"Authorization": f"Bearer {token}"})
    try:
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_stranger_moves_no_healthy_arm(client, context, forwards) -> None:
    assert client.run_episode(instruction="lift", seed=0, checkpoint=forwards, record=False)["truncated_reason"] == ""
    heard: list[JointState] = []
    onlooker = Node("onlooker", context=context)
    onlooker.create_subscription(JointState, topics.TARGET, heard.append, topics.STREAM)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(onlooker)

    def target() -> list[float]:
        """Pose and joints, of one heard from now on."""
        heard.clear()
        wait_until(lambda: bool(executor.spin_once(timeout_sec=0.1)) or len(heard) > 1, 20.0, topics.TARGET)
        return list(heard[-1].position[:19])

    before = target()
    for _ in range(3):
        assert "no motor has failed" in refusal(client, "arm/recover")
        refusal(client, "arm/reset")  # the permit of the episode is spent
        assert target() == before
    executor.shutdown()
    onlooker.destroy_node()


def refusal(client: GraphClient, service: str, keyring: Keyring | None = None) -> str:
    """Of a call, with the rollout's permit where the keyring is given; empty when it was done."""
    if keyring is not None:
        client.set("arm", ResetPermits(keyring).new())
    try:
        client.call(service, timeout_s=30.0)
    except RobotRefusedError as refused:
        return str(refused)
    return ""


def test_estop_holds_the_real_arm_whoever_wants_to_move_it(client, keyring, forwards) -> None:
    client.estop()
    row = client.run_episode(instruction="lift", seed=0, checkpoint=forwards)
    assert (row["truncated_reason"], row["steps"]) == ("estop", 0)
    for service in ("arm/reset", "arm/recover"):  # neither comes from the gate
        refuses = partial(refusal, client, service, keyring)
        wait_until(lambda refuses=refuses: "may not move" in refuses(), 20.0, f"{service} to refuse")
    client.re_arm()
    wait_until(lambda: refusal(client, "arm/reset", keyring) == "", 20.0, "the arm to move again")
