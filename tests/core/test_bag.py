"""MCAP files that somebody else wrote, or wrote again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mcap.writer import CompressionType, Writer

from gymnast_cli.main import main
from gymnast_core.arm.flight import FlightRecorder, Named
from gymnast_core.episodes import messages, read_episode, write_episode
from gymnast_core.episodes.bag import contents, iterate_bag
from gymnast_core.episodes.channels import RosChannels
from gymnast_core.errors import CorruptError
from tests.world_model.tiny import tiny_episode

WAYS = {
    "zstd": {"compression": CompressionType.ZSTD},
    "lz4": {"compression": CompressionType.LZ4},
    "none": {"compression": CompressionType.NONE},
    "unchunked": {"use_chunking": False},
}


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_episode(tmp_path_factory.mktemp("episodes"), tiny_episode(size=16), robot="wx250s")


def rewritten(source: Path, path: Path, way: str, *, foreign: bool = False) -> Path:
    """The same messages by another writer, as `mcap compress`, `ros2 bag` or a converter leave them."""
    with path.open("wb") as file:
        writer = Writer(file, **WAYS[way])
        writer.start(profile="ros2", library="somebody")
        channels = RosChannels(writer)
        last_ns = 0
        for message in iterate_bag(source):
            writer.add_message(channels.of(message.topic, message.kind), message.time_ns, message.data, message.time_ns)
            last_ns = message.time_ns
        if foreign:
            tf = writer.register_channel("/tf", "cdr", writer.register_schema("tf2_msgs/msg/TFMessage", "ros2msg", b""))
            other = writer.register_channel("/status", "json", 0)
            writer.add_message(tf, last_ns, b"\x00\x01\x00\x00" + bytes(4), last_ns)
            writer.add_message(other, last_ns, b"{}", last_ns)
        writer.finish()
    return path


@pytest.mark.parametrize("way", WAYS)
def test_an_episode_is_read_however_it_was_written_again(episode: Path, tmp_path: Path, way: str) -> None:
    again = rewritten(episode, tmp_path / "again.mcap", way)
    assert list(iterate_bag(again)) == list(iterate_bag(episode))
    read, original = read_episode(again, compressed=True), read_episode(episode)
    np.testing.assert_array_equal(read.actions_TA, original.actions_TA)
    np.testing.assert_array_equal(read.images["main"], original.images["main"])
    assert main(["episodes", "show", str(again)]) == 0


@pytest.mark.parametrize("way", ["zstd", "lz4"])
def test_what_robots_ship_is_never_compressed_and_the_remedy_is_named(episode: Path, tmp_path: Path, way: str) -> None:
    again = rewritten(episode, tmp_path / "again.mcap", way)
    with pytest.raises(CorruptError, match=rf"again\.mcap: a chunk is compressed with '{way}'.*mcap decompress"):
        read_episode(again)


@pytest.mark.parametrize("way", ["zstd", "lz4"])
def test_a_small_file_does_not_grow_without_end(tmp_path: Path, way: str) -> None:
    path = tmp_path / "bomb.mcap"
    with path.open("wb") as file:
        writer = Writer(file, chunk_size=1 << 20, **WAYS[way])
        writer.start()
        channel = writer.register_channel("/zeros", "cdr", 0)
        for number in range(96):
            writer.add_message(channel, number, bytes(1 << 20), number)
        writer.finish()
    assert path.stat().st_size < 1 << 20
    with pytest.raises(CorruptError, match=r"bomb\.mcap: a chunk would unpack to \d+ bytes; refused"):
        list(iterate_bag(path))


@pytest.mark.parametrize("way", ["zstd", "lz4", "none"])
def test_damage_anywhere_is_named_with_the_file(episode: Path, tmp_path: Path, way: str) -> None:
    path = rewritten(episode, tmp_path / "again.mcap", way)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(whole)
        broken[int(rng.integers(8, len(whole)))] ^= 0xFF
        path.write_bytes(broken[: int(rng.integers(len(whole) // 2, len(whole)))])
        with pytest.raises(CorruptError, match=r"again\.mcap"):
            list(iterate_bag(path))


def test_other_kinds_of_bag_are_named_with_what_converts_them(tmp_path: Path, episode: Path) -> None:
    kinds = {
        b"SQLite format 3\0": "ros2 bag convert",
        b"#ROSBAG V2.0\n": "rosbags-convert",
        b"\x28\xb5\x2f\xfd": "zstd -d",
        b"version https://git-lfs.github.com/spec/v1\n": "git lfs pull",
    }
    for begin, said in kinds.items():
        (tmp_path / "x.db3").write_bytes(begin + bytes(100))
        with pytest.raises(CorruptError, match=rf"x\.db3.*{said}"):
            list(iterate_bag(tmp_path / "x.db3"))
    with pytest.raises(CorruptError, match=r"is a folder; name a file in it: \['x.db3'\]"):
        list(iterate_bag(tmp_path))


@pytest.fixture
def flight(tmp_path: Path) -> Path:
    recorder = FlightRecorder(tmp_path / "flight")
    for number in range(20):
        recorder.note("joint_states", number * 50_000_000, Named(("waist",), (0.1,)))
        recorder.note("command_gate/report", number * 50_000_000, {"state": "armed"})
        recorder.note("over_shoulder/image_raw", number * 50_000_000, np.full((32, 32, 3), number, np.uint8))
    return recorder.write("flight-estop-1")


def test_a_flight_record_is_shown_as_what_it_is(
    flight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = contents(flight)
    assert (sum(held.counts.values()), len(held.counts), held.is_flight_record) == (60, 3, True)
    assert main(["episodes", "show", str(flight)]) == 0
    shown = capsys.readouterr().out
    assert "is a flight record" in shown
    assert "20  /over_shoulder/image_raw/compressed  sensor_msgs/msg/CompressedImage" in shown
    pytest.importorskip("rerun")
    assert main(["--json", "view", str(flight), "--save", str(tmp_path / "x.rrd")]) == 0
    assert '"left_out": {}' in capsys.readouterr().out


def test_what_is_not_ours_is_left_out_of_a_view_and_named(
    episode: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rerun")
    mixed = rewritten(episode, tmp_path / "mixed.mcap", "zstd", foreign=True)
    assert main(["view", str(mixed), "--save", str(tmp_path / "x.rrd")]) == 0
    shown = capsys.readouterr().out
    assert "left out: /tf, of type tf2_msgs/msg/TFMessage" in shown
    assert "left out: /status, encoded as json, not cdr" in shown
    assert messages.PROPRIO_TOPIC not in shown
