"""An episode file played onto its topics, seen by a stranger's subscriptions and by the viewer."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from mcap.writer import Writer
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy

from gymnast_core.arm.flight import FlightRecorder, Named
from gymnast_core.episodes import EpisodeRecorder, encoding
from gymnast_core.episodes import messages as episode
from gymnast_core.episodes.channels import RosChannels
from gymnast_core.episodes.reader import iterate_messages
from gymnast_core.errors import ConfigError, CorruptError
from gymnast_core.types import ActionChunk, Observation, Outcome, StepResult
from gymnast_ros.nodes import topics
from gymnast_ros.nodes.onlooker import Onlooker
from gymnast_ros.nodes.replay import KINDS, play
from tests.core.test_bag import rewritten

CAMERA = episode.image_topic("over_shoulder")
STEPS = 6


def seen(step: int) -> Observation:
    image = np.full((1, 48, 64, 3), 20 * step, np.uint8)
    proprio = np.full((1, 7), 0.01 * step, np.float32)
    return Observation({"over_shoulder": image}, proprio, np.array([200_000_000 * step], np.int64))


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    recorder = EpisodeRecorder(tmp_path_factory.mktemp("episodes"), robot="r")
    recorder.on_reset(["lift the red cube"], seen(0))
    still_BA, done_B = np.zeros((1, 7), np.float32), np.zeros(1, bool)
    for step in range(STEPS):
        recorder.on_step(
            still_BA, StepResult(seen(step + 1), done_B, done_B, still_BA), ActionChunk(still_BA[None], "p"), 0
        )
        if step == 2:
            recorder.annotate("slipped", "operator:ada")
    return recorder.finish(Outcome.SUCCESS, "operator:ada")


class Listener:
    """Subscribes raw, as ros2 bag record does, and keeps bytes and times."""

    def __init__(self, context: object, wanted: set[str]) -> None:
        self.heard: list[tuple[str, bytes, float]] = []
        self.node = Node("stranger", context=context)
        for topic in wanted:
            kind = episode.topic_type(topic)
            quality = topics.LATCHED if kind == "std_msgs/msg/String" else topics.STREAM
            self.node.create_subscription(KINDS[kind], topic, partial(self._hear, topic), quality, raw=True)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)

    def _hear(self, topic: str, data: bytes) -> None:
        self.heard.append((topic, bytes(data), time.monotonic()))

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()


class Shown:
    """Notes what would be on the screen."""

    def __init__(self) -> None:
        self.values: set[str] = set()
        self.stamps: set[int] = set()

    def at(self, stamp_ns: int) -> None:
        self.stamps.add(stamp_ns)

    def jpeg(self, topic: str, data: bytes) -> None:
        assert data.startswith(b"\xff\xd8")
        self.values.add(topic)

    def named(self, topic: str, names: list[str], values: list[float]) -> None:
        assert len(names) == len(values)
        self.values.add(topic)

    def words(self, topic: str, text: str) -> None:
        self.values.add(text)


def test_replayed_episode_is_on_its_topics_with_bytes_types_and_timing(recording, context, domain_id) -> None:
    played = list(iterate_messages(recording))
    listener, shown = Listener(context, {topic for topic, _, _ in played}), Shown()
    onlooker = Onlooker(listener.node, shown)
    counts: dict[str, int] = {}
    rate = 2.0
    player = threading.Thread(
        target=lambda: counts.update(play(recording, domain_id=domain_id, rate=rate, wait_s=20.0).counts)
    )
    player.start()
    deadline = time.monotonic() + 40.0
    while time.monotonic() < deadline and (player.is_alive() or len(listener.heard) < len(played)):
        onlooker.subscribe()
        listener.executor.spin_once(timeout_sec=0.02)
        if latched := listener.node.get_publishers_info_by_topic(episode.INSTRUCTION_TOPIC):
            assert latched[0].qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
            assert latched[0].topic_type == "std_msgs/msg/String"
    player.join(10.0)
    listener.close()
    for topic in {topic for topic, _, _ in played}:
        sent = [bytes(data) for name, _, data in played if name == topic]
        heard = [data for name, data, _ in listener.heard if name == topic]
        assert counts[topic] == len(sent)
        if episode.topic_type(topic) == "std_msgs/msg/String":
            assert heard[-1] == sent[-1]  # latched: the last word counts
        else:
            assert heard == sent
    frames_s = [at_s for topic, _, at_s in listener.heard if topic == CAMERA]
    assert frames_s[-1] - frames_s[0] > 0.5 * STEPS * 0.2 / rate  # paced, not poured out
    assert {CAMERA, episode.PROPRIO_TOPIC, episode.COMMANDED_TOPIC, "lift the red cube"} <= shown.values
    assert {200_000_000 * step for step in range(STEPS + 1)} & shown.stamps


def test_only_what_is_ours_is_played(recording, context, domain_id, tmp_path) -> None:
    mixed = rewritten(recording, tmp_path / "mixed.mcap", "zstd", foreign=True)
    played = play(mixed, domain_id=domain_id, rate=100.0)
    assert set(played.left_out) == {"/tf", "/status"}
    assert played.counts == dict(Counter(topic for topic, _, _ in iterate_messages(recording)))
    bag = tmp_path / "bag.mcap"
    with bag.open("wb") as file:
        writer = Writer(file)
        writer.start(profile="ros2")
        channel = RosChannels(writer).of("/joint_states", "sensor_msgs/msg/JointState")
        writer.add_message(channel, 1, encoding.encode_named(1, ("waist",), (0.1,)), 1)
        writer.finish()
    with pytest.raises(CorruptError, match=r"neither an episode nor .*/joint_states .*Nothing is played"):
        play(bag, domain_id=domain_id)


def test_a_flight_record_is_played_beside_the_live_topics(context, domain_id, tmp_path) -> None:
    recorder = FlightRecorder(tmp_path)
    recorder.note("command_gate/report", 0, {"state": "armed"})
    recorder.note("command/arm", 10, Named(topics.ACTION_NAMES, [0.0] * 7))
    record = recorder.write("flight-estop-1")
    assert play(record, domain_id=domain_id).counts == {"/flight/command_gate/report": 1, "/flight/command/arm": 1}


def test_names_and_clocks_that_no_topic_has_are_left_out_or_refused(context, domain_id, tmp_path) -> None:
    recorder = FlightRecorder(tmp_path, window_ns=2**62)
    recorder.note("command_gate/report", 0, {"state": "armed"})
    recorder.note("device_0/Enable Auto Exposure", 1, {"value": 1})
    played = play(recorder.write("flight-estop-1"), domain_id=domain_id)
    assert played.counts == {"/flight/command_gate/report": 1}
    assert "Invalid topic name" in played.left_out["/device_0/Enable Auto Exposure"]
    recorder.note("command_gate/report", 2**61, {"state": "armed"})
    with pytest.raises(CorruptError, match=r"time jumps by \d+ s before /flight/command_gate/report"):
        play(recorder.write("flight-estop-2"), domain_id=domain_id)


def test_nothing_is_played_over_a_live_robot(recording, context, domain_id) -> None:
    node = Node("robot", context=context)
    node.create_publisher(KINDS["sensor_msgs/msg/JointState"], episode.PROPRIO_TOPIC, topics.STREAM)
    with pytest.raises(ConfigError, match=r"somebody publishes /proprio in this domain.*--domain N"):
        play(recording, domain_id=domain_id)
    node.destroy_node()


def test_viewer_saves_a_recorded_episode_for_rerun(recording, tmp_path, capsys) -> None:
    pytest.importorskip("rerun")
    from gymnast_cli.main import main

    saved = tmp_path / "episode.rrd"
    assert main(["view", str(recording), "--save", str(saved)]) == 0
    rerun = Path(sys.executable).with_name("rerun")
    assert subprocess.run([rerun, "rrd", "verify", saved], capture_output=True, timeout=60).returncode == 0
    printed = subprocess.run([rerun, "rrd", "print", saved], capture_output=True, text=True, timeout=60).stdout
    for entity in ("/camera/over_shoulder/image/compressed", "/proprio/x", "/action/commanded/dz", "/gripper/path",
                   "/annotation", "/instruction"):  # fmt: skip
        assert f"{entity}" in printed, entity


def test_live_view_saves_what_is_on_the_topics(recording, domain_id, tmp_path, capsys) -> None:
    pytest.importorskip("rerun")
    from gymnast_cli.main import main

    player = threading.Thread(target=lambda: play(recording, domain_id=domain_id, rate=0.5, wait_s=5.0))
    player.start()
    saved = tmp_path / "live.rrd"
    assert main(["--json", "view", "--live", "--domain", str(domain_id), "--seconds", "8", "--save", str(saved)]) == 0
    player.join(30.0)
    assert '"shown": 0' not in capsys.readouterr().out
    rerun = Path(sys.executable).with_name("rerun")
    printed = subprocess.run([rerun, "rrd", "print", saved], capture_output=True, text=True, timeout=60).stdout
    assert "/camera/over_shoulder/image/compressed" in printed


def test_view_wants_exactly_one_thing(capsys) -> None:
    from gymnast_cli.main import main

    assert main(["view"]) == 2
    assert main(["view", "x.mcap", "--live"]) == 2
    assert main(["view", "/nowhere.mcap", "--save", "/tmp/never.rrd"]) == 1
