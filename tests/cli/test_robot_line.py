"""Which robots the page may adapt, and what is said of the others."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace

import pytest

from cloud_trainer.jobs.shelf import Shelf
from gymnast_cli.robot_line import RobotLine, RobotLines, add_arguments, engine_for
from gymnast_core.errors import CheckpointError, ConfigError
from tests.cloud.learning_fakes import tiny_world_model


def arguments(folder: Path, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return argparse.Namespace(folder=folder, **vars(parser.parse_args(words)))


@pytest.fixture
def service() -> SimpleNamespace:
    return SimpleNamespace(jobs=None, episodes=None)


def test_without_a_robot_there_is_no_engine(service, tmp_path) -> None:
    with engine_for(service, arguments(tmp_path), Shelf(tmp_path / "shelf")) as engine:
        assert engine is None


@pytest.mark.parametrize("word", ["sim-0", "=7", "sim-0=", "sim-0=seven", "sim-0=233"])
def test_a_robot_is_named_with_its_domain(service, tmp_path, word) -> None:
    asked = arguments(tmp_path, "--robot", word)
    with pytest.raises(ConfigError, match="NAME=DOMAIN"), engine_for(service, asked, Shelf(tmp_path / "shelf")):
        pass


def test_a_trainer_without_models_says_so_before_it_offers_anything(service, tmp_path) -> None:
    asked = arguments(tmp_path, "--robot", "sim-0=7")
    with pytest.raises(CheckpointError, match="no world_model yet"), engine_for(service, asked, Shelf(tmp_path / "s")):
        pass


def test_the_engine_knows_its_robots_scene_and_canary(service, tmp_path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    tiny_world_model().save(tmp_path / "world_model")
    shelf.add(tmp_path / "world_model")
    with pytest.raises(CheckpointError, match="no judge yet"):
        shelf.newest("judge")
    (tmp_path / "shelf" / "judge-0123").mkdir()
    asked = arguments(tmp_path, "--robot", "sim-0=7", "--robot-scene", "evening", "--canary-pairs", "9")
    with engine_for(service, asked, shelf) as engine:
        assert engine is not None
        assert (engine.scene, engine.rule.max_pairs, engine.modes) == ("evening", 9, ("full", "lora"))
        with pytest.raises(ConfigError, match="does not reach 'arm-7', only sim-0; adapt it at the robot"):
            engine.connect("arm-7")


def test_a_line_is_passed_on_to_the_graph_and_closed_with_the_engine() -> None:
    calls: list[tuple[object, ...]] = []
    client = SimpleNamespace(
        policy_version="policy-1", swap=lambda name: name, close=lambda: calls.append(("close",)),
        flush=lambda timeout: calls.append(("flush", timeout)), evaluate=lambda **asked: asked,
        run_episode=lambda **asked: asked, wait_staged=lambda names, timeout: calls.append(("staged", names, timeout)),
    )  # fmt: skip
    lines = RobotLines({"sim-0": 7})
    line = lines._lines["sim-0"] = RobotLine(client)  # type: ignore[arg-type]
    assert lines.connect("sim-0") is line
    assert (line.policy_version, line.swap("policy-2")) == ("policy-1", "policy-2")
    assert line.evaluate(tasks=["lift"]) == {"tasks": ["lift"]}
    assert line.run_episode(seed=3) == {"seed": 3}
    line.flush(2.0)
    line.wait_staged(["policy-2"], 3.0)
    lines.close()
    assert calls == [("flush", 2.0), ("staged", ["policy-2"], 3.0), ("close",)]
