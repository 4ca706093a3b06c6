"""What public datasets bring that is not ours: found and named before anything learns from it."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cloud_trainer.world_model.capabilities import ActionKind
from cloud_trainer.world_model.data.bridge_raw import BridgeRawSource
from cloud_trainer.world_model.data.check import check
from cloud_trainer.world_model.data.described import DatasetConfig, build_source
from cloud_trainer.world_model.data.lag import ConventionError
from cloud_trainer.world_model.data.lerobot import LeRobotSource
from cloud_trainer.world_model.data.source import MemorySource, SchemaError, SourceInfo, iterate
from cloud_trainer.world_model.data.units import UnitsError
from gymnast_cli.main import main
from gymnast_core.errors import ConfigError, CorruptError
from gymnast_core.types import Episode
from tests.cli.test_wm import NETWORK
from tests.world_model.test_sources import lerobot_folder, measure_lag, moving_square

EARLY, LATE = "2021-07-22_23-59-59", "2021-07-23_00-00-00"


def bridge_trajectory(folder: Path, date: str, number: int, *, lag: int, camera: int = 0) -> Path:
    """A trajectory in BridgeData's layout whose motion comes `lag` steps after its action."""
    moving = moving_square(number, steps=20, lag=lag)
    place = folder / "toykitchen1" / "put_spoon" / date / "raw" / "traj_group0" / f"traj{number}"
    (place / f"images{camera}").mkdir(parents=True)
    for frame, picture in enumerate(moving.images["main"]):
        cv2.imwrite(str(place / f"images{camera}" / f"im_{frame}.jpg"), picture)
    for name, value in (("obs_dict", {"full_state": moving.proprio_TP}),
                        ("policy_out", [{"actions": action} for action in moving.actions_TA])):  # fmt: skip
        (place / f"{name}.pkl").write_bytes(pickle.dumps(value, protocol=4))
    return place


