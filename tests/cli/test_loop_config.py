"""The loop's settings and its memory of finished steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloud_trainer.flows.loop_state import StepFile
from gymnast_core.errors import ConfigError
from gymnast_core.loop_config import CanaryRule, LoopConfig, StopRule, read_loop_config
from gymnast_core.records.manifest import read_manifest

ROOT = Path(__file__).parents[2]


def write(tmp_path: Path, **values: object) -> Path:
    path = tmp_path / "loop.json"
    path.write_text(json.dumps({"name": "x", "world_model": "w", "judge": "j", **values}))
    return path


def test_shipped_example_begins_with_the_shipped_checkpoints() -> None:
    pytest.importorskip("tomllib")
    config = read_loop_config(ROOT / "config" / "loop.toml")
    assert (config.rounds, config.collect, config.stop.patience) == (3, (150, 100, 75), 2)
    for name in ("world_model", "judge"):
        assert getattr(config, name) == read_manifest(ROOT / "checkpoints" / name).id


@pytest.mark.parametrize("name", ["", "../x", "a b", "x" * 65])
def test_a_loop_needs_a_name_that_is_found_again(name, tmp_path) -> None:
    with pytest.raises(ConfigError, match="loop: name must be up to 64 letters"):
        read_loop_config(write(tmp_path, name=name))


def test_schedule_repeats_its_last_number() -> None:
    config = LoopConfig(name="x", world_model="w", judge="j", collect=(150, 100))
    assert [config.at("collect", number) for number in (1, 2, 3, 9)] == [150, 100, 100, 100]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rouds": 3}, r"loop: unknown settings \['rouds'\] .did you mean rounds.*; there are .*'rounds'"),
        ({"stop": {"pation": 1}}, r"stop: unknown settings \['pation'\]"),
        ({"rounds": 0}, "rounds must be a whole number of at least 1 and at most 30, got 0; the default is 3"),
        ({"collect": [0]}, r"collect.* 1, got 0"),
        ({"seed": -1}, "seed must be 0"),
        ({"stop": {"success": 1.5}}, r"stop: success must be a number above 0 and at most 1, got 1\.5"),
        ({"tasks": []}, "tasks must have at least 1 entry"),
        ({"canary": {"max_pairs": 9}}, r"canary: unknown settings \['max_pairs'\] .*; there are .*'alpha_promote'"),
        ({"canary": {"min_pairs": 101}}, "need 1 <= min_pairs <= max_pairs, got 101 and 100"),
        ({"job": {"rehearsal": 0.5}}, r"config: unknown settings \['rehearsal'\]"),
        ({"job": {"grpo_iterations": 5}}, "grpo_iterations stand beside job"),
        ({"canary": {"worthwhile": 2.0}}, "canary: worthwhile must be a number above 0 and below 1, got 2"),
    ],
)
def test_setting_out_of_range_is_refused_by_name(values, message, tmp_path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_loop_config(write(tmp_path, **values))


def test_candidates_of_a_round_share_the_error_that_was_declared() -> None:
    config = LoopConfig(name="x", choosing=10, tasks=("lift", "push"), canary=CanaryRule(alpha_promote=0.05))
    assert (config.rule(1).alpha_promote, config.rule(2).alpha_promote) == (0.05, 0.025)
    assert config.rule(2).max_pairs == 20
    assert config.rule(2).worthwhile == 0.15


def test_single_number_is_a_schedule_too(tmp_path) -> None:
    assert read_loop_config(write(tmp_path, collect=20, stop={"patience": 3})).collect == (20,)


def test_finished_step_is_not_run_again_after_a_restart(tmp_path) -> None:
    calls: list[str] = []
    config = LoopConfig(name="x", world_model="w", judge="j").to_json()
    path = tmp_path / "state.json"
    first = StepFile(path, config)
    assert first.step("a", lambda: calls.append("a") or {"n": 1}) == {"n": 1}
    with pytest.raises(OSError, match="power"):
        first.step("b", lambda: (_ for _ in ()).throw(OSError("power cut")))
    second = StepFile(path, config)
    assert second.step("a", lambda: calls.append("again")) == {"n": 1}
    assert second.step("b", lambda: calls.append("b") or 2) == 2
    assert calls == ["a", "b"]
    assert second.id == first.id


def test_resuming_allows_more_rounds_but_no_other_loop(tmp_path) -> None:
    path = tmp_path / "state.json"
    StepFile(path, LoopConfig(name="x", world_model="w", judge="j").to_json())
    StepFile(path, LoopConfig(name="x", world_model="w", judge="j", rounds=9, stop=StopRule(patience=5)).to_json())
    with pytest.raises(ConfigError, match=r"begun with other \['scene', 'seed'\]"):
        StepFile(path, LoopConfig(name="x", world_model="w", judge="j", seed=1, scene="evening").to_json())
