"""Datasets that others read, written from recordings and read back: nothing is lost, whatever happens on the way."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cloud_trainer.jobs.desk.transfer import (
    EpisodeFolder,
    Exported,
    Imported,
    Said,
    bring_in,
    export,
    incoming,
    local_episodes,
)
from cloud_trainer.world_model.data.export import lerobot_statistics, staging
from cloud_trainer.world_model.data.lerobot import LeRobotSource
from cloud_trainer.world_model.data.rlds import RldsSource
from cloud_trainer.world_model.data.source import SourceInfo
from gymnast_core.episodes import read_episode, read_recording, write_recording
from gymnast_core.errors import ConfigError, CorruptError, OccupiedError
from gymnast_core.types import Outcome
from tests.world_model.recordings import CAMERAS, differences, made, psnr
from tests.world_model.test_sources import bridge_folder, lerobot_folder


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A folder with three episodes."""
    for seed in range(3):
        write_recording(tmp_path / "recorded", made(seed))
    return tmp_path / "recorded"


def exported(folder: Path, out: Path, form: str = "lerobot", **options: bool) -> Exported:
    return export(local_episodes([folder]), out, form=form, **options)


def imported(kind: str, folder: Path, into: Path, said: Said | None = None, **settings: object) -> Imported:
    return bring_in(
        incoming(folder, said or Said(), {"kind": kind, **settings}), EpisodeFolder(into), skip_broken=False
    )


@pytest.mark.parametrize("form", ["lerobot", "rlds"])
def test_what_goes_out_byte_for_byte_comes_back_to_the_bit(recorded: Path, tmp_path: Path, form: str) -> None:
    exported(recorded, tmp_path / "out", form, video=False)
    done = imported(form, tmp_path / "out", tmp_path / "back")
    assert sorted(done.added) == ["ep-made-0", "ep-made-1", "ep-made-2"]
    for path in recorded.iterdir():
        assert differences(read_recording(path), read_recording(tmp_path / "back" / path.name)) == []
        assert path.read_bytes() == (tmp_path / "back" / path.name).read_bytes()
    again = imported(form, tmp_path / "out", tmp_path / "back")
    assert (again.added, len(again.known)) == ((), 3)


def test_a_video_loses_pixels_and_nothing_else(recorded: Path, tmp_path: Path) -> None:
    exported(recorded, tmp_path / "out")
    imported("lerobot", tmp_path / "out", tmp_path / "back")
    for path in recorded.iterdir():
        before, after = read_recording(path), read_recording(tmp_path / "back" / path.name)
        assert differences(before, after) == ["jpegs"]
        assert min(psnr(before, after, camera) for camera in CAMERAS) > 34


def test_a_trainer_reads_the_export_as_the_same_steps(recorded: Path, tmp_path: Path) -> None:
    exported(recorded, tmp_path / "out")
    source = LeRobotSource(tmp_path / "out", SourceInfo("out"), state="observation.state")
    for index, path in enumerate(sorted(recorded.iterdir())):
        before, after = read_episode(path), source.episode(index)
        np.testing.assert_array_equal(after.actions_TA, before.actions_TA)
        np.testing.assert_array_equal(after.proprio_TP, before.proprio_TP)
        assert after.instruction == before.instruction


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class Cut(BaseException):
    """The power went."""


