from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cloud_trainer.world_model.capabilities import ActionKind
from cloud_trainer.world_model.data.bridge_raw import BridgeRawSource
from cloud_trainer.world_model.data.check import check
from cloud_trainer.world_model.data.lag import ConventionError, LagReport, LagTally
from cloud_trainer.world_model.data.lerobot import LeRobotSource
from cloud_trainer.world_model.data.mcap import McapSource
from cloud_trainer.world_model.data.source import (
    MemorySource,
    Origin,
    SchemaError,
    SelectedSource,
    SourceInfo,
    actions_of,
    iterate,
    shifted,
)
from cloud_trainer.world_model.data.video import VideoCursor, read_video, write_video
from cloud_trainer.world_model.data.worldgym import WorldGymSource
from cloud_trainer.world_model.dit.actions import condition, frame_conditions, physical_from_bridge, rescale_bridge
from gymnast_core.arm.kinematics import forward
from gymnast_core.arm.targets import EndEffectorTarget, proprioception
from gymnast_core.episodes import write_episode
from gymnast_core.errors import CorruptError, GymnastError
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import Episode
from tests.world_model.tiny import tiny_episode

SAMPLE = Path("/work/shared/data/bridge_sample")
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the BridgeData sample clips are not here")


def moving_square(seed: int = 0, steps: int = 40, lag: int = 0, proprio: bool = False) -> Episode:
    """A square that moves by the action given `lag` steps before."""
    rng = np.random.default_rng(seed)
    actions = np.zeros((steps, 7), np.float32)
    actions[:, :2] = rng.uniform(-0.05, 0.05, (steps, 2)) * rng.uniform(0, 1, (steps, 1))
    place, frames, poses = np.array([32.0, 32.0]), [], []
    for step in range(steps + 1):
        picture = np.full((64, 64, 3), 40, np.uint8)
        x, y = place.round().astype(int)
        cv2.rectangle(picture, (x - 8, y - 8), (x + 8, y + 8), (220, 180, 60), -1)
        cv2.circle(picture, (x, y), 4, (10, 60, 200), -1)
        frames.append(picture)
        poses.append([*(place / 1000), *[0.0] * 5])
        if 0 <= step - lag < steps:
            place = np.clip(place + actions[step - lag, :2] * 100, 12, 52)
    fields: dict[str, Any] = {
        "images": {"main": np.stack(frames)},
        "actions_TA": actions,
        "proprio_TP": np.array(poses, np.float32),
        "metadata": {"proprioception": proprio},
    }
    return replace(tiny_episode(steps=steps, size=64), **fields)


def measure_lag(episodes: Iterable[Episode]) -> LagReport:
    tally = LagTally()
    for episode in episodes:
        tally.add(episode)
    return tally.report()


def test_shift_moves_the_action_to_the_motion_it_causes() -> None:
    episode = tiny_episode(steps=6)
    late = shifted(episode, 2)
    assert late.steps == 4
    np.testing.assert_array_equal(late.actions_TA, episode.actions_TA[:4])
    np.testing.assert_array_equal(late.images["main"], episode.images["main"][2:])
    early = shifted(episode, -1)
    np.testing.assert_array_equal(early.actions_TA, episode.actions_TA[1:])
    np.testing.assert_array_equal(early.images["main"], episode.images["main"][:6])
    assert shifted(episode, 0) is episode


@pytest.mark.parametrize("lag", [0, 1, 3])
@pytest.mark.parametrize("proprio", [False, True])
def test_lag_is_found_and_declaring_it_mends_the_data(lag: int, proprio: bool) -> None:
    episodes = [moving_square(seed, lag=lag, proprio=proprio) for seed in range(2)]
    assert measure_lag(episodes).best == lag
    mended = MemorySource(SourceInfo("squares", lag=lag), episodes)
    check(mended).require_in_step()
    if lag:
        as_stored = check(MemorySource(SourceInfo("squares"), episodes))
        with pytest.raises(ConventionError, match=rf"dataset squares: .*\n  all: \+{lag} \(2 episodes\)"):
            as_stored.require_in_step()
        as_stored.require_in_step(tolerance=lag)


