"""Episode files and pictures from a robot that lies: each is refused or set aside, and nobody else loses anything."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import struct
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import zstandard

from cloud_trainer.service import Service, ServiceConfig, enroll
from cloud_trainer.service.inspector import Inspector
from cloud_trainer.service.policy import PolicyServicer
from gymnast_cli.main import main
from gymnast_client import Trainer
from gymnast_core.episodes import Spool
from gymnast_core.errors import CorruptError, GymnastError
from gymnast_core.pictures import decode_picture, jpeg_size, picture_size
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.wire.channel import open_channel
from gymnast_core.wire.gymnast.v1 import policy_pb2, policy_pb2_grpc
from gymnast_core.wire.identity import Identity
from gymnast_core.wire.inference import answers
from gymnast_ros.uplink import Uplink
from tests.bridge.conftest import fill, make_episode
from tests.bridge.test_remote_policy import BrightnessPolicy
from tests.hostile.forged import FILES, GOOD_JPEG, PICTURES, forged, progressive
from tests.hostile.lab import Lab
from tests.hostile.registry import Tally, attack

TIMEOUT_S = 120.0
GROWTH_MIB = 400


def grown_mib(before_kib: int) -> float:
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024


def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def upload(service: Service, folder: Path, robot: str, spool: Spool) -> None:
    identity = enroll(service.authority, robot, "robot", out=folder / "ids" / robot)
    with Uplink(service.address, identity, spool=spool) as uplink:
        assert uplink.flush(TIMEOUT_S), uplink.status()


@attack("hostile episode files")
def send_files(folder: Path, size: int) -> Tally:
    """A robot sends every kind of bad file between honest ones of another robot."""
    with Service(ServiceConfig(folder=folder / "t")) as service:
        bad, good = Spool(folder / "bad"), Spool(folder / "good")
        kinds = [list(FILES)[number % len(FILES)] for number in range(max(size, len(FILES)))]
        for number, what in enumerate(kinds):
            bad.enqueue(forged(bad.recording_folder, f"bad-{number}", **FILES[what]))
        upload(service, folder, "wx-evil", bad)
        honest = fill(good, max(3, size // 10), "good")
        upload(service, folder, "wx-good", good)
        settled = service.episodes.settle(TIMEOUT_S)
        rows = {row.episode_id: row for row in service.meta.episodes(None, limit=10_000)}
    let_in = [kinds[number] for number in range(len(kinds)) if rows[f"bad-{number}"].state == "valid"]
    lost = sum(rows[name].state != "valid" for name in honest)
    assert not let_in, let_in
    return Tally(len(kinds), len(let_in), lost + (not settled))


def test_every_bad_file_is_set_aside_and_every_honest_one_is_valid(tmp_path):
    before = peak_kib()
    tally = send_files(tmp_path, len(FILES))
    assert (tally.accepted, tally.lost) == (0, 0)
    assert grown_mib(before) < GROWTH_MIB


def test_a_label_in_a_robots_file_does_not_stand_under_an_operators_name(tmp_path):
    with Service(ServiceConfig(folder=tmp_path / "t")) as service:
        spool = Spool(tmp_path / "spool")
        end = '{"outcome":"success","labelled_by":"operator:ada"}'
        spool.enqueue(forged(spool.recording_folder, "claims", end=end))
        upload(service, tmp_path, "wx-1", spool)
        assert service.episodes.settle(TIMEOUT_S)
        ada = enroll(service.authority, "ada", "operator", out=tmp_path / "ids" / "ada")
        with Trainer(service.address, ada).episodes as episodes:
            view = episodes.get("claims")
    assert (view.outcome, view.labelled_by) == ("unlabelled", "") or view.labelled_by == "robot:wx-1/operator:ada"


def inspecting() -> list[int]:
    """Processes of ours that look into files."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            mine = f"PPid:\t{os.getpid()}\n" in (path / "status").read_text()
            found += [int(path.name)] if mine and b"gymnast_core.episodes.inspection" in words else []
    return found


def reads(child: int, service: Service) -> bool:
    """Whether a process has a blob open."""
    blobs = str(service.config.folder / "blobs")
    with contextlib.suppress(OSError):
        return any(str(path.readlink()).startswith(blobs) for path in Path(f"/proc/{child}/fd").iterdir())
    return False


