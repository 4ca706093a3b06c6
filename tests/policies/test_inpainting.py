"""Flows that plan on from what is committed, and policies whose actions last several steps of the arm."""

import numpy as np
import pytest
import torch

from gymnast_core.errors import ContractError
from gymnast_core.policies.chunking import ChunkingConfig, RealTimeChunking
from gymnast_core.policies.exploration import Flow
from gymnast_core.policies.inpainting import run_after
from gymnast_core.policies.stretched import StretchedPolicy, stretched
from gymnast_core.policy import Committed, can_continue
from gymnast_core.types import ActionChunk
from gymnast_ros.run.policy_host import PolicyHost
from tests.policies.test_chunking import FakeClock, FakeWorker, SawTooth
from tests.policies.test_chunking import observation as seen_at
from tests.policies.test_flow import observation, policy_of

TICK_NS = 20_000_000


def gaussian(seen: torch.Tensor, x: torch.Tensor, time_B: torch.Tensor) -> torch.Tensor:
    """Velocity of the flow to independent N(0, 1): (x - E[x0 | x]) / t, E[x0 | x] = (1 - t) x / (t^2 + (1 - t)^2)."""
    t = time_B[:, None, None]
    return (x - (1 - t) * x / (t**2 + (1 - t) ** 2)) / t


def test_frozen_actions_end_where_they_are_committed_and_free_ones_where_the_flow_has_them():
    committed, weight = torch.full((1, 6, 7), 1.5), torch.zeros(1, 6, 7)
    weight[:, :3] = 1.0
    end = run_after(Flow(gaussian, torch.zeros(1, 1), 10), committed, weight)
    assert (end[:, :3] - 1.5).abs().max() < 0.15
    assert end[:, 3:].abs().max() == 0.0  # nothing pulled, started at zero


def test_a_flow_policy_comes_closer_to_what_is_frozen_than_without_being_asked():
    policy, seen = policy_of(seed=3), observation(2)
    own = policy.act(seen, ["lift"] * 2).actions_BKA
    committed = Committed(np.full_like(own, 0.01), np.array([1, 1, 0.5, 0, 0], np.float32))
    chunk = policy.act_after(committed, seen, ["lift"] * 2)
    apart = [float(np.abs(actions[:, :2, :6] - 0.01).mean()) for actions in (own, chunk.actions_BKA)]
    assert apart[1] < 0.5 * apart[0]
    assert chunk.trace == {}
    with pytest.raises(ContractError, match=r"\(2, 4, 7\).*\(2, 5, 7\)"):
        policy.act_after(Committed(own[:, :4], committed.weight_K), seen, ["lift"] * 2)


class Continuing(SawTooth):
    """Keeps what it is asked to go on from, and goes on from it."""

    continues = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Committed] = []

    def act_after(self, committed, observation, instruction):
        self.asked.append(committed)
        chunk = self.act(observation, instruction)
        weight = committed.weight_K[:, None]
        return ActionChunk(weight * committed.actions_BKA + (1 - weight) * chunk.actions_BKA, self.version)


def test_the_committed_plan_is_the_one_in_force_and_frozen_for_as_long_as_inference_took():
    clock, inner = FakeClock(), Continuing()
    worker = FakeWorker(clock, 15 * TICK_NS)
    policy = RealTimeChunking(StretchedPolicy(inner, 10), ChunkingConfig(20, 10, 0.001, 0.005), worker=worker)
    actions = []
    for _ in range(120):
        worker.settle()
        actions.append(policy.act(seen_at(clock.now_ns), ["lift"]).actions_BKA[0, 0])
        clock.now_ns += TICK_NS
    assert policy.starved_ticks == 0
    assert [seam.delay for seam in policy.seams] == [15] * len(policy.seams)
    assert len(policy.seams) >= 3
    np.testing.assert_allclose(inner.asked[0].actions_BKA[0, :3, 0], 0.02, atol=1e-6)  # the plan's own actions, whole
    assert inner.asked[0].weight_K[0] == 1.0
    assert inner.asked[0].weight_K[1] < 1.0  # 10 ticks were expected
    assert inner.asked[1].weight_K[1] > inner.asked[0].weight_K[1]  # 15 were needed
    assert np.abs(np.diff(np.stack(actions)[:, :3], axis=0)).max() <= 0.001 + 1e-6


def test_an_exploring_flow_is_asked_for_a_sample_as_ever():
    clock, inner = FakeClock(), Continuing()
    policy = RealTimeChunking(inner, ChunkingConfig(), worker=FakeWorker(clock, TICK_NS))
    for _ in range(8):
        policy._worker.settle()
        policy.act(seen_at(clock.now_ns), ["lift"], rng=np.random.default_rng(0))
        clock.now_ns += 10 * TICK_NS
    assert inner.calls > 1
    assert inner.asked == []


def test_steps_add_up_to_their_action_and_the_speed_does_not_jump():
    actions = np.random.default_rng(0).uniform(-0.03, 0.03, (2, 5, 7)).astype(np.float32)
    actions[..., 6] = [[1, 1, 0, 0, 1], [0, 1, 0, 1, 0]]
    steps = stretched(actions, 10)
    assert steps.shape == (2, 50, 7)
    np.testing.assert_allclose(steps.reshape(2, 5, 10, 7).sum(2)[..., :6], actions[..., :6], atol=1e-6)
    np.testing.assert_array_equal(steps[..., 6], np.repeat(actions[..., 6], 10, axis=1))
    jump = np.abs(np.diff(actions[..., :6], axis=1)).max() / 10  # of equal parts
    assert np.abs(np.diff(steps[..., :6], axis=1)).max() < 0.25 * jump


def test_a_policy_that_cannot_continue_does_not_claim_to_when_it_is_stretched():
    assert can_continue(StretchedPolicy(SawTooth(), 10)) is None
    assert can_continue(StretchedPolicy(policy_of(), 10)) is not None


def test_a_flow_in_the_robots_policy_process_plans_on_as_it_would_here(tmp_path):
    flow, seen = policy_of(seed=3), observation(1)
    flow.save(tmp_path / "flow")
    committed = Committed(np.full((1, 5, 7), 0.01, np.float32), np.array([1, 1, 0.5, 0, 0], np.float32))
    host = PolicyHost("cpu")
    try:
        hosted = can_continue(host.load(tmp_path / "flow"))
        assert hosted is not None
        there = hosted.act_after(committed, seen, ["lift"]).actions_BKA
    finally:
        host.close()
    np.testing.assert_allclose(there, flow.act_after(committed, seen, ["lift"]).actions_BKA, atol=1e-6)
    assert np.abs(there - flow.act(seen, ["lift"]).actions_BKA).max() > 1e-4
