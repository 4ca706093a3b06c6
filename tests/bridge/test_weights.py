"""Weights on the robot: deltas, adapters, shadow checks, swaps that no kill can tear, and the way back."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from gymnast_core.errors import CheckpointError, CorruptError
from gymnast_core.records.delta import apply_delta, encode_delta
from gymnast_core.records.manifest import read_checkpoint, write_checkpoint
from gymnast_core.records.release import DowngradeError, Release
from gymnast_core.records.signing import SigningKey, TrustedKeys
from gymnast_core.types import ActionChunk, Observation
from gymnast_core.wire.errors import TooLargeError
from gymnast_ros.shadow import shadow_check
from gymnast_ros.uplink import Identity, RobotStore, Uplink
from gymnast_ros.uplink.store_folder import ADAPTER_OF
from tests.bridge.conftest import UNGATED, make_checkpoint
from tests.bridge.test_bridge import wait_until

KEY = SigningKey.generate()
KILLS = 200


def signed(folder: Path, sequence: int, *, kind="release", **fields):
    manifest, weights = read_checkpoint(folder)
    from dataclasses import asdict

    from blake3 import blake3

    release = Release(
        kind, sequence, manifest.id, asdict(manifest), blake3(weights).hexdigest(), len(weights), 0, 2**62, **fields
    )
    return KEY.sign(release.to_bytes())


def stage(store: RobotStore, folder: Path, sequence: int, **fields) -> str:
    copy = store.download_folder / f"w{sequence}"
    copy.write_bytes((folder / "weights.safetensors").read_bytes())
    return store.stage(signed(folder, sequence, **fields), copy).name


@pytest.fixture
def store(tmp_path):
    return RobotStore(tmp_path / "robot", robot="wx-1", trusted=TrustedKeys([KEY.public_bytes()]), gate=UNGATED)


def checkpoints(tmp_path: Path, count: int) -> list[Path]:
    for number in range(count):
        make_checkpoint(tmp_path / f"c{number}", float(number))
    return [tmp_path / f"c{number}" for number in range(count)]


def test_the_shipped_one_and_the_last_three_are_kept_and_the_rest_goes(store, tmp_path):
    folders = checkpoints(tmp_path, 6)
    ids = [store.install(folders[0]).name]
    for sequence, folder in enumerate(folders[1:], 1):
        ids.append(stage(store, folder, sequence))
        store.swap(ids[-1])
    assert store.held() == sorted([ids[0], *ids[-3:]]), "what came with the robot stays"
    assert store.current_id() == ids[-1]


def test_older_releases_are_refused_and_a_signed_rollback_is_not(store, tmp_path):
    first, second = checkpoints(tmp_path, 2)
    old = stage(store, first, 1)
    store.swap(old)
    new = stage(store, second, 5)
    store.swap(new)
    with pytest.raises(DowngradeError):
        stage(store, first, 1)
    with pytest.raises(DowngradeError):
        store.stage(signed(first, 5), None)
    assert store.stage(signed(first, 6, kind="rollback", reason="worse"), None).name == old
    store.swap(old)
    assert store.current_id() == old


def test_altered_weights_are_never_staged(store, tmp_path):
    [folder] = checkpoints(tmp_path, 1)
    copy = store.download_folder / "w"
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    copy.write_bytes(data)
    with pytest.raises(CheckpointError, match="digest"):
        store.stage(signed(folder, 1), copy)
    assert store.staged() is None
    assert store.highest == 0


def test_probation_ends_well_or_goes_back(store, tmp_path):
    folders = checkpoints(tmp_path, 3)
    base = store.install(folders[0]).name
    good = stage(store, folders[1], 1)
    store.swap(good, probation_episodes=2)
    assert store.on_episode(good=True)
    assert store.state.probation is not None
    assert store.on_episode(good=True)
    assert store.state.probation is None
    bad = stage(store, folders[2], 2)
    store.swap(bad, probation_episodes=2)
    assert not store.on_episode(good=False, reason="collision")
    assert store.current_id() == good
    assert store.staged() is None
    reopened = RobotStore(store.folder, robot="wx-1", gate=UNGATED)
    assert reopened.current_id() == good
    assert reopened.state.failed == {bad: "collision"}
    reopened.rollback("operator")
    assert reopened.current_id() == base
    with pytest.raises(CheckpointError, match="no earlier"):
        reopened.rollback("again")


def test_adapters_travel_alone_and_keep_their_base(store, tmp_path):
    base_folder, *others = checkpoints(tmp_path, 5)
    base = store.install(base_folder).name
    weights = save({"lora_a": np.ones((2, 2), np.float32)})
    adapter = write_checkpoint(
        tmp_path / "adapter", weights, kind="policy", architecture="toy", config={ADAPTER_OF: base}, parents=(base,)
    )
    write_checkpoint(tmp_path / "lost", weights, kind="policy", architecture="toy", config={ADAPTER_OF: "policy-x"})
    with pytest.raises(CheckpointError, match="policy-x"):
        stage(store, tmp_path / "lost", 1)
    assert stage(store, tmp_path / "adapter", 3) == adapter.id
    store.swap(adapter.id)
    for sequence, folder in enumerate(others[:2], 4):
        store.swap(stage(store, folder, sequence))
    assert {base, adapter.id} <= set(store.held())


def bf16_file(values: np.ndarray) -> bytes:
    """A safetensors file of one bfloat16 tensor (numpy has no such type)."""
    data = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    header = json.dumps({"w": {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [0, len(data)]}}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data


def test_delta_after_a_small_step_is_small_and_lossless():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 0.02, 500_000)
    base, new = bf16_file(values), bf16_file(values + rng.choice([-1e-6, 0, 1e-6], values.shape))
    delta = encode_delta(base, new)
    assert apply_delta(base, delta, len(new)) == new
    assert len(delta) < 0.15 * len(new)


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=64, max_size=64), st.binary(min_size=64, max_size=64))
def test_every_pair_of_same_layout_survives_a_delta(first, second):
    files = [
        save({"a": np.frombuffer(data, np.float32), "b": np.frombuffer(data[:6], np.uint8)}) for data in (first, second)
    ]
    assert apply_delta(files[0], encode_delta(*files), len(files[1])) == files[1]


def test_broken_deltas_and_other_layouts_are_refused():
    base, new = (save({"a": np.full(100, value, np.float32)}) for value in (1, 2))
    delta = encode_delta(base, new)
    assert encode_delta(base, save({"a": np.ones(99, np.float32)})) is None
    for bad in (b"", b"GYMDELT1", delta[:-3], delta[:30] + b"\x00" * 30, delta.replace(b'{"size"', b'{"bomb"')):
        with pytest.raises(CorruptError):
            apply_delta(base, bad, len(new))
    with pytest.raises(CorruptError, match="does not lead"):
        apply_delta(base + b"x", delta, len(new))
    with pytest.raises(CorruptError, match="does not lead"):
        apply_delta(base, delta, 10)


def publish_pair(service, tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=50_000).astype(np.float32)
    base = write_checkpoint(tmp_path / "base", save({"w": values}), kind="policy", architecture="toy", config={"n": 0})
    new = write_checkpoint(
        tmp_path / "new", save({"w": values * np.float32(1 + 1e-6)}), kind="policy", architecture="toy",
        config={"n": 1}, parents=(base.id,),
    )  # fmt: skip
    service.publisher.publish("default", tmp_path / "base")
    release, _ = service.publisher.publish("default", tmp_path / "new")
    return base, new, release


def test_a_release_that_no_message_holds_is_refused_and_holds_nothing_up(service, identities, tmp_path):
    huge = make_checkpoint(tmp_path / "huge", 1.0, normalisation={"note": "\N{GRINNING FACE}" * 250_000})
    with pytest.raises(TooLargeError, match="shorten the configuration and statistics"):
        service.publisher.publish("default", tmp_path / "huge")
    assert service.meta.checkpoint("default", huge.id) is None
    good = make_checkpoint(tmp_path / "good", 2.0)
    service.publisher.publish("default", tmp_path / "good")
    robot = identities("wx-1", "robot")
    store = RobotStore(tmp_path / "robot", robot="wx-1", trusted=Identity.load(robot).trusted_keys(), gate=UNGATED)
    with Uplink(service.address, robot, store=store):
        wait_until(lambda: store.staged() is not None and store.staged().name == good.id)


@pytest.mark.parametrize("holds_base", [True, False])
def test_a_robot_with_the_base_fetches_the_delta_alone(service, identities, tmp_path, holds_base):
    base, new, release = publish_pair(service, tmp_path)
    assert [delta.base_id for delta in release.deltas] == [base.id]
    robot = identities("wx-1", "robot")
    store = RobotStore(tmp_path / "robot", robot="wx-1", trusted=Identity.load(robot).trusted_keys(), gate=UNGATED)
    if holds_base:
        store.install(tmp_path / "base")
    events = []
    with Uplink(service.address, robot, store=store, on_event=lambda event: events.append(event.kind)):
        wait_until(lambda: store.staged() is not None and store.staged().name == new.id)
    assert events.count("rebuilt_from_delta") == 1  # the other robot takes the base first, as it is published first
    assert read_checkpoint(store.staged())[0].id == new.id


def test_a_delta_that_gives_other_bytes_falls_back_to_the_whole_file(service, identities, tmp_path, monkeypatch):
    from cloud_trainer.service import publish

    monkeypatch.setattr(publish, "encode_delta", lambda base, new: encode_delta(base, base))
    base, new, release = publish_pair(service, tmp_path)
    robot = identities("wx-1", "robot")
    store = RobotStore(tmp_path / "robot", robot="wx-1", trusted=Identity.load(robot).trusted_keys(), gate=UNGATED)
    store.install(tmp_path / "base")
    with Uplink(service.address, robot, store=store):
        wait_until(lambda: store.staged() is not None and store.staged().name == new.id)
    assert read_checkpoint(store.staged())[1] == (tmp_path / "new" / "weights.safetensors").read_bytes()
    assert release.deltas[0].base_id == base.id


class Scripted:
    """A policy that says what it is told."""

    version, chunk_length = "scripted", 5

    def __init__(self, actions, pause_s=0.0, error=None):
        self._actions, self._pause_s, self._error = actions, pause_s, error

    def act(self, observation, instruction, *, rng=None):
        time.sleep(self._pause_s)
        if self._error:
            raise self._error
        return ActionChunk(np.full((1, 5, 7), self._actions, np.float32), self.version)


RECORDED = [(Observation({}, np.zeros((1, 7), np.float32), np.zeros(1, np.int64)), "lift")] * 3


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (Scripted(0.04), ""),
        (Scripted(float("nan")), "not finite"),
        (Scripted(0.5), "10.0 times the limit"),
        (Scripted(0.04, pause_s=0.03), "s, allowed are 0.02 s"),
        (Scripted(0.04, error=ValueError("shape")), "ValueError: shape"),
    ],
)
def test_shadow_check_finds_what_must_not_move_an_arm(policy, reason):
    report = shadow_check(policy, RECORDED, max_latency_s=0.02)
    assert reason in report.reason
    assert bool(report.reason) == bool(reason)


def test_no_kill_leaves_a_torn_or_older_checkpoint_in_use(tmp_path):
    """SIGKILL at random moments of staging, swapping, proving and rolling back; `make swap-kills N=5000`."""
    out = tmp_path / "tally.json"
    command = [sys.executable, "-m", "tests.bridge.swap_kills", "--kills", str(KILLS), "--json", str(out)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300)
    assert out.exists(), done.stderr[-2000:]
    tally = json.loads(out.read_text())
    assert tally["clean"], tally["wrong"]
    assert tally["kills"] == KILLS
    assert tally["reads"] > KILLS
    assert tally["swaps"] > 0
    assert {"stage", "swap", "rollback"} <= set(tally["during"])


def test_candidates_wait_together_until_one_is_chosen(store, tmp_path):
    folders = checkpoints(tmp_path, 4)
    names = [stage(store, folder, number) for number, folder in enumerate(folders[:3], 1)]
    assert set(names) <= set(store.held())
    store.swap(names[1])
    assert names[0] not in store.held(), "the chosen one overtook it"
    assert store.staged().name == names[2]
    back = stage(store, folders[3], 4, kind="rollback", reason="worse")
    assert store.staged().name == back
    assert names[2] not in store.held(), "a rollback is the last word"


def test_an_older_release_is_not_tried_after_a_newer_one(store, tmp_path):
    folders = checkpoints(tmp_path, 3)
    older, newer = stage(store, folders[0], 1), stage(store, folders[1], 2)
    assert store.staged().name == newer
    store.swap(newer)
    assert store.staged() is None
    assert older not in store.held()
    newest = stage(store, folders[2], 3)
    assert store.staged().name == newest
    store.stage(signed(folders[1], 4, kind="rollback", reason="worse"), None)
    assert store.staged() is None, "the rollback's checkpoint is in use already"


def test_what_a_kill_left_behind_goes_at_the_next_start(store, tmp_path):
    (store.folder / ".current-77").symlink_to("checkpoints/nowhere")
    (store.folder / ".state.json.partial-77-1").write_bytes(b"{")
    (store.download_folder / "stale.part").write_bytes(b"of a release that was overtaken")
    [folder] = checkpoints(tmp_path, 1)
    stage(store, folder, 1)
    RobotStore(store.folder, robot="wx-1", gate=UNGATED)
    assert sorted(path.name for path in store.folder.iterdir()) == ["checkpoints", "download", "state.json"]
    assert list(store.download_folder.iterdir()) == []


def test_the_store_remembers_a_bounded_past(store, tmp_path):
    base, other = checkpoints(tmp_path, 2)
    store.install(base)
    name = stage(store, other, 1)
    for number in range(150):
        store.reject(f"policy-{number}", "no")
    assert list(store.state.failed) == [f"policy-{number}" for number in range(50, 150)]
    assert store.staged().name == name


def test_release_objects_hold_what_is_signed(tmp_path):
    [folder] = checkpoints(tmp_path, 1)
    release = Release.from_bytes(signed(folder, 3).payload)
    assert replace(release, sequence=3) == release