def test_a_file_whose_inspection_dies_is_set_aside_at_once_and_the_next_ones_are_looked_into(tmp_path):
    """The child is killed as the kernel would, in the middle of a file."""
    with Service(ServiceConfig(folder=tmp_path / "t")) as service:
        spool = Spool(tmp_path / "spool")
        heavy = forged(spool.recording_folder, "heavy", jpeg=progressive(2048, 20), frames=60)
        spool.enqueue(heavy)
        upload(service, tmp_path, "wx-1", spool)
        until = time.monotonic() + TIMEOUT_S
        while not (reading := [child for child in inspecting() if reads(child, service)]):
            assert time.monotonic() < until
            time.sleep(0.005)
        os.kill(reading[0], signal.SIGKILL)
        names = fill(spool, 2, "after")
        upload(service, tmp_path, "wx-1", spool)
        assert service.episodes.settle(TIMEOUT_S)
        rows = {row.episode_id: row for row in service.meta.episodes(None)}
    assert "SIGKILL" in rows["heavy"].reason
    assert rows["heavy"].state == "quarantined"
    assert [rows[name].state for name in names] == ["valid", "valid"]


def test_a_robot_whose_files_are_slow_does_not_hold_up_the_others(tmp_path):
    """Thirty slow files of one robot, then three small ones of another: valid long before the last slow one."""
    with Service(ServiceConfig(folder=tmp_path / "t")) as service:
        slow, good = Spool(tmp_path / "slow"), Spool(tmp_path / "good")
        for number in range(30):
            slow.enqueue(forged(slow.recording_folder, f"slow-{number}", jpeg=progressive(1024, 60), frames=4))
        upload(service, tmp_path, "wx-slow", slow)
        names = fill(good, 3, "good")
        upload(service, tmp_path, "wx-good", good)
        until = time.monotonic() + TIMEOUT_S
        while any(service.meta.episode("default", name).state != "valid" for name in names):
            assert time.monotonic() < until
            time.sleep(0.01)
        assert len(service.meta.episodes(None, states=["committed"])) >= 10


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        ({"cpu_s": 0.0, "cpu_s_per_mib": 0.0}, "processor time"),
        ({"memory_mib": 16}, r"MemoryError|undecodable|memory|ended the process"),
    ],
)
def test_a_file_that_needs_too_much_is_refused_by_name(tmp_path, bounds, reason):
    path = forged(tmp_path, "heavy", jpeg=progressive(2048, 20), frames=20)
    inspector = Inspector(**bounds)
    try:
        with pytest.raises(CorruptError, match=reason):
            inspector.inspect(path, "heavy", WIDOWX_250S)
        good = Inspector()
        assert good.inspect(make_episode(tmp_path, "small"), "small", WIDOWX_250S)["steps"] == 3
        good.close()
    finally:
        inspector.close()


def test_a_file_at_hand_when_the_service_ended_twice_is_set_aside(tmp_path):
    config, spool = ServiceConfig(folder=tmp_path / "t"), Spool(tmp_path / "spool")
    with Service(config) as service:
        service.validator.stop()
        fill(spool, 2)
        upload(service, tmp_path, "wx-1", spool)
        first, second = service.meta.episodes(None)
    (tmp_path / "t" / "validating.txt").write_text(f"{first.digest} 2")
    with Service(config) as service:
        assert service.episodes.settle(TIMEOUT_S)
        rows = service.meta.episodes(None)
    assert [row.state for row in rows] == ["quarantined", "valid"]
    assert "ended 2 times" in rows[0].reason
    assert second.digest == rows[1].digest


