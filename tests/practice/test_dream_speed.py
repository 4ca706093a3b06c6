"""How fast dreams are is measured the way practice goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import dream_speed
from cloud_trainer.practice.pieces import Work, roll_out
from cloud_trainer.world_model.compact.data import clips_of, starts_of
from tests.cloud.learning_fakes import episode, tiny_policy, tiny_world, tiny_world_model


def test_a_small_run_counts_flop_and_splits_core_seconds_by_stage(tmp_path: Path) -> None:
    tiny_world_model().save(tmp_path / "world")
    out = tmp_path / "speed.json"
    asked = ["--world-model", str(tmp_path / "world"), "--groups", "1", "--group-size", "2", "--repeats", "1"]
    assert dream_speed.main([*asked, "--simulated", "0", "--json", str(out)]) == 0
    (row,) = json.loads(out.read_text())["worlds"]
    spent = row["seconds_per_rollout"]
    assert sum(spent[name] for name in dream_speed.STAGES) == pytest.approx(spent["all"])
    assert row["frames"] == 2 * 3
    assert row["flop"]["frame"] > 0
    assert 0 < row["share_of_peak"]["world model"] < 1


def test_rows_of_a_piece_act_together_and_alone_afterwards() -> None:
    policy, seen = tiny_policy(), []
    plain = policy.logits

    def logits(images, instructions):
        seen.append(len(images))
        return plain(images, instructions)

    policy.logits = logits
    (start,) = starts_of(clips_of([episode(0)], 64))
    roll_out(tiny_world(), policy, Work(0, (start,), 0, 4, seed=1), "v")
    assert set(seen) == {4}
    assert policy.row_by_row
