"""What one demo starts from and how much it does, by the kind of its policy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gymnast_cli.demo.config import TASKS, DemoConfig
from gymnast_cli.main import main
from gymnast_core.errors import ConfigError
from gymnast_core.records.manifest import read_manifest
from gymnast_core.shipped import shipped_checkpoints


def test_each_kind_starts_from_its_shipped_base_and_the_same_world() -> None:
    tokens, flow = DemoConfig(), DemoConfig(policy="flow")
    assert [read_manifest(one.kinds["policy"]).architecture for one in (tokens, flow)] == [
        "compact_policy",
        "compact_flow",
    ]
    assert tokens.kinds["world_model"] == flow.kinds["world_model"]
    assert tokens.kinds["judge"] == flow.kinds["judge"]
    flow.check_checkpoints()


def test_a_smoke_run_is_small_whatever_the_policy() -> None:
    small = DemoConfig(policy="flow").smoke()
    assert small.kinds == DemoConfig(policy="flow").kinds
    assert small.episodes * len(TASKS) < 30 < DemoConfig(policy="flow").episodes


def test_a_flow_practises_with_correlated_noise_unless_told_otherwise() -> None:
    tokens, flow = DemoConfig(), DemoConfig(policy="flow")
    assert tokens.practising(tokens.improve) == tokens.improve
    for job in (flow.improve, flow.adapt):
        assert flow.practising(job).to_json()["grpo"]["exploration"] == {"way": "endpoint", "rho": 0.7}
    named = flow.improve.changed(grpo={"exploration": {"way": "sde"}})
    assert flow.practising(named) == named


def test_unknown_kinds_and_missing_bases_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="one of tokens, flow, got 'flows'"):
        DemoConfig(policy="flows")
    folder, runs = tmp_path / "checkpoints", tmp_path / "runs"
    shutil.copytree(shipped_checkpoints(), folder, ignore=shutil.ignore_patterns("flow_policy"))
    assert main(["demo", "--policy", "flow", "--checkpoints", str(folder), "--runs", str(runs)]) == 2
    said = capsys.readouterr()
    assert "has no flow_policy" in said.out + said.err
    assert "gymnast pretrain --policy flow --out" in (said.out + said.err).replace("\n", " ")
    assert not runs.exists()
