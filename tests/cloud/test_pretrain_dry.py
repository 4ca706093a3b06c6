"""`make pretrain` from an empty folder, tiny: every stage runs, and what is there already is not made again."""

import shutil
from pathlib import Path

from cloud_trainer.jobs.desk.pretrain import DRY, Amounts, pretrain
from gymnast_core.records.manifest import read_manifest
from gymnast_core.shipped import BASE_POLICIES, shipped_checkpoints
from gymnast_ros.sim.drivers import collect_shares


def test_every_stage_runs_and_a_second_call_makes_nothing_again(tmp_path: Path) -> None:
    out = pretrain(tmp_path / "checkpoints", tmp_path / "work", collect_shares, seed=3, workers=1, amounts=DRY)
    kinds = {path.name: read_manifest(path) for path in sorted(out.iterdir())}
    assert set(kinds) == {"policy", "world_model", "judge"}
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    pretrain(out, tmp_path / "work", collect_shares, seed=3, workers=1, amounts=DRY)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert {path.name: read_manifest(path) for path in sorted(out.iterdir())} == kinds


def test_a_flow_base_is_made_beside_what_is_there(tmp_path: Path) -> None:
    """World model, judge and token base are shipped: only the flow is made, in seconds."""
    out = tmp_path / "checkpoints"
    shutil.copytree(shipped_checkpoints(), out, ignore=shutil.ignore_patterns(BASE_POLICIES["flow"]))
    before = {path.name: read_manifest(path).id for path in out.iterdir()}
    pretrain(out, tmp_path / "work", collect_shares, seed=3, workers=1, amounts=DRY, base="flow")
    made = {path.name: read_manifest(path) for path in out.iterdir()}
    flow = made.pop(BASE_POLICIES["flow"])
    assert {name: manifest.id for name, manifest in made.items()} == before
    assert flow.architecture == "compact_flow"
    assert flow.lineage["made_by"] == "gymnast_cli.pretrain"


def test_a_policy_that_looks_back_is_made_alone(tmp_path: Path) -> None:
    out = pretrain(tmp_path / "out", tmp_path / "work", collect_shares, seed=3, workers=1, amounts=DRY, base="history")
    (made,) = out.iterdir()
    assert (made.name, read_manifest(made).architecture) == ("history_policy", "compact_history")
    assert {episode.split("-")[0] for episode in read_manifest(made).lineage["episodes"]} == {"erring"}


def test_the_shipped_flow_base_is_small_and_what_pretrain_makes() -> None:
    flow, tokens = (shipped_checkpoints() / name for name in (BASE_POLICIES["flow"], BASE_POLICIES["tokens"]))
    found, beside = read_manifest(flow), read_manifest(tokens)
    assert sum(path.stat().st_size for path in flow.iterdir()) < 6e6
    assert found.architecture == "compact_flow"
    assert found.lineage["sft"]["iterations"] == Amounts().policy_steps
    assert found.lineage["seed"] == 0
    assert found.lineage["episodes"] == beside.lineage["episodes"]
