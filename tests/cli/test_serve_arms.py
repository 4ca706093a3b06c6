"""What the page's adaptations are made of."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from cloud_trainer.app.engines import engine_for
from cloud_trainer.flows.arms import Errand
from cloud_trainer.jobs.shelf import Shelf
from cloud_trainer.service import Service, ServiceConfig
from gymnast_cli.commands.serve import add_arguments, app_config
from gymnast_core.errors import ConfigError


def test_the_engine_knows_its_robots_scene_canary_and_price(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = ["--robot-scene", "evening", "--canary-pairs", "9", "--price-per-hour", "2.5", "--folder", str(tmp_path)]
    arms = app_config(parser.parse_args(words)).arms
    with Service(ServiceConfig(folder=tmp_path / "trainer", insecure=True)) as service:
        engine = engine_for(service, arms, Shelf(tmp_path / "shelf"), "default")
        known = (engine.scene, engine.rule.max_pairs, engine.price_per_hour, engine.modes)
        assert known == ("evening", 9, 2.5, ("full", "lora"))
        with pytest.raises(ConfigError, match="'arm-7' has not reported here"):
            _ = engine.connect("arm-7", Errand("ana", "loop", "night", "gymnast loop stop night")).policy_version