def test_still_pictures_give_nothing_to_measure() -> None:
    still = replace(moving_square(), images={"main": np.zeros((41, 64, 64, 3), np.uint8)})
    with pytest.raises(ConventionError, match="nothing to measure"):
        measure_lag([still])


@needs_sample
def test_bridge_clips_have_the_stated_shapes_and_ranges() -> None:
    source = WorldGymSource(SAMPLE, SourceInfo("bridge_sample", lag=0))
    assert len(source) == 6
    for index in range(6):
        stored = source.raw_actions(index)
        assert not stored[:, 7:].any()
        episode = source.episode(index)
        assert episode.images["main"].shape == (len(stored), 256, 256, 3)
        assert episode.steps == len(stored) - 1
        assert np.abs(episode.actions_TA[:, :3]).max() <= WIDOWX_250S.max_translation_m + 1e-6
        assert np.abs(episode.actions_TA[:, 3:6]).max() <= WIDOWX_250S.max_rotation_rad + 1e-6
        assert set(np.unique(episode.actions_TA[:, 6])) <= {0.0, 1.0}
        np.testing.assert_allclose(condition(episode.actions_TA), stored[:-1], atol=1e-5)


@needs_sample
def test_bridge_motion_lags_the_recorded_action() -> None:
    raw = list(iterate(WorldGymSource(SAMPLE, SourceInfo("bridge_sample", lag=0), size=128)))
    report = measure_lag(raw)
    assert report.best in (1, 2)
    assert report.margin > 0.05
    assert report.systematic
    assert not measure_lag(iterate(WorldGymSource(SAMPLE, size=128))).systematic


def test_worldgym_pairs_must_fit(tmp_path: Path) -> None:
    frames = np.zeros((5, 16, 16, 3), np.uint8)
    write_video(tmp_path / "0.mp4", frames)
    np.savez(tmp_path / "0.npz", np.zeros((5, 10), np.float32))
    assert WorldGymSource(tmp_path).episode(0).steps == 3
    np.savez(tmp_path / "0.npz", np.zeros((4, 10), np.float32))
    with pytest.raises(CorruptError, match="5 frames but 4 actions"):
        WorldGymSource(tmp_path).episode(0)
    np.savez(tmp_path / "0.npz", np.array([{}], dtype=object))
    with pytest.raises(CorruptError, match="no readable arr_0"):
        WorldGymSource(tmp_path).episode(0)
    np.savez(tmp_path / "1.npz", np.zeros((5, 10), np.float32))
    with pytest.raises(CorruptError, match=r"\['1'\]"):
        WorldGymSource(tmp_path).episode(0)


def test_rescaling_is_undone() -> None:
    action = np.array([0.01, -0.05, 0.02, 0.1, -0.25, 0.0, 1.0], np.float32)
    np.testing.assert_allclose(physical_from_bridge(rescale_bridge(action)), action, atol=1e-7)
    np.testing.assert_allclose(rescale_bridge(action)[:4], [0.35, -1.75, 0.7, 0.56], atol=1e-6)
    assert rescale_bridge(action)[6] == -1
    rows = frame_conditions(np.stack([action, action]))
    assert rows.shape == (3, 10)
    assert not rows[0].any()


def test_mcap_episodes_come_back_at_the_size_asked_for(tmp_path: Path) -> None:
    episodes = [tiny_episode(seed, size=16, episode_id=f"e{seed}") for seed in range(2)]
    paths = [write_episode(tmp_path, episode, robot="wx250s") for episode in episodes]
    read = McapSource(SourceInfo("robot"), paths).episode(0)
    np.testing.assert_allclose(read.actions_TA, episodes[0].actions_TA)
    assert read.images["main"].shape == (9, 16, 16, 3)
    smaller = McapSource(SourceInfo("robot"), paths, size=8).episode(1)
    assert smaller.images["main"].shape == (9, 8, 8, 3)
    assert smaller.episode_id == "e1"