def test_no_episode_makes_the_page_hold_it_decoded(tmp_path):
    """A valid episode of 4096 x 4096 frames: twelve of them are 600 MB; nor is one opened that was set aside."""
    with Lab(tmp_path) as lab:
        spool = Spool(tmp_path / "spool")
        spool.enqueue(forged(spool.recording_folder, "large", jpeg=progressive(4096, 0), frames=12))
        spool.enqueue(forged(spool.recording_folder, "broken", **FILES["two frame headers"]))
        upload(lab.service, tmp_path, "wx-1", spool)
        assert lab.service.episodes.settle(TIMEOUT_S)
        before, ada = peak_kib(), lab.identity("ada", "operator")
        film = lab.page("GET", "/episodes/large/film.webp", identity=ada)
        assert (film.status, film.body[8:12]) == (200, b"WEBP")
        assert lab.page("GET", "/episodes/large", identity=ada).status == 200
        assert lab.page("GET", "/episodes/broken", identity=ada).status == 200
        refused = lab.page("GET", "/episodes/broken/film.webp", identity=ada)
        assert (refused.status, "is not opened" in refused.text) == (409, True), refused.text
    assert grown_mib(before) < GROWTH_MIB


@attack("hostile pictures to Infer")
def infer_pictures(folder: Path, size: int) -> Tally:
    """A robot asks a policy about pictures that are not what they say, then about a good one."""
    with Service(
        ServiceConfig(folder=folder / "t"), policy=PolicyServicer(lambda: answers(BrightnessPolicy()))
    ) as service:
        identity = enroll(service.authority, "wx-1", "robot", out=folder / "ids" / "wx-1")
        sent = [*(list(PICTURES.values()) * (size // len(PICTURES) + 1))[:size], GOOD_JPEG]
        with open_channel(service.address, Identity.load(identity)) as channel:
            requests = (
                policy_pb2.InferRequest(
                    request_id=number, instructions=["go"], proprio=[0.0] * 7, time_ns=[0],
                    cameras=[policy_pb2.Camera(name="cam", jpeg=[jpeg])],
                ) for number, jpeg in enumerate(sent)
            )  # fmt: skip
            replies = list(policy_pb2_grpc.PolicyServiceStub(channel).Infer(requests, timeout=TIMEOUT_S))
    accepted = sum(not reply.error for reply in replies[:-1])
    return Tally(size, accepted, int(len(replies) != len(sent) or bool(replies[-1].error)))


def test_no_picture_to_a_policy_is_decoded_larger_than_it_says(tmp_path):
    before = peak_kib()
    tally = infer_pictures(tmp_path, len(PICTURES))
    assert (tally.accepted, tally.lost) == (0, 0)
    assert grown_mib(before) < GROWTH_MIB


def test_the_size_that_is_checked_is_the_size_that_is_decoded():
    """Seeded edits of real pictures: what passes the check decodes to that size or not at all."""
    rng = np.random.default_rng(5)
    image = rng.integers(0, 255, (24, 40, 3), dtype=np.uint8)
    originals = [
        cv2.imencode(ending, image, options)[1].tobytes()
        for ending, options in ((".jpg", []), (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]), (".png", []))
    ]
    passed = 0
    for round_ in range(900):
        data = bytearray(originals[round_ % 3])
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(len(data) if round_ % 2 else 200))
            kind = int(rng.integers(3))
            if kind == 0:
                data[at] = int(rng.integers(256))
            elif kind == 1:
                data[at:at] = bytes([0xFF, int(rng.choice([0xC0, 0xC2, 0xC9, 0x00, 0xFF, 0x01, 0xD8, 0xDA]))])
            else:
                del data[at : at + int(rng.integers(1, 20))]
        try:
            height, width = picture_size(bytes(data))
        except CorruptError:
            continue
        if height * width > 1 << 13:
            continue
        seen = cv2.imdecode(np.frombuffer(bytes(data), np.uint8), cv2.IMREAD_COLOR)
        passed += seen is not None
        assert seen is None or sorted(seen.shape[:2]) == sorted((height, width))
    assert passed > 60


@pytest.mark.parametrize("what", sorted(PICTURES))
def test_the_one_decoder_refuses_what_it_cannot_know_before(what):
    if what == "a PNG":
        assert decode_picture(PICTURES[what]).shape == (8, 8, 3)
        with pytest.raises(CorruptError, match="not a JPEG"):
            jpeg_size(PICTURES[what])
        return
    with pytest.raises(GymnastError):
        decode_picture(PICTURES[what])


def test_only_one_place_decodes_pictures_from_elsewhere():
    root = Path(__file__).parents[2]
    using = [
        str(path.relative_to(root))
        for package in ("gymnast_core", "gymnast_client", "gymnast_ros", "cloud_trainer", "gymnast_cli")
        for path in (root / package).rglob("*.py")
        if any(call in path.read_text() for call in ("imdecode(", "imread(", "Image.open("))
    ]
    openvla = "gymnast_core/policies/openvla/images.py"  # what it has just encoded itself
    assert sorted(using) == ["gymnast_core/pictures.py", openvla]


def test_threads_left_over_by_inspection_are_none(tmp_path):
    before = threading.active_count()
    inspector = Inspector()
    inspector.inspect(make_episode(tmp_path, "ep"), "ep", WIDOWX_250S)
    inspector.close()
    assert threading.active_count() == before
    assert inspecting() == []


def test_what_is_no_file_in_a_robots_spool_holds_up_nothing(tmp_path):
    spool = Spool(tmp_path)
    name = f"ep-stray~{'0' * 64}.mcap"
    pending = next(path for path in tmp_path.iterdir() if path.name == "pending")
    (pending / name).mkdir()
    os.mkfifo(pending / f"ep-pipe~{'1' * 64}.mcap")
    assert spool.is_empty()
    assert spool.entries() == []
    assert {path.name for path in spool.strays()} == {name, f"ep-pipe~{'1' * 64}.mcap"}


def test_what_is_no_episode_in_a_robots_spool_is_reported(tmp_path, capsys):
    spool = Spool(tmp_path / "spool")
    assert main(["--json", "doctor", "--robot", str(tmp_path)]) == 0
    spooled, sockets = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (spooled["check"], spooled["state"], sockets["check"]) == ("spool", "ok", "sockets")
    (tmp_path / "spool" / "pending" / "notes\n.txt").write_text("not an episode")
    spool.enqueue(make_episode(spool.recording_folder, "ep-1"))
    assert main(["--json", "doctor", "--robot", str(tmp_path)]) == 0
    waiting, stray, _ = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert waiting["what"].startswith("1 episodes of ")
    assert (stray["state"], "'notes\\n.txt'" in stray["what"]) == ("warning", True), stray
    assert main(["doctor", "--robot", str(tmp_path / "elsewhere")]) == 2


def test_honest_files_are_looked_into_beside_a_thousand_open_connections(tmp_path):
    """What polls a child with select() takes no file number above 1023: the file was set aside as what ended it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    inspector = Inspector()
    with contextlib.ExitStack() as open_files:
        open_files.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1_100):
            open_files.callback(os.close, os.dup(0))
        open_files.callback(inspector.close)
        assert inspector.inspect(make_episode(tmp_path, "ep-1"), "ep-1", WIDOWX_250S)["steps"] == 3


@pytest.mark.parametrize("claimed", [1 << 30, 1_000])
def test_a_chunk_that_unpacks_to_a_gigabyte_is_refused_whatever_it_claims(tmp_path, claimed):
    """A compression bomb of some kilobytes as an MCAP chunk; the next file is looked into."""
    packer = zstandard.ZstdCompressor().compressobj()
    zeros = bytes(1 << 20)
    bomb = b"".join(packer.compress(zeros) for _ in range(1024)) + packer.flush()
    chunk = (
        struct.pack("<QQQI", 0, 0, claimed, 0) + struct.pack("<I", 4) + b"zstd" + struct.pack("<Q", len(bomb)) + bomb
    )
    path, inspector = make_episode(tmp_path, "bomb"), Inspector()
    whole = path.read_bytes()
    (size,) = struct.unpack_from("<Q", whole, 9)  # of the header record, which follows eight bytes and its own code
    head = 8 + 9 + size
    path.write_bytes(whole[:head] + b"\x06" + struct.pack("<Q", len(chunk)) + chunk + whole[head:])
    try:
        with pytest.raises(CorruptError):
            inspector.inspect(path, "bomb", WIDOWX_250S)
        assert inspector.inspect(make_episode(tmp_path, "good"), "good", WIDOWX_250S)["steps"] == 3
    finally:
        inspector.close()
