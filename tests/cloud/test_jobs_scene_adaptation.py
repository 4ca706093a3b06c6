"""The adaptation flow: order, budgets within one iteration, restarts, refusals."""

import pytest

from cloud_trainer.flows.adaptation_engine import Budget, SceneRequest
from cloud_trainer.flows.adaptation_view import Stage
from cloud_trainer.flows.adaptations import Adaptations
from cloud_trainer.flows.scene_adaptation import SceneAdaptation
from cloud_trainer.store.tenants import PerTenant
from gymnast_core.errors import ConfigError, NotPossibleError
from tests.console.conftest import SteeredEngine, wait_for


@pytest.fixture
def engine():
    return SteeredEngine()


def begin(tmp_path, engine, clock=None):
    options = {} if clock is None else {"clock": clock}
    flow = SceneAdaptation.start(tmp_path, engine, SceneRequest("r", "lift"), by="ana", tenant="lab-a", **options)
    assert flow.wait(10)
    return flow


def test_the_whole_path_asks_the_engine_in_order(tmp_path, engine):
    engine.trusted = False
    flow = begin(tmp_path, engine)
    assert flow.view.stage is Stage.REFUSED
    assert "collect here first" in flow.view.reason
    flow.collect(flow.view.revision, episodes=4, by="ana")
    flow.wait(10)
    flow.train(flow.view.revision, budget=Budget(), mode="lora", by="ana")
    flow.wait(10)
    assert flow.view.stage is Stage.PREVIEW
    flow.approve(flow.view.revision, by="bea")
    flow.wait(10)
    assert flow.view.stage is Stage.KEPT
    assert flow.view.decided_by == "bea"
    assert engine.calls == [
        "capture", "trust", "collect 4", "trust", "train", "check", "preview", "canary", "keep",
    ]  # fmt: skip
    flow.close()


def test_a_lost_canary_reverts(tmp_path, engine):
    engine.wins = False
    flow = begin(tmp_path, engine)
    flow.train(flow.view.revision, budget=Budget(), mode="full", by="ana")
    flow.wait(10)
    flow.approve(flow.view.revision, by="ana")
    flow.wait(10)
    assert flow.view.stage is Stage.REVERTED
    assert engine.calls[-1] == "revert"
    flow.close()


@pytest.mark.parametrize(
    ("budget", "ended_by"),
    [
        (Budget(seconds=25), "the time budget"),
        (Budget(rollouts=250), "the rollout budget"),
        (Budget(money=0.005, price_per_hour=0.72), "the money budget"),  # 25 s at 0.72 an hour
    ],
)
def test_budgets_end_training_within_one_iteration(tmp_path, engine, budget, ended_by):
    # an iteration takes 10 s and 100 rollouts: 25 s, 250 rollouts or 0.005 are used up during the third
    engine.iterations = 50
    started: list[SceneAdaptation] = []
    flow = begin(tmp_path, engine, clock=lambda: 10.0 * sum(len(known.view.iterations) for known in started))
    started.append(flow)
    flow.train(flow.view.revision, budget=budget, mode="lora", by="ana")
    flow.wait(10)
    assert len(flow.view.iterations) == 3
    assert flow.view.stage is Stage.PREVIEW
    assert flow.view.ended_by == ended_by
    flow.close()


def test_a_budget_below_one_iteration_fails_and_says_what_to_do(tmp_path, engine):
    engine.iterations = 0
    flow = begin(tmp_path, engine)
    flow.train(flow.view.revision, budget=Budget(), mode="lora", by="ana")
    flow.wait(10)
    assert flow.view.stage is Stage.FAILED
    assert "allow more" in flow.view.reason
    flow.close()


def test_a_restart_in_the_middle_of_training_goes_on_by_itself(tmp_path, engine):
    engine.hold["train"].clear()
    flow = begin_training(tmp_path, engine)
    assert engine.inside["train"].wait(10)
    flow._closing = True
    engine.hold["train"].set()
    flow.close()
    assert flow.view.stage is Stage.TRAINING
    again = Adaptations(tmp_path, PerTenant(lambda tenant: SteeredEngine()).of)
    (resumed,) = again.of("lab-a")
    wait_for(lambda: resumed.view.stage is Stage.PREVIEW, "the preview")
    assert resumed.view.started_by == "ana"
    again.close()


def begin_training(tmp_path, engine):
    flow = begin(tmp_path, engine)
    flow.train(flow.view.revision, budget=Budget(), mode="lora", by="ana")
    return flow


def test_stale_pages_and_finished_flows_are_refused(tmp_path, engine):
    flow = begin(tmp_path, engine)
    with pytest.raises(NotPossibleError, match="out of date"):
        flow.approve(flow.view.revision, by="ana")
    with pytest.raises(NotPossibleError, match="out of date"):
        flow.train(flow.view.revision - 1, budget=Budget(), mode="lora", by="ana")
    flow.cancel(by="ana")
    assert flow.view.stage is Stage.CANCELLED
    with pytest.raises(NotPossibleError, match="is over"):
        flow.cancel(by="ana")
    flow.close()


def test_a_trainer_without_an_engine_says_so(tmp_path):
    with pytest.raises(NotPossibleError, match="this page cannot adapt; a trainer started with `gymnast serve` can"):
        Adaptations(tmp_path, None).start("default", SceneRequest("r", "lift"), by="ana")


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"rollouts": -1}, {"money": float("nan")}, {"price_per_hour": -1}])
def test_budgets_that_allow_nothing_are_refused(wrong):
    with pytest.raises(ConfigError):
        Budget(**wrong)


def test_an_adapter_kept_before_is_tried_again_without_training(tmp_path, engine):
    engine.known = ["policy-old", "policy-kept"]
    flow = begin(tmp_path, engine)
    with pytest.raises(ConfigError, match="'policy-x' was not kept for this scene; kept were: policy-old, policy-kept"):
        flow.reuse(flow.view.revision, adapter="policy-x", by="ana")
    flow.reuse(flow.view.revision, adapter="policy-kept", by="ana")
    flow.wait(10)
    assert (flow.view.stage, flow.view.candidate, flow.view.reason) == (Stage.PREVIEW, "policy-kept", "")
    flow.approve(flow.view.revision, by="ana")
    flow.wait(10)
    assert flow.view.stage is Stage.KEPT
    assert engine.calls == ["capture", "trust", "preview", "canary", "keep"]
    flow.close()


def test_where_the_dream_is_not_trusted_a_kept_adapter_may_still_be_tried(tmp_path, engine):
    engine.trusted, engine.known = False, ["policy-kept"]
    flow = begin(tmp_path, engine)
    assert flow.view.stage is Stage.REFUSED
    flow.reuse(flow.view.revision, adapter="policy-kept", by="ana")
    flow.wait(10)
    assert flow.view.stage is Stage.PREVIEW
    flow.close()


def test_an_engine_that_breaks_fails_its_adaptation_instead_of_leaving_it_for_ever(tmp_path, engine):
    def broken(folder, ended):
        raise IndexError("list index out of range")

    engine.trust = broken
    flow = begin(tmp_path, engine)
    assert flow.view.stage is Stage.FAILED
    assert "IndexError: list index out of range" in flow.view.reason
    flow.close()