def bridge_folder(folder: Path, pictures: int = 4, actions: int = 3) -> Path:
    place = folder / "task" / "raw" / "traj_group0" / "traj7"
    (place / "images0").mkdir(parents=True)
    for number in range(pictures):
        cv2.imwrite(str(place / "images0" / f"im_{number}.jpg"), np.full((24, 32, 3), 20 * number, np.uint8))
    state = np.arange(pictures * 7, dtype=np.float64).reshape(pictures, 7)
    rows = [{"actions": np.full(7, step / 100), "policy_type": "VRPolicy"} for step in range(actions)]
    for name, value in (("obs_dict", {"full_state": state}), ("policy_out", rows)):
        (place / f"{name}.pkl").write_bytes(pickle.dumps(value, protocol=4))
    (place / "lang.txt").write_text("put the pot in the sink\nconfidence: 0.9\n")
    return place


def test_bridge_raw_trajectory_is_read_without_running_it(tmp_path: Path) -> None:
    bridge_folder(tmp_path)
    source = BridgeRawSource(tmp_path, size=16)
    episode = source.episode(0)
    assert len(source) == 1
    assert episode.instruction == "put the pot in the sink"
    assert episode.images["main"].shape == (4, 16, 16, 3)
    assert [int(frame.mean()) for frame in episode.images["main"]] == [0, 20, 40, 60]
    np.testing.assert_allclose(episode.actions_TA[2], 0.02, atol=1e-7)
    np.testing.assert_allclose(episode.proprio_TP[1], np.arange(7, 14))