@pytest.fixture(scope="module")
def mixed_dates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two collections: one before the day from which observations are in step, one of that day."""
    folder = tmp_path_factory.mktemp("bridge")
    for number in range(3):
        bridge_trajectory(folder, EARLY, number, lag=1)
        bridge_trajectory(folder, LATE, number, lag=0)
    return folder


def test_bridge_data_is_read_by_its_date(mixed_dates: Path) -> None:
    found = check(BridgeRawSource(mixed_dates))
    assert {batch: report.best for batch, report in found.lags.items()} == {EARLY: 0, LATE: 0}
    found.require_in_step()
    early = next(e for e in iterate(BridgeRawSource(mixed_dates)) if e.metadata["batch"] == EARLY)
    assert (early.steps, early.metadata["lag"]) == (19, 1)
    np.testing.assert_array_equal(early.actions_TA, moving_square(0, steps=20, lag=1).actions_TA[:19])
    inside = BridgeRawSource(mixed_dates / "toykitchen1" / "put_spoon" / EARLY)
    assert inside.episode(0).metadata["lag"] == 1, "the date may lie above the folder that is named"


def test_a_late_batch_in_a_mix_is_refused_by_name(mixed_dates: Path, tmp_path: Path, capsys: Any) -> None:
    all_alike = {"kind": "bridge_raw", "folder": str(mixed_dates), "lag": 0}
    with pytest.raises(ConventionError, match=rf"\n  {EARLY}: \+1 \(3 episodes\)\n.*lag_tolerance"):
        check(build_source(DatasetConfig(**all_alike))).require_in_step()
    assert main(["--json", "wm", "lag", str(mixed_dates), "--kind", "bridge_raw", "--lag", "0"]) == 3
    measured = json.loads(capsys.readouterr().out)
    assert {batch: one["systematic"] for batch, one in measured["batches"].items()} == {EARLY: True, LATE: False}
    assert main(["--json", "wm", "lag", str(mixed_dates), "--kind", "bridge_raw"]) == 0
    run = {"folder": str(tmp_path / "run"), "steps": 1, "codec": {"kind": "identity"}, "network": NETWORK,
           "data": [{**all_alike, "size": 16}], "mixture": {"frames": 4}}  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert main(["wm", "train", str(tmp_path / "run.json")]) != 0
    assert EARLY in capsys.readouterr().out
    assert not (tmp_path / "run" / "progress.jsonl").exists()


def test_smear_and_chance_are_not_called_a_lag() -> None:
    rng = np.random.default_rng(0)

    def noise(seed: int) -> Episode:
        frames = rng.integers(0, 255, (25, 32, 32, 3), dtype=np.uint8)
        return replace(moving_square(seed, steps=24), images={"main": frames})

    assert not any(measure_lag([noise(seed)]).systematic for seed in range(12))
    assert not measure_lag([noise(seed) for seed in range(6)]).systematic


@pytest.fixture
def two_broken(tmp_path: Path) -> Path:
    """Four trajectories; a picture of one is empty, another one has no policy_out.pkl."""
    for number in range(4):
        bridge_trajectory(tmp_path / "data", LATE, number, lag=0)
    group = tmp_path / "data" / "toykitchen1" / "put_spoon" / LATE / "raw" / "traj_group0"
    (group / "traj1" / "images0" / "im_3.jpg").write_bytes(b"")
    (group / "traj2" / "policy_out.pkl").unlink()
    return tmp_path


def test_all_that_is_broken_is_named_before_training_and_left_out_on_demand(two_broken: Path, capsys: Any) -> None:
    run = {"folder": str(two_broken / "run"), "steps": 1, "codec": {"kind": "identity"}, "network": NETWORK,
           "data": [{"kind": "bridge_raw", "folder": str(two_broken / "data"), "size": 16}],
           "mixture": {"frames": 4}, "train": {"batch_size": 1, "sampler": {"steps": 1}}}  # fmt: skip
    (two_broken / "run.json").write_text(json.dumps(run))
    assert main(["wm", "train", str(two_broken / "run.json")]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "2 of 4 episodes cannot be read" in said
    assert "im_3.jpg" in said
    assert "no policy_out.pkl" in said
    assert "--skip-broken" in said
    assert not (two_broken / "run" / "progress.jsonl").exists()
    assert main(["--json", "wm", "train", "--skip-broken", str(two_broken / "run.json")]) == 0
    assert json.loads((two_broken / "run" / "data_check.json").read_text())["readable"] == [[0, 3]]
    assert main(["--json", "wm", "lag", str(two_broken / "data"), "--kind", "bridge_raw", "--skip-broken"]) == 0
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])["broken"]) == {"1", "2"}


def test_a_check_is_not_repeated_when_a_run_goes_on(two_broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloud_trainer.world_model.data import admission

    described = [DatasetConfig(kind="bridge_raw", folder=str(two_broken / "data"), skip_broken=True)]
    (first,) = admission.admit(described, two_broken / "run")
    assert len(first) == 2
    monkeypatch.setattr(admission, "check", lambda *_args, **_kw: pytest.fail("checked again"))
    (again,) = admission.admit(described, two_broken / "run")
    assert again.episode(1).episode_id == first.episode(1).episode_id


def test_bridge_folders_through_links_and_with_other_cameras(tmp_path: Path) -> None:
    bridge_trajectory(tmp_path / "disk", LATE, 0, lag=0, camera=1)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "round").symlink_to(tmp_path / "disk")
    source = BridgeRawSource(tmp_path / "data")
    assert len(source) == 1, "followed once"
    with pytest.raises(CorruptError, match=r"has no images0, only images1; .*--camera N"):
        source.episode(0)
    described = {"kind": "bridge_raw", "folder": str(tmp_path / "data"), "camera": "1"}
    assert build_source(DatasetConfig(**described)).episode(0).steps == 20


def test_scripted_actions_of_other_widths_are_named(tmp_path: Path) -> None:
    place = bridge_trajectory(tmp_path, LATE, 0, lag=0)
    rows = [{"actions": np.zeros(5)} for _ in range(20)]
    (place / "policy_out.pkl").write_bytes(pickle.dumps(rows, protocol=4))
    with pytest.raises(SchemaError, match=r"7 numbers but stores 5.*--actions none"):
        BridgeRawSource(tmp_path).episode(0)
    (place / "policy_out.pkl").write_bytes(pickle.dumps([{"delta_robot_transform": 1}] * 20, protocol=4))
    with pytest.raises(CorruptError, match=r"20 of 20 entries .*they have \['delta_robot_transform'\].*--actions none"):
        BridgeRawSource(tmp_path).episode(0)
    blind = BridgeRawSource(tmp_path, SourceInfo("b", actions=ActionKind.NONE)).episode(0)
    assert not blind.actions_TA.any()


def reshaped(folder: Path, change: Any) -> Path:
    """Change meta/info.json of a dataset."""
    path = folder / "meta" / "info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))
    return folder


def named(feature: str, names: list[str], width: int) -> Any:
    def change(info: dict[str, Any]) -> None:
        info["features"][feature] = {"dtype": "float32", "shape": [width], "names": names}

    return change


def lerobot_state(folder: Path, state: list[float], names: list[str] | None, action: list[float] | None = None) -> Path:
    """A LeRobot dataset whose every frame has this state."""
    lerobot_folder(folder, lengths=(5,), state=state, action=action)
    return reshaped(folder, named("observation.state", names or [], len(state)))


POSE8 = ["x", "y", "z", "roll", "pitch", "yaw", "pad", "gripper"]


def test_eight_numbers_are_read_by_their_names_or_refused(tmp_path: Path) -> None:
    state = [0.3, 0.1, 0.2, 0.4, 0.5, 0.6, 9.0, 1.0]
    right = np.float32([0.3, 0.1, 0.2, 0.4, 0.5, 0.6, 1.0])
    by_name = LeRobotSource(lerobot_state(tmp_path / "named", state, POSE8), SourceInfo("lr")).episode(0)
    np.testing.assert_array_equal(by_name.proprio_TP[0], right)
    nameless = lerobot_state(tmp_path / "nameless", state, None)
    with pytest.raises(SchemaError, match=r"state has 8 columns; 7 are read .*--state 0-5,7, or --state none"):
        LeRobotSource(nameless, SourceInfo("lr")).episode(0)
    for declared in ("0-5,7", "observation.state:0-5,7"):
        declared_so = LeRobotSource(nameless, SourceInfo("lr"), state=declared).episode(0)
        np.testing.assert_array_equal(declared_so.proprio_TP[0], right)
    without = LeRobotSource(nameless, SourceInfo("lr"), state="none").episode(0)
    assert without.metadata["proprioception"] is False
    with pytest.raises(SchemaError, match="--state 'hand' is none of the columns"):
        LeRobotSource(nameless, SourceInfo("lr"), state="0-5,hand").episode(0)
    with pytest.raises(SchemaError, match=r"no feature 'observation.pose' for --state; it has \['"):
        LeRobotSource(nameless, SourceInfo("lr"), state="observation.pose").episode(0)


@pytest.mark.parametrize(
    ("names", "action", "kind", "said"),
    [
        (["x", "y", "z", "roll_deg", "pitch_deg", "yaw_deg", "gripper"], None, "ee_delta7", "roll_deg.*metres"),
        (["shoulder_pan.pos", "b", "c", "d", "e", "f", "g"], None, "ee_delta7", "shoulder_pan.*--actions joint"),
        (["x", "y", "z", "roll", "pitch", "yaw", "gripper"], None, "joint", "declare --actions ee_delta"),
        (None, [0.0, 0.0, 0.0, 3.0, -2.5, 4.0, 1.0], "ee_delta7", r"a rotation of 4 rad a step .*at most 0\.25 rad"),
        (None, [0.3, 0.0, 0.2, 0.0, 0.0, 0.0, 1.0], "ee_delta7", r"a translation of 0\.3 m a step"),
        (None, [0.01, 0.0, 0.0, 0.0, 0.0, 0.0, 87.0], "ee_delta7", r"a gripper from 0 to 87; 0 \(closed\) to 1"),
        (None, [0.01, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0], "ee_delta7", r"a gripper from -1 to 0"),
        (None, [0.0, -95.0, 80.0, 20.0, 0.0, 0.0, 1.0], "joint", r"joints up to 95\.0; .*degrees or ticks"),
    ],
)  # fmt: skip
def test_units_that_are_not_ours_are_refused(tmp_path: Path, names: Any, action: Any, kind: str, said: str) -> None:
    folder = lerobot_folder(tmp_path, lengths=(5,), action=action)
    reshaped(folder, named("action", names or [], 7))
    with pytest.raises(UnitsError, match=f"dataset lr.*{said}"):
        LeRobotSource(folder, SourceInfo("lr", actions=ActionKind(kind))).episode(0)
    assert not LeRobotSource(folder, SourceInfo("lr", actions=ActionKind.NONE)).episode(0).actions_TA.any()


def test_states_in_degrees_and_grippers_in_metres_are_refused(tmp_path: Path) -> None:
    turned = lerobot_state(tmp_path / "deg", [0.3, 0.0, 0.2, 90.0, 0.0, 0.0, 1.0], None)
    with pytest.raises(UnitsError, match=r"angles up to 90\.0, at most 6\.28 rad.*--state none"):
        LeRobotSource(turned, SourceInfo("lr")).episode(0)
    folder = lerobot_folder(tmp_path / "metres", lengths=(5,))
    statistics = {"action": {"min": [0.0] * 7, "max": [0.01] * 6 + [0.037]}}
    (folder / "meta" / "stats.json").write_text(json.dumps(statistics))
    with pytest.raises(UnitsError, match=r"never leaves 0\.\.0\.037 in meta/stats.json; metres\?"):
        LeRobotSource(folder, SourceInfo("lr")).episode(0)
    statistics["action"]["max"][6] = float("nan")
    (folder / "meta" / "stats.json").write_text(json.dumps(statistics))
    assert LeRobotSource(folder, SourceInfo("lr")).episode(0).steps == 4, "statistics that are no numbers say nothing"


def test_image_columns_are_read(tmp_path: Path) -> None:
    folder = lerobot_folder(tmp_path, lengths=(5, 4), pictures=True)
    second = LeRobotSource(folder, SourceInfo("lr")).episode(1)
    np.testing.assert_allclose([f.mean() for f in second.images["observation.images.top"]], [50, 60, 70, 80], atol=1)


def test_a_camera_is_chosen_by_name_and_the_others_are_told(tmp_path: Path, capsys: Any) -> None:
    key, wrist = "observation.images.top", "observation.images.wrist"
    folder = lerobot_folder(tmp_path, lengths=(16, 16))

    def second_camera(info: dict[str, Any]) -> None:
        info["features"] = {wrist: info["features"][key], **info["features"]}

    reshaped(folder, second_camera)
    assert LeRobotSource(folder, SourceInfo("lr")).camera_key == wrist
    chosen = LeRobotSource(folder, SourceInfo("lr"), camera=key)
    assert chosen.episode(0).metadata["cameras"] == [wrist, key]
    with pytest.raises(CorruptError, match=r"cameras \['observation.images.wrist', .*not 'front'; .*--camera"):
        LeRobotSource(folder, SourceInfo("lr"), camera="front").episode(0)
    found = check(chosen)
    assert (found.camera, found.cameras) == (key, (wrist, key))
    assert main(["wm", "lag", str(folder), "--kind", "lerobot", "--camera", "front"]) == 1
    assert "choose one with --camera" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(ConfigError, match=r"\['state'\] mean nothing for data of kind mcap"):
        build_source(DatasetConfig(**{"kind": "mcap", "folder": str(folder), "state": "none"}))
    with pytest.raises(ConfigError, match=r"unknown settings \['cameras'\]"):
        build_source(DatasetConfig(**{"kind": "lerobot", "folder": str(folder), "cameras": "x"}))


def test_reading_a_dataset_costs_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import av
    import pyarrow.parquet

    folder = lerobot_folder(tmp_path, lengths=(12,) * 20, action=[0.01] * 7)
    decoded, groups = [0], [0]
    whole_group = pyarrow.parquet.ParquetFile.read_row_group
    numbered = av.open

    class Counting:
        def __init__(self, container: Any) -> None:
            self._container = container

        def __getattr__(self, name: str) -> Any:
            return getattr(self._container, name)

        def __enter__(self) -> Counting:
            return self

        def __exit__(self, *_: object) -> None:
            self._container.close()

        def decode(self, *args: Any, **kwargs: Any) -> Any:
            for frame in self._container.decode(*args, **kwargs):
                decoded[0] += 1
                yield frame

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        groups[0] += 1
        return whole_group(self, *args, **kwargs)

    monkeypatch.setattr(av, "open", lambda *args, **kwargs: Counting(numbered(*args, **kwargs)))
    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "read_row_group", counted)
    source = LeRobotSource(folder, SourceInfo("lr"))
    assert sum(episode.steps + 1 for episode in iterate(source)) == 240
    assert groups[0] == 1
    assert decoded[0] == 240


def test_whole_datasets_of_strange_episodes_are_given_up_early() -> None:
    class Endless(MemorySource):
        def __len__(self) -> int:
            return 10**9

        def episode(self, index: int) -> Episode:
            raise CorruptError(f"episode {index} is broken")

    with pytest.raises(CorruptError, match="episode 0 is broken"):
        check(Endless(SourceInfo("all"), []))


def edited(folder: Path, table: str, change: Any) -> Path:
    """Change the rows of a parquet file in place."""
    import pyarrow
    import pyarrow.parquet as parquet

    path = folder / table / "chunk-000" / "file-000.parquet"
    rows = parquet.read_table(path).to_pylist()
    parquet.write_table(pyarrow.Table.from_pylist(change(rows) or rows), path)
    return folder


FROM = "videos/observation.images.top/from_timestamp"


@pytest.mark.parametrize(
    ("shift_s", "kept"),
    [(0.0, [0, 1]), (0.24, [0, 1]), (0.0, [1])],
    ids=["as written", "drifted by a frame", "the first episode was deleted, its frames were not"],
)
def test_an_episode_begins_where_its_frames_do(tmp_path: Path, shift_s: float, kept: list[int]) -> None:
    def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows[1][FROM] += shift_s
        return [rows[number] for number in kept]

    folder = edited(lerobot_folder(tmp_path, lengths=(5, 4)), "meta/episodes", change)
    frames = LeRobotSource(folder, SourceInfo("lr")).episode(len(kept) - 1).images["observation.images.top"]
    np.testing.assert_allclose([frame.mean() for frame in frames], [50, 60, 70, 80], atol=3)


def backwards(rows: list[dict[str, Any]]) -> None:
    for row in rows[:5]:
        row["timestamp"] = -row["timestamp"]


def not_a_number(rows: list[dict[str, Any]]) -> None:
    rows[2]["observation.state"] = [float("nan")] * 7


def no_action(rows: list[dict[str, Any]]) -> None:
    rows[2]["action"] = [float("inf")] * 7


def beyond(rows: list[dict[str, Any]]) -> None:
    rows[0][FROM] += 460.0


@pytest.mark.parametrize(
    ("table", "change", "said"),
    [
        ("data", no_action, "actions that are not finite"),
        ("data", backwards, "timestamps of episode 0 do not increase"),
        ("data", not_a_number, "state has values that are not finite"),
        ("data", lambda rows: rows[1:], "has 4 rows, not 5"),
        ("meta/episodes", beyond, "gives 0 frames from frame 2300 on"),
    ],
)
def test_rows_that_make_no_sense_are_refused_by_name(tmp_path: Path, table: str, change: Any, said: str) -> None:
    folder = edited(lerobot_folder(tmp_path), table, change)
    source = LeRobotSource(folder, SourceInfo("lr"))
    with pytest.raises((CorruptError, UnitsError), match=said):
        source.episode(0)
    assert check(source).readable == (1,), "the other episode is fine, though the first one is not"


def test_pointers_and_byte_order_marks_that_other_tools_leave(tmp_path: Path) -> None:
    folder = lerobot_folder(tmp_path)
    info = folder / "meta" / "info.json"
    info.write_bytes(b"\xef\xbb\xbf" + info.read_bytes())
    assert LeRobotSource(folder, SourceInfo("lr")).episode(0).steps == 4
    for pattern in ("videos/**/*.mp4", "data/**/*.parquet"):
        (path,) = folder.glob(pattern)
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:2f\nsize 1\n")
        with pytest.raises(CorruptError, match=r"is a Git LFS pointer.*git lfs pull"):
            LeRobotSource(folder, SourceInfo("lr")).episode(0)
