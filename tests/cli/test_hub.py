"""Checkpoints as Hub folders: out, back bit for bit, and into a trainer that records them as made elsewhere."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from safetensors.numpy import load, save

from cloud_trainer.app import App, AppConfig
from cloud_trainer.service import ServiceConfig, enroll
from gymnast_cli.main import main
from gymnast_client import Trainer
from gymnast_core.errors import CheckpointError, GymnastError
from gymnast_core.evaluation.statistics import wilson_interval
from gymnast_core.records.gate_record import GateRecord
from gymnast_core.records.hub_folder import HubOrigin, read_hub_folder, write_hub_folder
from gymnast_core.records.manifest import read_checkpoint, read_manifest, write_checkpoint
from gymnast_core.records.model_card import measured_in_gates, measured_on_arms
from gymnast_core.shipped import shipped_checkpoints
from gymnast_core.wire.identity import Identity

SHIPPED = shipped_checkpoints()
TERABYTE = 1 << 40
"""Of a file that takes no room where it lies."""
Gymnast = Callable[..., Any]


@pytest.fixture
def gymnast(capsys: pytest.CaptureFixture[str]) -> Gymnast:
    """gymnast(...) runs `gymnast --json ...` and returns what it printed."""

    def run(*words: object, code: int = 0) -> Any:
        found = main(["--json", *map(str, words)])
        out = capsys.readouterr().out
        assert found == code, out
        return json.loads(out)

    return run


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """The shipped policy as a Hub folder."""
    write_hub_folder(SHIPPED / "policy", tmp_path / "hub")
    return tmp_path / "hub"


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[App]:
    with App(AppConfig(ServiceConfig(folder=tmp_path / "trainer"), console=False)) as app:
        yield app


def flags(app: App, out: Path, role: str = "admin") -> list[str]:
    identity = enroll(app.service.config.folder / "ca", f"an-{role}", role, out=out / f"identity-{role}")
    return ["--trainer", app.service.address, "--identity", str(identity)]


@pytest.mark.parametrize("name", ["policy", "judge", "world_model"])
def test_what_is_exported_comes_back_bit_for_bit_and_its_card_is_a_card(
    name: str, gymnast: Gymnast, tmp_path: Path
) -> None:
    said = gymnast("weights", "export", SHIPPED / name, tmp_path / "hub")
    gymnast("weights", "import", tmp_path / "hub", "--into", tmp_path / "back")
    files = {path.name: path.read_bytes() for path in (SHIPPED / name).iterdir() if path.name != "bounds.json"}
    assert (tmp_path / "hub" / "bounds.json").is_file() is (name == "world_model"), "which a stranger may have written"
    assert {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()} == files
    card = ModelCard.load(tmp_path / "hub" / "README.md")
    assert card.data.library_name == "gymnast"
    assert card.data.to_dict()["gymnast"]["checkpoint_id"] == said["checkpoint_id"] == read_manifest(SHIPPED / name).id
    if name == "judge":
        precision = next(one for one in card.data.eval_results if one.metric_type == "precision")
        assert precision.metric_args == {"episodes": 233, "interval_95": [0.6574, 0.8827]}
        assert precision.metric_value == 0.7917


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:200])


def flip(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def without_a_tensor(folder: Path) -> None:
    """Weights that lack one tensor and have one too many, in a folder that fits together otherwise."""
    manifest, weights = read_checkpoint(SHIPPED / "policy")
    tensors = dict(load(weights))
    tensors["strange.weight"] = tensors.pop(min(tensors))
    checkpoint = folder.parent / "wrong"
    write_checkpoint(checkpoint, save(tensors), kind="policy", architecture=manifest.architecture,
                     config=manifest.config, normalisation=manifest.normalisation)  # fmt: skip
    shutil.rmtree(folder)
    write_hub_folder(checkpoint, folder)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors; it holds README.md, config"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
        (lambda folder: edit(folder, architecture=None, trust_remote_code="x.py"),
         "lacks architecture and has unexpected trust_remote_code"),
        (lambda folder: edit(folder, library_name="transformers"), "names the library 'transformers'"),
        (lambda folder: edit(folder, format_version=2), "format_version '2'"),
        (lambda folder: edit(folder, kind="robot"), "manifest kind 'robot'"),
        (lambda folder: edit(folder, checkpoint_id="../../x"), "names checkpoint_id '../../x', and what it holds is"),
        (lambda folder: edit(folder, weights_bytes=3), "it was edited"),
        (cut, "model.safetensors has 200 bytes"),
        (flip, "model.safetensors is not what config.json says"),
        (lambda folder: os.truncate(folder / "model.safetensors", TERABYTE), "bytes, config.json says"),
        (lambda folder: os.truncate(folder / "config.json", TERABYTE), "config.json has 1099511627776 bytes"),
        (lambda folder: os.truncate(folder / "README.md", TERABYTE), "README.md has 1099511627776 bytes"),
        (without_a_tensor, "strange.weight"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name_and_leaves_nothing(
    spoil: Callable[[Path], None], named: str, exported: Path, gymnast: Gymnast, tmp_path: Path
) -> None:
    spoil(exported)
    before = sorted(tmp_path.iterdir())
    said = gymnast("weights", "import", exported, "--into", tmp_path / "back", code=1)
    assert named in said["message"]
    assert sorted(tmp_path.iterdir()) == before


def test_an_export_that_fails_half_way_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gymnast_core.records.hub_folder.shutil.copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        write_hub_folder(SHIPPED / "judge", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_sent_to_what_reads_it(gymnast: Gymnast, tmp_path: Path) -> None:
    folder = Path(__file__).parents[1] / "data" / "openvla_tiny"
    said = gymnast("weights", "import", folder, "--into", tmp_path / "back", code=1)
    assert "gymnast weights convert" in said["message"]


def test_a_folder_that_is_not_there_is_named_where_no_trainer_is(gymnast: Gymnast, tmp_path: Path) -> None:
    said = gymnast("weights", "export", tmp_path / "none", tmp_path / "out", code=2)
    assert "is no folder; if it is an id" in said["message"]


def test_an_admin_takes_it_into_a_trainer_where_it_counts_as_made_elsewhere(
    exported: Path, trainer: App, gymnast: Gymnast, tmp_path: Path
) -> None:
    admin = flags(trainer, tmp_path)
    refused = gymnast("weights", "import", exported, *flags(trainer, tmp_path, "operator"), code=77)
    assert "may not publish" in refused["message"]
    said = gymnast("weights", "import", exported, *admin)
    policy = read_manifest(SHIPPED / "policy").id
    assert (said["checkpoint_id"], said["known"], said["from"]) == (policy, False, "hub")
    assert not gymnast("weights", "list", *admin)["releases"], "offered to nobody"
    assert trainer.shelves.of("default").holds(policy, "policy"), "jobs find it"
    why = gymnast("why", policy, "--verify", *admin)
    origin = why["made_from"]["imported"]
    assert (origin["name"], origin["by"], origin["card_sha256"]) == ("hub", "an-admin", said["card_sha256"])
    assert why["counts"]["external"] == len(read_manifest(SHIPPED / "policy").lineage["episodes"])
    assert "episode" not in why["counts"], "its episodes are its own word"
    assert not why["damage"]
    assert gymnast("weights", "import", exported, *admin)["known"]


def test_a_strangers_word_of_labels_becomes_no_label(trainer: App, gymnast: Gymnast, tmp_path: Path) -> None:
    manifest, weights = read_checkpoint(SHIPPED / "policy")
    episodes = [{"id": "ep-1", "outcome": "success", "labelled_by": "operator:ana", "digest": "0" * 64}]
    same = {"config": manifest.config, "normalisation": manifest.normalisation}
    write_checkpoint(tmp_path / "claims", weights, kind="policy", architecture=manifest.architecture,
                     lineage={"episodes": episodes}, **same)  # fmt: skip
    write_hub_folder(tmp_path / "claims", tmp_path / "hub")
    admin = flags(trainer, tmp_path)
    policy = gymnast("weights", "import", tmp_path / "hub", *admin)["checkpoint_id"]
    why = gymnast("why", policy, *admin)
    assert (why["labels_by"], why["counts"]["external"]) == ({}, 1)


def test_a_trainer_looks_itself_at_what_a_world_model_declares(trainer: App, tmp_path: Path) -> None:
    manifest, weights = read_checkpoint(SHIPPED / "world_model")
    write_checkpoint(tmp_path / "lies", weights, kind="world_model", architecture=manifest.architecture,
                     config={**manifest.config, "capabilities": {"actions": {}}})  # fmt: skip
    identity = Identity.load(Path(flags(trainer, tmp_path)[-1]))
    with Trainer(trainer.service.address, identity) as there, pytest.raises(GymnastError, match="names none of"):
        there.checkpoints.import_checkpoint(tmp_path / "lies", HubOrigin("lies", ""))
    assert not trainer.shelves.of("default").ids("world_model")


def test_what_was_imported_is_no_jobs_default_before_an_operator_starts_the_trainer_with_it(
    trainer: App, gymnast: Gymnast, tmp_path: Path
) -> None:
    shelf = trainer.shelves.of("default")
    for kind in ("world_model", "judge"):
        write_hub_folder(SHIPPED / kind, tmp_path / kind)
        gymnast("weights", "import", tmp_path / kind, *flags(trainer, tmp_path))
        found = read_manifest(SHIPPED / kind).id
        assert shelf.path(found).is_dir(), "a job may name it"
        with pytest.raises(CheckpointError, match=f"from elsewhere, name one: {found}"):
            shelf.newest(kind)
        shelf.add(SHIPPED / kind)  # as `gymnast serve --import` does
        assert shelf.newest(kind).name == found
        gymnast("weights", "import", tmp_path / kind, *flags(trainer, tmp_path))
        assert shelf.newest(kind).name == found, "known here already, it stays what it was"


@pytest.mark.parametrize(
    "said",
    [{"overall": 5}, {"overall": {"precision": [1], "examples": 2}}, {"tasks": [1]}, {"tasks": {"a": {"recall": "x"}}}],
)
def test_a_judge_that_says_nonsense_of_itself_is_not_exported(
    said: dict[str, object], gymnast: Gymnast, tmp_path: Path
) -> None:
    manifest, weights = read_checkpoint(SHIPPED / "judge")
    write_checkpoint(tmp_path / "judge", weights, kind="judge", architecture=manifest.architecture,
                     config=manifest.config, lineage={"calibration": said})  # fmt: skip
    refused = gymnast("weights", "export", tmp_path / "judge", tmp_path / "hub", code=1)
    assert "its calibration is none" in refused["message"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["judge"]


def test_an_export_by_id_says_what_trials_and_gates_found(
    exported: Path, trainer: App, gymnast: Gymnast, tmp_path: Path
) -> None:
    admin, policy = flags(trainer, tmp_path), read_manifest(SHIPPED / "policy").id
    gymnast("weights", "publish", SHIPPED / "policy", *admin)
    gymnast("weights", "export", policy, tmp_path / "by-id", *admin)
    assert {path.name for path in (tmp_path / "by-id").iterdir()} == {path.name for path in exported.iterdir()}
    record = GateRecord(policy, "", "pybullet 3.2.7", (3, 4), 2, 2, 0, 0, "passed", "no worse", 0.05, 1, "0.2.0")
    pair = {"mean": 0.5, "low": 0.1, "high": 0.9}
    cards: Any = [{"trial_id": "trial-1", "candidate": policy, "incumbent": "policy-x", "instruction": "lift | it",
                   "n": 2, "start_seeds": [7, 8], "candidate_success": pair}]  # fmt: skip
    measured = [*measured_on_arms(policy, cards), *measured_in_gates(policy, [record])]
    write_hub_folder(SHIPPED / "policy", tmp_path / "measured", measured)
    arm, gate = ModelCard.load(tmp_path / "measured" / "README.md").data.eval_results
    assert (arm.task_name, arm.metric_value, arm.metric_args["seeds"]) == ("lift | it", 0.5, [7, 8])
    low = round(wilson_interval(2, 2).low, 4)
    assert gate.metric_args == {"episodes": 2, "interval_95": [low, 1.0], "seeds": [3, 4]}
    assert "lift \\| it" in (tmp_path / "measured" / "README.md").read_text()


def test_a_name_that_would_move_a_cursor_is_written_out(exported: Path, tmp_path: Path) -> None:
    strange = exported.rename(tmp_path / "hub\x1b[2J")
    assert read_hub_folder(strange, tmp_path / "back")[1].name == "hub\\x1b[2J"
