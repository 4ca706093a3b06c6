"""Adapters beside a robot's base: one a scene, signed like any release, back with their scene and their base."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from gymnast_core.errors import CheckpointError
from gymnast_core.evaluation.recognition import SceneRecogniser
from gymnast_core.evaluation.scene import Fingerprint
from gymnast_core.records.manifest import write_checkpoint
from gymnast_core.records.signing import TrustedKeys
from gymnast_ros.run.probation import ProbationWatch
from gymnast_ros.uplink import RobotStore
from gymnast_ros.uplink.scene_adapters import MOST
from gymnast_ros.uplink.store_folder import ADAPTER_OF
from tests.bridge.conftest import UNGATED
from tests.bridge.test_weights import KEY, checkpoints, stage
from tests.core.test_scene import scene


def opened(folder: Path) -> RobotStore:
    return RobotStore(folder, robot="wx-1", trusted=TrustedKeys([KEY.public_bytes()]), gate=UNGATED)


@pytest.fixture
def store(tmp_path):
    return opened(tmp_path / "robot")


def looks(table=(100, 95, 85)) -> SceneRecogniser:
    return SceneRecogniser.fitted([Fingerprint.of(scene(table=table))], [])


def adapter(folder: Path, base: str, number: int) -> Path:
    weights = save({"lora_A": np.full((2, 2), number, np.float32)})
    write_checkpoint(
        folder, weights, kind="policy", architecture="lora", config={ADAPTER_OF: base, "rank": 2}, parents=(base,)
    )
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def kept(store: RobotStore, tmp_path: Path, count: int, **more) -> tuple[str, list[str]]:
    """A base in force and adapters of scenes beside it."""
    base = store.install(checkpoints(tmp_path, 1)[0]).name
    ids = []
    for number in range(count):
        ids.append(stage(store, adapter(tmp_path / f"a{number}", base, number), number + 1))
        shade = 20 + 60 * number
        assert store.scenes.attach(ids[-1], f"scene {number}", looks((shade, shade, shade)), **more) == base
    return base, ids


def test_adapters_stand_beside_a_base_that_is_untouched_to_the_bit_and_survive_an_offline_start(store, tmp_path):
    base, ids = kept(store, tmp_path, 3)
    before = digests(tmp_path / "c0")
    again = opened(store.folder)  # nobody reaches a trainer here
    assert again.current_id() == base
    assert digests(again.path(base)) == before
    assert [one.checkpoint_id for one in again.adapters.of(base)] == ids
    assert set(again.held()) == {base, *ids}, "signed releases like any other, verified when they came"
    assert all((again.path(name) / "release.json").is_file() for name in ids)


def test_only_what_was_staged_and_stands_on_the_base_in_force_is_attached(store, tmp_path):
    base, _ = kept(store, tmp_path, 0)
    with pytest.raises(CheckpointError, match="not staged"):
        store.scenes.attach("policy-nowhere", "x", looks())
    other = adapter(tmp_path / "other", stage(store, checkpoints(tmp_path / "n", 2)[1], 1), 7)
    name = stage(store, other, 2)
    with pytest.raises(CheckpointError, match=f"but {base} is in force; adapt that one anew"):
        store.scenes.attach(name, "x", looks())
    assert store.adapters.all() == []


def test_another_base_lets_them_rest_and_a_rollback_brings_them_back(store, tmp_path):
    base, ids = kept(store, tmp_path, 2)
    better = stage(store, checkpoints(tmp_path / "n", 2)[1], 9)
    store.swap(better)
    assert store.adapters.of(better) == []
    for number in range(2, 6):  # many later: what rests is kept with its base
        store.swap(stage(store, checkpoints(tmp_path / f"n{number}", number + 1)[number], 10 + number))
    assert {base, *ids} <= set(store.held())
    while store.current_id() != base:
        store.rollback("worse")
    assert [one.checkpoint_id for one in store.adapters.of(base)] == ids


def test_a_new_adapter_of_a_scene_takes_the_place_of_the_old_one_and_the_same_name_elsewhere_does_not(store, tmp_path):
    base, (old,) = kept(store, tmp_path, 1)
    new = stage(store, adapter(tmp_path / "new", base, 5), 5)
    store.scenes.attach(new, "scene 0", looks((20, 20, 20)))
    assert [one.checkpoint_id for one in store.adapters.all()] == [new]
    assert old not in store.held()
    third = stage(store, adapter(tmp_path / "third", base, 6), 6)
    store.scenes.attach(third, "scene 0", looks((200, 200, 200)))
    assert [one.checkpoint_id for one in store.adapters.all()] == [new, third]


def test_a_dropped_one_is_gone_and_may_be_offered_again(store, tmp_path):
    base, (first, second) = kept(store, tmp_path, 2)
    store.scenes.detach(first)
    assert [one.checkpoint_id for one in opened(store.folder).adapters.of(base)] == [second]
    assert first not in store.state.failed
    with pytest.raises(CheckpointError, match="is not attached; attached are"):
        store.scenes.detach(first)
    assert stage(store, tmp_path / "a0", 8) == first


class Quiet:
    def warning(self, text: str) -> None:
        pass

    error = info = warning


def event(policy: str, run: str, *, bad: bool = False) -> dict:
    return {"policy": policy, "reason": "it raised" * bad, "steps": 3, "good": not bad, "bad": bad, "run": run}


def test_one_that_misbehaves_on_probation_is_detached_and_the_base_is_not_blamed(store, tmp_path):
    base, (first, second) = kept(store, tmp_path, 2, probation_episodes=2)
    watch = ProbationWatch(store, Quiet())
    for run in ("1", "1", base):  # the same episode twice counts once; the base's are its own
        watch.on_episode(event(base if run == base else first, run))
    assert [one.left for one in store.adapters.all()] == [1, 2]
    watch.on_episode(event(first, "2"))
    watch.on_episode(event(first, "3", bad=True))  # trusted by now
    watch.on_episode(event(second, "4", bad=True))
    assert [one.checkpoint_id for one in store.adapters.all()] == [first]
    assert store.state.failed == {second: "it raised"}
    assert store.state.proven == [first]
    assert store.current_id() == base


def test_what_a_kill_or_a_disk_left_behind_attaches_nothing(store, tmp_path):
    base, (first, second) = kept(store, tmp_path, 2)
    folder = store.folder / "adapters"
    (folder / ".x.json.partial-1-2").write_text("{")
    (folder / f"{second}.json").write_text('{"checkpoint_id": 3}')
    known = json.loads((folder / f"{first}.json").read_text())
    (folder / "policy-gone.json").write_text(json.dumps({**known, "checkpoint_id": "policy-gone"}))
    again = opened(store.folder)
    assert [one.checkpoint_id for one in again.adapters.of(base)] == [first]
    assert sorted(path.name for path in folder.iterdir()) == sorted((f"{first}.json", f"{second}.json"))


def test_what_an_older_version_put_in_force_for_one_scene_makes_room_for_its_base(store, tmp_path):
    folders = checkpoints(tmp_path, 2)
    base = store.install(folders[0]).name
    for_one_scene = stage(store, folders[1], 1)
    store.swap(for_one_scene)
    (store.folder / "scenes").mkdir()
    (store.folder / "scenes" / f"{for_one_scene}.json").write_text(json.dumps({"fingerprint": {}, "base": base}))
    assert opened(store.folder).current_id() == base
    assert opened(store.folder).current_id() == base


def test_there_is_room_for_so_many_scenes(store, tmp_path):
    base, _ = kept(store, tmp_path, 0)
    first = stage(store, adapter(tmp_path / "a", base, 0), 1)
    store.scenes.attach(first, "scene", looks())
    known = json.loads((store.folder / "adapters" / f"{first}.json").read_text())
    for number in range(MOST - 1):
        text = json.dumps({**known, "checkpoint_id": f"policy-{number}", "scene": f"scene {number}"})
        (store.folder / "adapters" / f"policy-{number}.json").write_text(text)
    with pytest.raises(CheckpointError, match="drop one first"):
        store.scenes.attach(stage(store, adapter(tmp_path / "b", base, 1), 2), "one more", looks((20, 20, 20)))