def cut_after(files: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flush so many files; of the next one, if it is new, half reaches the disk, and that was it."""
    flushed, done, began_ns = staging.sync_file, list[Path](), time.time_ns()

    def flush(path: Path) -> None:
        if len(done) == files:
            if path.stat().st_mtime_ns > began_ns and path not in done:
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            raise Cut
        flushed(path)
        done.append(path)

    monkeypatch.setattr(staging, "sync_file", flush)


@pytest.mark.parametrize("form", ["lerobot", "rlds"])
def test_an_export_killed_anywhere_goes_on_and_is_never_seen_unfinished(
    recorded: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(recorded, tmp_path / "whole", form, video=False)
    out, alive = tmp_path / "out" / "whole", 0
    out.parent.mkdir()
    while not out.exists():
        alive += 2
        with monkeypatch.context() as patched, contextlib.suppress(Cut):
            cut_after(alive, patched)
            exported(recorded, out, form, video=False)
            break
        assert not out.exists()
    assert alive > 4, "it was cut at least twice"
    assert digests(out) == digests(tmp_path / "whole")
    assert [path.name for path in out.parent.iterdir()] == ["whole"]


def test_an_unfinished_export_of_something_else_is_not_mixed_in(recorded: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wanted = local_episodes([recorded])
    (recorded / "ep-made-2.mcap").write_bytes(b"cut")
    with pytest.raises(CorruptError, match="ep-made-2"):
        export(wanted, out, form="lerobot")
    with pytest.raises(ConfigError, match="unfinished export made with"):
        export(wanted, out, form="lerobot", video=False)
    with pytest.raises(ConfigError, match="ep-made-0 in it, which was not asked for now"):
        export(wanted[1:], out, form="lerobot")
    with (
        staging.Staging(out, {"format": "lerobot", "video": True}).held(),
        pytest.raises(OccupiedError, match="another"),
    ):
        export(wanted, out, form="lerobot")
    done = export(wanted, out, form="lerobot", skip_broken=True)
    assert (len(done.episodes), done.before, done.broken[0][0]) == (2, 2, "ep-made-2")
    with pytest.raises(ConfigError, match="exists; a dataset is written whole"):
        export(wanted, out, form="lerobot")
    with pytest.raises(ConfigError, match="no episode fits"):
        export([], tmp_path / "none", form="lerobot")


def test_an_episode_of_another_layout_is_named_and_may_be_left_out(recorded: Path, tmp_path: Path) -> None:
    bare = made(7)
    write_recording(recorded, replace(bare, joints_TJ=None, rates_TJ=None))
    with pytest.raises(ConfigError, match=r"episode ep-made-7 has joints None, those before it .*waist"):
        exported(recorded, tmp_path / "out")
    done = exported(recorded, tmp_path / "out", skip_broken=True)
    assert (len(done.episodes), [name for name, _ in done.broken]) == (3, ["ep-made-7"])


def test_the_card_names_what_is_in_it_and_its_front_matter_is_yaml(recorded: Path, tmp_path: Path) -> None:
    import yaml

    exported(recorded, tmp_path / "lift-set")
    _, front, text = (tmp_path / "lift-set" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["tags"] == ["LeRobot", "gymnast"]
    for words in (
        "| Outcomes | success 2, unlabelled 1 |",
        "operator:ana 2",
        "policy-b (3)",
        "立方体 0 \\| \U0001f916",
    ):
        assert words in text


def test_statistics_are_those_worked_by_hand() -> None:
    found = lerobot_statistics.of_numbers(np.array([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0], [10.0, 5.0]], np.float32))
    assert (found["mean"], found["std"], found["count"]) == ([4.0, 5.0], [pytest.approx(14**0.5), 0.0], [4])
    assert (found["q01"], found["q50"], found["q99"]) == ([0.0, 5.0], [2.0, 5.0], [10.0, 5.0])
    frame = np.zeros((2, 2, 3), np.uint8)
    frame[0, :, 0], frame[:, 0, 1] = 255, (51, 102)
    pictures = lerobot_statistics.of_pictures([frame, frame])
    assert (pictures["mean"], pictures["count"]) == ([[[0.5]], [[pytest.approx(0.15)]], [[0.0]]], [2])
    assert (pictures["min"], pictures["max"]) == ([[[0.0]]] * 3, [[[1.0]], [[0.4]], [[0.0]]])
    both = lerobot_statistics.merged([found, {**found, "mean": [8.0, 5.0], "count": [12]}])
    assert (both["mean"][0], both["count"]) == (7.0, [16])
    assert both["std"][0] == pytest.approx((14 + 3) ** 0.5), "variance within 14, between (9 + 3 * 1) / 4"
    assert lerobot_statistics.sampled(30) == list(range(30))
    assert len(lerobot_statistics.sampled(1000)) == 177


def test_an_episode_keeps_its_id_when_its_dataset_is_moved_and_gets_another_when_it_is_read_otherwise(
    tmp_path: Path,
) -> None:
    first, moved, into = lerobot_folder(tmp_path / "one"), tmp_path / "two", tmp_path / "in"
    said = Said("lab-arm", Outcome.FAILURE, "push")
    ids = imported("lerobot", first, into, said).added
    assert len(set(ids)) == 2
    first.rename(moved)
    assert imported("lerobot", moved, into, said).known == ids
    assert set(imported("lerobot", moved, into, said, lag=1).added).isdisjoint(ids)
    episode = read_episode(into / f"{ids[1]}.mcap")
    assert (episode.instruction, episode.outcome, episode.labelled_by) == ("push", Outcome.FAILURE, "dataset:one")
    assert (list(episode.images), episode.metadata["robot"]) == (["top"], "lab-arm")
    assert episode.metadata["imported_as"] == "one-000001"
    place = bridge_folder(tmp_path / "bridge")
    assert imported("bridge_raw", tmp_path / "bridge", into).added == imported("bridge_raw", place, into).known


def test_what_an_import_cannot_convert_is_named(recorded: Path, tmp_path: Path) -> None:
    folder = lerobot_folder(tmp_path / "v2", version="v2.1")
    with pytest.raises(CorruptError, match=r"dataset v2 is LeRobot 'v2.1'; v3 is read"):
        imported("lerobot", folder, tmp_path / "in")
    with pytest.raises(ConfigError, match="mean nothing"):
        imported("mcap", recorded, tmp_path / "in", Said("other"))
    with pytest.raises(ConfigError, match=r"no mcap episodes in .*v2"):
        imported("mcap", folder, tmp_path / "in")
    exported(recorded, tmp_path / "out")
    table = next((tmp_path / "out" / "meta" / "episodes").rglob("*.parquet"))
    damage(table)
    with pytest.raises(CorruptError, match="what an export kept of an episode is damaged"):
        imported("lerobot", tmp_path / "out", tmp_path / "in")


def damage(table: Path) -> None:
    """Someone edits what we kept of the first episode."""
    import pyarrow
    from pyarrow import parquet

    rows = parquet.read_table(table).to_pylist()
    own = json.loads(rows[0]["gymnast/episode"])
    del own["end"]["outcome"]
    rows[0]["gymnast/episode"] = json.dumps(own)
    parquet.write_table(pyarrow.Table.from_pylist(rows), table)


BRIDGE = Path(__file__).parents[1] / "data" / "rlds_bridge_orig"
"""Written by tensorflow-datasets 4.9.10 (tests/integrations/tfds_reader.py): float64 actions, a bfloat16 state."""


def test_what_tensorflow_datasets_wrote_becomes_episodes(tmp_path: Path) -> None:
    source = RldsSource(BRIDGE, SourceInfo("bridge_orig"), every_camera=True)
    first, second = (source.episode(index) for index in range(len(source)))
    assert {first.steps, second.steps} == {4, 5}, "the last step's action has no observation after it"
    rows = np.linspace(0.0, 0.03, 7 * (first.steps + 1), dtype=np.float32).reshape(-1, 7)
    np.testing.assert_array_equal(first.actions_TA, rows[:-1])
    np.testing.assert_allclose(first.proprio_TP, rows, rtol=2**-8)
    assert first.instruction == "ставь горшок"
    assert [frame.mean() for frame in first.images["image_0"]] == [0, 40, 80, 120, 160, 200][: first.steps + 1]
    exact = replace(source, state="observation.exact").episode(0)
    np.testing.assert_array_equal(exact.proprio_TP, (np.linspace(0, 0.03, rows.size).reshape(-1, 7) / 3).astype("f4"))
    done = imported("rlds", BRIDGE, tmp_path / "in", Said(outcome=Outcome.SUCCESS))
    assert (len(done.added), imported("rlds", BRIDGE / "1.0.0", tmp_path / "in").known) == (2, done.added)
    assert list(read_episode(tmp_path / "in" / f"{done.added[0]}.mcap").images) == ["image_0", "image_1"]


def test_rlds_that_is_damaged_or_not_understood_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"12 frames/s; .* 5 Hz"):
        RldsSource(BRIDGE, SourceInfo("fast"), fps=12).episode(0)
    with pytest.raises(CorruptError, match="cameras \\['image_0', 'image_1'\\], not 'wrist'"):
        RldsSource(BRIDGE, SourceInfo("blind"), camera="wrist").episode(0)
    shutil.copytree(BRIDGE, tmp_path / "set")
    (shard,) = (tmp_path / "set" / "1.0.0").glob("*.tfrecord-*")
    whole = shard.read_bytes()
    for number, bad in enumerate((whole[:-9], whole[:700] + b"\0" + whole[701:], b"", whole[:5], b"\x1f\x8b" + whole)):
        shard.write_bytes(bad)
        with pytest.raises(CorruptError, match=r"fetch it again|no TFRecord|damaged"):
            RldsSource(tmp_path / "set", SourceInfo(f"bad-{number}")).episode(0)
    shard.unlink()
    with pytest.raises(CorruptError, match=r"train\.tfrecord"):
        RldsSource(tmp_path / "set", SourceInfo("gone")).episode(0)
    (tmp_path / "set" / "1.0.0" / "features.json").unlink()
    with pytest.raises(CorruptError, match=r"0 features\.json below"):
        RldsSource(tmp_path / "set", SourceInfo("bare")).episode(0)
