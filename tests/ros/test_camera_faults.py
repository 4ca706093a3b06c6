"""The real arm's node and a compressed camera that misbehaves: that costs an episode at most, never the node."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage

from gymnast_ros.bringup import Graph, GraphConfig
from gymnast_ros.nodes.client import GraphClient
from tests.ros.conftest import wait_until
from tests.ros.test_widowx_node import re_armed

SECOND = 1_000_000_000


class Camera:
    """15 JPEGs a second, until told otherwise."""

    def __init__(self, context: object) -> None:
        self.ahead_ns, self.dead = 0, False
        self.broken: list[bytes] = []
        self.share = 2
        self.sent = 0
        self._node = Node("usb_cam", context=context)
        self._publisher = self._node.create_publisher(CompressedImage, "/blue/image_raw/compressed", 5)
        self.frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._closing.wait(1 / 15):
            if self.dead:
                continue
            self.frame = np.roll(self.frame, 1, axis=1)
            self.sent += 1
            data = cv2.imencode(".jpg", self.frame)[1].tobytes()
            if self.broken and self.sent % self.share == 0:
                data = self.broken[self.sent // self.share % len(self.broken)]
            message = CompressedImage(format="jpeg", data=data)
            stamp_ns = time.time_ns() + self.ahead_ns
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, SECOND)
            self._publisher.publish(message)

    def huge(self) -> bytes:
        """A JPEG whose header says 65000x65000."""
        data = bytearray(cv2.imencode(".jpg", self.frame)[1].tobytes())
        size = data.find(b"\xff\xc0") + 5
        data[size : size + 4] = struct.pack(">HH", 65000, 65000)
        return bytes(data)

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._node.destroy_node()


@pytest.fixture(scope="module")
def graph(domain_id, tmp_path_factory) -> Iterator[Graph]:
    os.environ["STANDIN_REPORT"] = str(tmp_path_factory.mktemp("standin") / "report.json")
    arm = {
        "vendor": "tests.ros.standin", "autostart": True, "max_steps": 10, "camera_reliability": "reliable",
        "camera_topics": ["/blue/image_raw/compressed"], "camera_max_age_s": 2.0, "joint_max_age_s": 1.0,
    }  # fmt: skip
    parameters = {"arm": arm, "rollout": {"label_timeout_s": 0.0}}
    folder = tmp_path_factory.mktemp("robot")
    with Graph(GraphConfig(folder=folder, robot="widowx", domain_id=domain_id, parameters=parameters)) as running:
        yield running
    del os.environ["STANDIN_REPORT"]


@pytest.fixture(scope="module")
def camera(context) -> Iterator[Camera]:
    camera = Camera(context)
    yield camera
    camera.close()


@pytest.fixture(scope="module")
def client(graph, camera, domain_id) -> Iterator[GraphClient]:
    with GraphClient(domain_id=domain_id, folder=graph.config.folder) as connected:
        connected.wait_ready(60.0)
        wait_until(lambda: re_armed(connected), 30.0, "the arm's first observations at the gate")
        yield connected


@pytest.fixture
def still(replay) -> str:
    return replay(np.tile([0.002, 0, 0, 0, 0, 0, 1.0], (10, 1)))


def episode(client: GraphClient, still: str) -> dict[str, object]:
    return client.run_episode(instruction="lift", seed=0, checkpoint=still, record=False)


def test_broken_frames_are_dropped_and_the_episode_goes_on(graph, client, camera, still) -> None:
    wait_until(lambda: refusal(client, still) == "", 20.0, "the camera's first good frames")
    camera.broken = [b"", b"\xff\xd8 no picture", camera.huge()]
    for _ in range(2):
        row = episode(client, still)
        assert (row["truncated_reason"], row["steps"]) == ("", 10), row
    camera.broken = []
    assert graph.restarts == {"arm": 0, "command_gate": 0, "rollout": 0}
    assert "are no picture" in (graph.logs / "arm.log").read_text()


def test_camera_ahead_in_time_moves_nothing_and_is_named(graph, client, camera, still) -> None:
    camera.ahead_ns = 30 * SECOND
    wait_until(lambda: "in the future" in refusal(client, still), 20.0, "the refusal")
    camera.ahead_ns = 0
    assert "its clock is" in (graph.logs / "arm.log").read_text()
    wait_until(lambda: refusal(client, still) == "", 20.0, "the camera's clock to be believed again")


def test_camera_that_sends_nothing_usable_is_named_with_its_reason(client, camera, still) -> None:
    camera.broken, camera.share = [b""], 1
    time.sleep(2.5)  # absence takes time
    try:
        assert "only what cannot be used" in refusal(client, still)
    finally:
        camera.broken, camera.share = [], 2
    wait_until(lambda: refusal(client, still) == "", 20.0, "good frames")


def refusal(client: GraphClient, still: str) -> str:
    """Why an episode was cut; empty when it ran to its end."""
    row = episode(client, still)
    return "" if row["truncated_reason"] == "" else f"{row['truncated_reason']} {row['detail']}"