def test_bridge_raw_refuses_hostile_and_unfitting_files(tmp_path: Path) -> None:
    place = bridge_folder(tmp_path, pictures=6)
    with pytest.raises(CorruptError, match="6 pictures, 6 states and 3 actions"):
        BridgeRawSource(tmp_path).episode(0)
    (place / "obs_dict.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(CorruptError, match=r"os\.system"):
        BridgeRawSource(tmp_path).episode(0)


def lerobot_folder(
    folder: Path,
    lengths: tuple[int, ...] = (5, 4),
    version: str = "v3.0",
    width: int = 7,
    fps: float = 5,
    *,
    state: list[float] | None = None,
    action: list[float] | None = None,
    pictures: bool = False,
) -> Path:
    import pyarrow
    import pyarrow.parquet as parquet

    key, rows, episodes, frames, start = "observation.images.top", [], [], [], 0
    for number, length in enumerate(lengths):
        for step in range(length):
            moved = action or [0.01 * number + 0.001 * step] * width
            frames.append(np.full((32, 32, 3), (50 * number + 10 * step) % 256, np.uint8))
            rows.append(
                {"action": moved, "observation.state": state or [0.1] * 7, "timestamp": step / fps, "frame_index": step}
                | {"episode_index": number, "index": start + step, "task_index": number}
                | ({key: {"bytes": cv2.imencode(".png", frames[-1])[1].tobytes(), "path": None}} if pictures else {})
            )
        episodes.append(
            {"episode_index": number, "length": length, "data/chunk_index": 0, "data/file_index": 0}
            | {f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": 0}
            | {f"videos/{key}/from_timestamp": start / fps, f"videos/{key}/to_timestamp": (start + length) / fps}
        )
        start += length
    feature = {"dtype": "image" if pictures else "video", "shape": [32, 32, 3]}
    info = {
        "codebase_version": version,
        "fps": fps,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None if pictures else "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {
            key: feature,
            "action": {"dtype": "float32", "shape": [width]},
            "observation.state": {"dtype": "float32", "shape": [len(state or [0.1] * 7)]},
        },
    }
    tasks = [{"task_index": number, "task": f"task {number}"} for number in range(len(lengths))]
    tables = {"data/chunk-000": rows, "meta/episodes/chunk-000": episodes}
    for place, content in tables.items():
        (folder / place).mkdir(parents=True)
        parquet.write_table(pyarrow.Table.from_pylist(content), folder / place / "file-000.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(tasks), folder / "meta" / "tasks.parquet")
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    if not pictures:
        (folder / "videos" / key / "chunk-000").mkdir(parents=True)
        write_video(folder / "videos" / key / "chunk-000" / "file-000.mp4", np.stack(frames), fps=fps)
    return folder


def test_lerobot_episodes_are_cut_out_of_shared_files(tmp_path: Path) -> None:
    source = LeRobotSource(lerobot_folder(tmp_path), SourceInfo("lr"))
    assert len(source) == 2
    second = source.episode(1)
    assert second.instruction == "task 1"
    assert second.steps == 3
    np.testing.assert_allclose(second.actions_TA[:, 0], [0.01, 0.011, 0.012], atol=1e-6)
    np.testing.assert_allclose([f.mean() for f in second.images["observation.images.top"]], [50, 60, 70, 80], atol=3)
    np.testing.assert_array_equal(second.time_ns_T, [0, 200_000_000, 400_000_000, 600_000_000])


def test_lerobot_frames_are_thinned_to_the_control_rate(tmp_path: Path) -> None:
    episode = LeRobotSource(lerobot_folder(tmp_path / "10", lengths=(6, 6), fps=10), SourceInfo("lr")).episode(1)
    assert episode.steps == 2, "five steps of 100 ms are two of 200 ms"
    np.testing.assert_allclose(episode.actions_TA[:, 0], [0.010 + 0.011, 0.012 + 0.013], atol=1e-6)
    np.testing.assert_allclose(episode.actions_TA[:, 6], [0.011, 0.013], atol=1e-6)
    np.testing.assert_array_equal(episode.time_ns_T, [0, 200_000_000, 400_000_000])
    np.testing.assert_allclose([f.mean() for f in episode.images["observation.images.top"]], [50, 70, 90], atol=3)
    with pytest.raises(SchemaError, match=r"dataset lr: .* at 12 frames/s; .* 5 Hz.* Resample"):
        LeRobotSource(lerobot_folder(tmp_path / "12", fps=12), SourceInfo("lr")).episode(0)


def worldgym_folder(folder: Path) -> Path:
    write_video(folder / "0.mp4", np.random.default_rng(0).integers(0, 255, (6, 16, 16, 3), dtype=np.uint8))
    np.savez(folder / "0.npz", np.zeros((6, 10), np.float32))
    return folder


def mcap_folder(folder: Path) -> Path:
    write_episode(folder, tiny_episode(size=16), robot="wx250s")
    return folder


@pytest.mark.parametrize(
    ("make", "read"),
    [
        (worldgym_folder, lambda folder: WorldGymSource(folder).episode(0)),
        (lambda folder: bridge_folder(folder) and folder, lambda folder: BridgeRawSource(folder).episode(0)),
        (lerobot_folder, lambda folder: LeRobotSource(folder, SourceInfo("lr")).episode(0)),
        (mcap_folder, lambda folder: McapSource(SourceInfo("robot"), sorted(folder.rglob("*.mcap"))).episode(0)),
    ],
    ids=["worldgym", "bridge_raw", "lerobot", "mcap"],
)
def test_whatever_is_cut_emptied_or_garbled_is_read_or_refused_by_name(tmp_path: Path, make: Any, read: Any) -> None:
    folder = make(tmp_path)
    rng = np.random.default_rng(0)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        garbled = bytearray(whole)
        for place in rng.integers(0, len(whole), 1 + len(whole) // 50):
            garbled[place] ^= 0xFF
        for damaged in (b"", whole[:10], whole[: len(whole) // 2], whole[:-3], bytes(garbled), b"\xff" * 64, b"{}"):
            path.write_bytes(damaged)
            with contextlib.suppress(GymnastError):  # refused; anything else is our bug
                assert isinstance(read(folder), Episode)
        path.unlink()
        with contextlib.suppress(GymnastError, IndexError):  # IndexError: an empty dataset has no episode 0
            read(folder)
        path.write_bytes(whole)
    assert isinstance(read(folder), Episode)


def test_damage_is_told_with_dataset_and_file(tmp_path: Path) -> None:
    place = bridge_folder(tmp_path)
    (place / "obs_dict.pkl").unlink()
    with pytest.raises(CorruptError, match=r"traj7 has no obs_dict.pkl; .*leave it out"):
        BridgeRawSource(tmp_path).episode(0)


def test_lerobot_refuses_other_versions_and_undeclared_schemas(tmp_path: Path) -> None:
    old = LeRobotSource(lerobot_folder(tmp_path / "old", version="v2.1"), SourceInfo("old"))
    with pytest.raises(CorruptError, match=r"dataset old is LeRobot 'v2.1'"):
        old.episode(0)
    wide = lerobot_folder(tmp_path / "wide", width=14)
    with pytest.raises(SchemaError, match=r"dataset aloha: action has 14 columns; 7 are read .*--action 0-5,13"):
        LeRobotSource(wide, SourceInfo("aloha")).episode(0)
    video = LeRobotSource(wide, SourceInfo("aloha", actions=ActionKind.NONE)).episode(0)
    assert not video.actions_TA.any()


def test_joint_targets_become_the_deltas_that_reach_them() -> None:
    rng = np.random.default_rng(0)
    neutral = np.array(WIDOWX_250S.neutral_joints_rad)
    joints = neutral + np.cumsum(rng.uniform(-0.02, 0.02, (6, 6)), axis=0)
    stored = np.concatenate((joints, np.ones((6, 1))), axis=1).astype(np.float32)
    actions = actions_of(SourceInfo("j", actions=ActionKind.JOINT), stored[1:], stored[0])
    target = EndEffectorTarget.from_proprioception(proprioception(*forward(joints[0]), 1.0))
    for row in actions:
        target, _ = target.advanced(row)
    np.testing.assert_allclose(target.proprio_P, proprioception(*forward(joints[-1]), 1.0), atol=1e-4)
    with pytest.raises(SchemaError, match="dataset franka has joint actions of 'panda'"):
        SourceInfo("franka", actions=ActionKind.JOINT, robot="panda")


def test_video_frames_survive_and_damage_is_refused(tmp_path: Path) -> None:
    frames = np.stack([np.full((17, 16, 3), value, np.uint8) for value in (10, 120, 240)])
    write_video(tmp_path / "a.mp4", frames)
    back = read_video(tmp_path / "a.mp4")
    assert back.shape == (3, 18, 16, 3)
    assert np.abs(back.mean(axis=(1, 2, 3)) - [10, 120, 240]).max() < 3
    assert read_video(tmp_path / "a.mp4", size=8).shape == (3, 8, 8, 3)
    cursor = VideoCursor()
    for first in (1, 2, 0):
        (piece,) = cursor.read(tmp_path / "a.mp4", first=first, count=1, fps=5)
        assert abs(piece.mean() - [10, 120, 240][first]) < 3
    with pytest.raises(CorruptError, match="gives 2 frames from frame 1 on, not 4"):
        cursor.read(tmp_path / "a.mp4", first=1, count=4, fps=5)
    with pytest.raises(CorruptError, match="frames/s throughout"):
        cursor.read(tmp_path / "a.mp4", first=0, count=3, fps=10)
    (tmp_path / "b.mp4").write_bytes(b"no video")
    with pytest.raises(CorruptError, match="not a readable video"):
        read_video(tmp_path / "b.mp4")


def test_selected_episodes_carry_their_new_origin() -> None:
    whole = MemorySource(SourceInfo("m"), [tiny_episode(seed) for seed in range(3)])
    failures = SelectedSource(whole, [2], Origin.FAILURE)
    assert failures.info.origin is Origin.FAILURE
    assert failures.episode(0).episode_id == "tiny-2"
