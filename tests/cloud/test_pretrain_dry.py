"""`make pretrain` from an empty folder, tiny: every stage runs, and what is there already is not made again."""

from pathlib import Path

from cloud_trainer.jobs.pretrain import DRY, Pretraining, pretrain
from gymnast_core.records.manifest import read_manifest
from gymnast_ros.sim.drivers import collect_shares


def test_every_stage_runs_and_a_second_call_makes_nothing_again(tmp_path: Path) -> None:
    out = pretrain(tmp_path / "checkpoints", tmp_path / "work", collect_shares, seed=3, workers=1, amounts=DRY)
    kinds = {path.name: read_manifest(path) for path in sorted(out.iterdir())}
    assert set(kinds) == {"policy", "world_model", "judge"}
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    pretrain(out, tmp_path / "work", collect_shares, seed=3, workers=1, amounts=DRY)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert {path.name: read_manifest(path) for path in sorted(out.iterdir())} == kinds


def test_the_base_policy_may_be_a_flow(tmp_path: Path) -> None:
    folder = Pretraining(tmp_path / "work", collect_shares, 3, 1, DRY, flow=True).policy()
    assert read_manifest(folder).architecture == "compact_flow"
