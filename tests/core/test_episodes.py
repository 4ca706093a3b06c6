"""Episodes: what is recorded is what is read, by us and by other people's tools, also after a crash."""

import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from mcap.reader import make_reader

from gymnast_core.episodes import (
    EpisodeRecorder,
    read_episode,
    read_summary,
    recover,
    write_episode,
)
from gymnast_core.episodes.cdr import CdrReader, CdrWriter
from gymnast_core.episodes.encoding import decode_named, encode_image, encode_pose
from gymnast_core.episodes.messages import ACTION_NAMES, REQUESTED_TOPIC
from gymnast_core.episodes.reader import iterate_messages
from gymnast_core.episodes.writer import encode_jpeg
from gymnast_core.errors import ContractError, CorruptError
from gymnast_core.pictures import decode_jpeg, jpeg_size
from gymnast_core.types import ActionChunk, Episode, Observation, Outcome, StepResult


def smooth_image(step: int, side: int = 64) -> np.ndarray:
    """Gradients, which JPEG keeps nearly exactly."""
    ramp = np.linspace(0, 200, side, dtype=np.float32)
    image = np.stack(
        [np.add.outer(ramp, ramp) / 2, np.full((side, side), 4.0 * step), ramp[None] + 0 * ramp[:, None]], -1
    )
    return image.astype(np.uint8)


def observation(step: int) -> Observation:
    proprio = np.linspace(-0.3, 0.3, 7, dtype=np.float32)[None] + np.float32(0.01 * step)
    return Observation({"over_shoulder": smooth_image(step)[None]}, proprio, np.array([200_000_000 * step], np.int64))


def step_of(step: int) -> tuple[np.ndarray, StepResult, ActionChunk]:
    requested = np.full((1, 7), 0.03 + 0.001 * step, np.float32)
    commanded = np.minimum(requested, np.float32(0.032))
    done = np.zeros(1, bool)
    chunk = ActionChunk(requested[:, None], f"policy-{step // 5}")
    return requested, StepResult(observation(step + 1), done, done, commanded), chunk


def requested_actions(path: Path) -> np.ndarray:
    """What the policy asked for, before the gate."""
    rows = [
        decode_named(data, ACTION_NAMES)[1] for topic, _, data in iterate_messages(path) if topic == REQUESTED_TOPIC
    ]
    return np.stack(rows) if rows else np.zeros((0, 7), np.float32)


