"""Where a loop's rounds practise from: what it began with, or what is in force."""

from __future__ import annotations

import pytest

from cloud_trainer.flows.loops import Loops
from tests.console.planted_loop import PlantedEngine, planted_config
from tests.console.test_loops import NAMES, over


@pytest.mark.parametrize(("restart", "second"), [(True, "policy-a"), (False, "policy-b")])
def test_a_round_practises_from_the_first_policy_in_the_last_rounds_dream_unless_it_shall_go_on(
    restart, second, tmp_path
):
    engine = PlantedEngine(NAMES)
    loops = Loops(tmp_path, lambda tenant: engine)
    loops.start("lab-a", planted_config().changed(rounds=2, restart=restart), robots=("wx-0",), by="ana")
    view = over(loops)
    assert view.state == "done", view.reason
    asked = [(spec["policy"], spec["world_model"]) for _, spec in engine.trained]
    assert asked == [("policy-a", "world_model-a"), (second, "world_model-1")]
    assert engine.robot.policy_version == "policy-b", "the canary compares with what is in force, whatever was trained"