def record(folder: Path, steps: int = 12, **finish) -> Path:
    recorder = EpisodeRecorder(folder, robot="wx250s-1", metadata={"site": "lab"})
    recorder.begin(metadata={"task": "lift_red_cube"}, seed=7)
    recorder.note_joints([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    recorder.on_reset(["lift the red cube"], observation(0))
    for step in range(steps):
        requested, result, chunk = step_of(step)
        recorder.on_step(requested, result, chunk, 0)
    return recorder.finish(**finish)


def test_recorded_episode_reads_back_step_by_step(tmp_path):
    path = record(tmp_path, outcome=Outcome.SUCCESS, labelled_by="operator:ada", metadata={"limited_steps": 9})
    episode = read_episode(path)
    assert episode.steps == 12
    assert episode.instruction == "lift the red cube"
    assert (episode.outcome, episode.labelled_by) == (Outcome.SUCCESS, "operator:ada")
    assert episode.policy_versions == ("policy-0",) * 5 + ("policy-1",) * 5 + ("policy-2",) * 2
    assert episode.metadata["task"] == "lift_red_cube"
    assert episode.metadata["site"] == "lab"
    assert episode.metadata["seed"] == 7
    assert episode.metadata["limited_steps"] == 9
    for step in range(12):
        requested, result, _ = step_of(step)
        np.testing.assert_array_equal(episode.actions_TA[step], result.commanded_BA[0])
        np.testing.assert_array_equal(episode.proprio_TP[step + 1], result.observation.proprio_BP[0])
        np.testing.assert_array_equal(requested_actions(path)[step], requested[0])
    assert episode.time_ns_T.tolist() == [200_000_000 * step for step in range(13)]
    difference = episode.images["over_shoulder"].astype(int) - np.stack([smooth_image(step) for step in range(13)])
    assert np.abs(difference).mean() < 2.0


def test_summary_and_header_need_no_pixels(tmp_path):
    path = record(tmp_path)
    summary = read_summary(path)
    assert summary.steps == 12
    assert summary.policy_versions == ("policy-0", "policy-1", "policy-2")
    assert summary.end.outcome is Outcome.UNLABELLED
    assert summary.header.instruction == "lift the red cube"
    assert summary.header.cameras == ("over_shoulder",)


def test_frames_are_resized_and_cameras_chosen_on_request(tmp_path):
    path = record(tmp_path)
    assert read_episode(path, image_size=(32, 48)).images["over_shoulder"].shape == (13, 32, 48, 3)
    assert read_episode(path, cameras=[]).images == {}
    with pytest.raises(ContractError, match="wrist"):
        read_episode(path, cameras=["wrist"])


def test_rosbags_reads_every_message(tmp_path):
    """The file is a bag for other people's tools, with the types it claims."""
    from rosbags.rosbag2 import Reader
    from rosbags.typesys import Stores, get_typestore

    path = record(tmp_path)
    store = get_typestore(Stores.ROS2_JAZZY)
    seen: dict[str, list] = {}
    with Reader(path) as reader:
        for connection, _, raw in reader.messages():
            seen.setdefault(connection.topic, []).append(store.deserialize_cdr(raw, connection.msgtype))
    assert len(seen["/camera/over_shoulder/image/compressed"]) == 13
    image = seen["/camera/over_shoulder/image/compressed"][3]
    assert image.header.stamp.sec == 0
    assert image.header.stamp.nanosec == 600_000_000
    assert image.format == "jpeg"
    assert cv2.imdecode(image.data, cv2.IMREAD_COLOR).shape == (64, 64, 3)
    assert seen["/instruction"][0].data == "lift the red cube"
    joints = seen["/joint_states"][0]
    assert joints.name[0] == "waist"
    assert joints.position.tolist() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    command = seen["/action/commanded"][2]
    assert command.name == ["dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"]
    assert command.position[0] == pytest.approx(0.032)
    assert seen["/end_effector_pose"][0].pose.position.x == pytest.approx(-0.3)


def test_chunks_are_256_kib_with_crc_and_index(tmp_path):
    side, rng = 512, np.random.default_rng(0)
    noise = rng.integers(0, 255, (5, side, side, 3), dtype=np.uint8)
    episode = Episode(
        "noise", "look", {"c": noise}, np.zeros((5, 7), np.float32), np.zeros((4, 7), np.float32), np.arange(5)
    )
    path = write_episode(tmp_path, episode, robot="r")
    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert len(summary.chunk_indexes) >= 3
    assert all(index.uncompressed_size < 256 * 1024 + 512 * 1024 for index in summary.chunk_indexes)
    assert summary.statistics.message_count == 2 + 5 * 3 + 4 * 3 + 1


def test_quaternion_of_pose_matches_hand_worked_yaw():
    """Yaw of 90 degrees is (0, 0, sqrt(1/2), sqrt(1/2))."""
    data = encode_pose(0, np.array([1, 2, 3, 0, 0, np.pi / 2, 0], np.float32))
    np.testing.assert_allclose(struct.unpack("<7d", data[-56:]), [1, 2, 3, 0, 0, 0.5**0.5, 0.5**0.5], atol=1e-6)


def test_cdr_aligns_fields_to_their_size():
    """A string of 1 + zero byte ends at 6; the next uint32 starts at 8, the float64 at 16."""
    data = CdrWriter().string("a").uint32(7).float64([2.0]).done()
    assert data == b"\x00\x01\x00\x00" + b"\x02\x00\x00\x00a\x00\x00\x00" + b"\x07\x00\x00\x00" + b"\x00" * 4 + (
        struct.pack("<d", 2.0)
    )
    reader = CdrReader(data)
    assert (reader.string(), reader.uint32()) == ("a", 7)


def test_cdr_length_lies_are_refused():
    with pytest.raises(CorruptError, match="ends inside"):
        CdrReader(b"\x00\x01\x00\x00\xff\xff\xff\x7f").octets()
    with pytest.raises(CorruptError, match="cannot fit"):
        CdrReader(b"\x00\x01\x00\x00\xff\xff\xff\x7f").strings()


_CRASH = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
import numpy as np
from gymnast_core.episodes import EpisodeRecorder
from tests.core.test_episodes import observation, step_of
import tests.core.test_episodes as t
rng = np.random.default_rng(0)
noise = rng.integers(0, 255, (256, 256, 3), dtype=np.uint8)
t.smooth_image = lambda step, side=64: noise
recorder = EpisodeRecorder(Path({folder!r}), robot="r")
recorder.begin(episode_id="killed")
recorder.on_reset(["lift"], observation(0))
for step in range(40):
    requested, result, chunk = step_of(step)
    recorder.on_step(requested, result, chunk, 0)
while recorder._recording.writer._file.tell() < 1_000_000:
    time.sleep(0.01)
print("ready", flush=True)
time.sleep(60)
"""


def test_killed_recorder_leaves_a_readable_truncated_episode(tmp_path):
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", _CRASH.format(root=root, folder=str(tmp_path))], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    assert recover(tmp_path) == [], "a live recording was taken for a crashed one"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    [path] = recover(tmp_path)
    episode = read_episode(path)
    assert path.name == "killed.mcap"
    assert episode.truncated_reason == "crash"
    assert 5 <= episode.steps <= 40
    np.testing.assert_array_equal(episode.actions_TA[3], step_of(3)[1].commanded_BA[0])
    assert recover(tmp_path) == []


def test_slow_recording_reaches_the_file_step_by_step(tmp_path, monkeypatch):
    """At 5 Hz a chunk takes seconds to fill; a kill may not cost them."""
    monkeypatch.setattr("gymnast_core.episodes.recorder.FLUSH_S", 0.0)
    recorder = EpisodeRecorder(tmp_path, robot="r")
    recorder.on_reset(["lift"], observation(0))
    for step in range(3):
        recorder.on_step(*step_of(step), 0)
    (partial,) = tmp_path.glob("*.partial")

    def steps_on_disk() -> int:
        return sum(topic == "/proprio" for topic, _, _ in iterate_messages(partial, until_cut=True))

    deadline = time.monotonic() + 20.0
    while steps_on_disk() < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert steps_on_disk() == 4
    recorder.abandon("done")


def test_cut_anywhere_recovers_what_was_complete(tmp_path):
    """Whatever length is left, recovery gives a prefix of the episode or sets the file aside; it never fails."""
    whole = record(tmp_path / "whole", steps=30)
    data = whole.read_bytes()
    full = read_episode(whole)
    recovered_steps = []
    for number, cut in enumerate(np.random.default_rng(1).integers(0, len(data), 40)):
        folder = tmp_path / f"cut{number}"
        folder.mkdir()
        (folder / "x.mcap.partial").write_bytes(data[: int(cut)])
        for path in recover(folder):
            episode = read_summary(path)
            assert episode.end.truncated_reason == "crash"
            recovered_steps.append(episode.steps)
            if episode.steps >= 0:
                got = requested_actions(path)
                np.testing.assert_array_equal(got, requested_actions(whole)[: len(got)])
    assert full.steps == 30
    assert recovered_steps


def test_every_flipped_bit_in_the_data_is_noticed(tmp_path):
    path = record(tmp_path)
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(2)
    original = [message for message in iterate_messages(path)]
    noticed = 0
    for position in rng.integers(8, len(data) * 3 // 4, 60):
        flipped = bytearray(data)
        flipped[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            same = [message for message in iterate_messages(path)] == original
        except CorruptError:
            noticed += 1
        else:
            assert same, f"a flip at {position} changed what is read, unnoticed"
    assert noticed >= 50


@pytest.mark.parametrize(
    "bad", [b"\x89PNG\r\n\x1a\n" + b"\x00" * 40, b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03", b""]
)
def test_images_that_are_no_sane_jpeg_are_refused(bad):
    with pytest.raises(CorruptError):
        decode_jpeg(bad)


def test_jpeg_size_is_read_without_decoding():
    assert jpeg_size(encode_jpeg(np.zeros((48, 80, 3), np.uint8))) == (48, 80)


def test_non_rgb_image_is_refused():
    with pytest.raises(ContractError, match="uint8"):
        encode_jpeg(np.zeros((4, 4, 3), np.float32))


def test_recorder_keeps_a_superseded_recording_as_truncated(tmp_path):
    recorder = EpisodeRecorder(tmp_path, robot="r")
    recorder.begin(episode_id="first")
    recorder.on_reset(["a"], observation(0))
    recorder.begin(episode_id="second")
    recorder.on_reset(["b"], observation(0))
    assert read_summary(tmp_path / "first.mcap").end.truncated_reason == "superseded"
    assert recorder.abandon("estop") == tmp_path / "second.mcap"
    assert recorder.abandon("estop") is None
    with pytest.raises(ContractError, match="on_reset"):
        recorder.finish()


def test_compressed_chunks_are_refused(tmp_path):
    from mcap.writer import Writer

    path = tmp_path / "bomb.mcap"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start("ros2")
        schema = writer.register_schema("std_msgs/msg/String", "ros2msg", b"string data\n")
        channel = writer.register_channel("/episode/header", "cdr", schema)
        writer.add_message(channel, 0, encode_image(0, "c", b"\x00" * 10_000_000), 0)
        writer.finish()
    assert path.stat().st_size < 20_000
    with pytest.raises(CorruptError, match="compressed"):
        read_episode(path)
