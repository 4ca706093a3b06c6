"""Real-time chunking on a fake clock: no pause, no jump, and honest when the policy is too slow."""

import math
from concurrent.futures import Future

import numpy as np
import pytest

from gymnast_core.errors import ConfigError, ContractError, GymnastError
from gymnast_core.policies.chunking import ChunkingConfig, RealTimeChunking
from gymnast_core.policies.plans import soft_mask
from gymnast_core.types import ActionChunk, Observation

TICK_NS = 200_000_000


class FakeClock:
    def __init__(self) -> None:
        self.now_ns = 0


class FakeWorker:
    """Ends each piece of work `latency_ns` of fake time after it was submitted."""

    def __init__(self, clock: FakeClock, latency_ns: int) -> None:
        self.clock, self.latency_ns, self.waiting, self.submitted = clock, latency_ns, [], 0

    def submit(self, work):
        future = FakeFuture(self)
        self.waiting.append((self.clock.now_ns + self.latency_ns, work, future))
        self.submitted += 1
        return future

    def settle(self):
        due = [entry for entry in self.waiting if entry[0] <= self.clock.now_ns]
        self.waiting = [entry for entry in self.waiting if entry[0] > self.clock.now_ns]
        for _, work, future in due:
            try:
                future.set_result(work())
            except GymnastError as error:
                future.set_exception(error)

    def shutdown(self):
        self.waiting = []


class FakeFuture(Future):
    """Waiting for it moves the fake clock: that is a pause the test can see."""

    def __init__(self, worker: FakeWorker) -> None:
        super().__init__()
        self.worker = worker

    def exception(self, timeout=None):
        if not self.done():
            self.worker.clock.now_ns += self.worker.latency_ns
            self.worker.settle()
        return super().exception(timeout=0)


class SawTooth:
    """Every chunk disagrees with the one before by 0.04 m and 0.2 rad: the worst seams one can make."""

    version, chunk_length = "policy-saw", 5

    def __init__(self) -> None:
        self.calls = 0
        self.times = []

    def act(self, observation, instruction, *, rng=None):
        self.calls += 1
        self.times.append(int(observation.time_ns_B[0]))
        sign = 1.0 if self.calls % 2 else -1.0
        actions = np.zeros((len(instruction), 5, 7), np.float32)
        actions[..., :3], actions[..., 3:6], actions[..., 6] = 0.02 * sign, 0.1 * sign, self.calls % 2
        return ActionChunk(actions, self.version)


def observation(now_ns: int, rows: int = 1) -> Observation:
    return Observation({}, np.zeros((rows, 7), np.float32), np.full(rows, now_ns, np.int64))


class Loop:
    """A control loop at 5 Hz of fake time."""

    def __init__(self, latency_ns: int, inner=None, **config) -> None:
        self.clock = FakeClock()
        self.worker = FakeWorker(self.clock, latency_ns)
        self.inner = inner or SawTooth()
        self.policy = RealTimeChunking(self.inner, ChunkingConfig(**config), worker=self.worker)
        self.pauses_ns = []

    def run(self, ticks: int, text: str = "lift the cube") -> np.ndarray:
        actions = []
        for _ in range(ticks):
            self.worker.settle()
            before = self.clock.now_ns
            actions.append(self.policy.act(observation(before), [text]).actions_BKA[0, 0])
            self.pauses_ns.append(self.clock.now_ns - before)
            self.clock.now_ns += TICK_NS
        return np.stack(actions)


def test_no_tick_waits_for_inference_after_the_first():
    loop = Loop(latency_ns=TICK_NS)
    loop.run(60)
    assert loop.pauses_ns[0] == TICK_NS
    assert set(loop.pauses_ns[1:]) == {0}
    assert loop.policy.starved_ticks == 0
    assert loop.inner.calls >= 19  # one inference per horizon + delay = 3 ticks


def test_no_commanded_step_beyond_the_bound_at_any_seam():
    loop = Loop(latency_ns=TICK_NS, max_jump_m=0.01, max_jump_rad=0.05)
    actions = loop.run(60)
    raw = max(float(seam.raw_jump_B6[:, :3].max()) for seam in loop.policy.seams)
    assert raw >= 0.02  # what the policy alone would have jumped, blended history included
    steps = np.abs(np.diff(actions, axis=0))
    assert steps[:, :3].max() <= 0.01 + 1e-6
    assert steps[:, 3:6].max() <= 0.05 + 1e-6
    for seam in loop.policy.seams:
        assert seam.jump_B6[:, :3].max() <= 0.01 + 1e-6


def test_the_gripper_is_not_blended():
    assert set(np.unique(Loop(latency_ns=TICK_NS).run(40)[:, 6])) == {0.0, 1.0}


class Ramp:
    """Plans 0.001 * tick for every tick it covers: successive chunks agree exactly."""

    version, chunk_length = "policy-ramp", 5

    def act(self, observation, instruction, *, rng=None):
        tick = observation.time_ns_B[0] / TICK_NS
        actions = np.zeros((len(instruction), 5, 7), np.float32)
        actions[..., 0] = 0.001 * (tick + np.arange(5))
        return ActionChunk(actions, self.version)


def test_a_consistent_policy_is_executed_as_if_it_took_no_time():
    loop = Loop(latency_ns=TICK_NS, inner=Ramp())
    actions = loop.run(30)[6:]  # waiting for the very first chunk shifted its ticks by one
    np.testing.assert_allclose(np.diff(actions[:, 0]), 0.001, atol=1e-6)


@pytest.mark.parametrize("latency_ticks", [0.5, 1.0, 1.9])
def test_frozen_prefix_is_what_the_old_plan_said(latency_ticks):
    loop = Loop(latency_ns=int(latency_ticks * TICK_NS), max_jump_m=1.0, max_jump_rad=9.0)
    actions = loop.run(12)
    delay = math.ceil(latency_ticks)
    assert [seam.delay for seam in loop.policy.seams[:2]] == [delay, delay]
    np.testing.assert_allclose(actions[: 2 + delay, 0], 0.02)  # old plan, though the next was begun at tick 2


def test_starving_holds_still_and_is_counted():
    loop = Loop(latency_ns=7 * TICK_NS)
    actions = loop.run(12)
    assert loop.policy.starved_ticks >= 4
    assert np.abs(actions[5:8, :6]).max() == 0  # chunk of 5 used up, nothing came: no motion
    assert set(actions[5:8, 6]) == {1.0}  # the gripper keeps what it holds
    assert set(loop.pauses_ns[1:]) == {0}


def test_a_new_episode_forgets_plan_and_running_inference():
    loop = Loop(latency_ns=TICK_NS)
    loop.run(3)
    assert loop.worker.waiting
    asked = loop.inner.calls
    loop.run(1, text="close the drawer")
    assert loop.pauses_ns[-1] == TICK_NS  # waited for its own first chunk
    assert loop.inner.calls >= asked + 1
    assert len(loop.policy.seams) == 0
    loop.clock.now_ns += 10_000_000_000  # the operator reset the scene; same instruction
    loop.run(1, text="close the drawer")
    assert loop.pauses_ns[-1] == TICK_NS


class Failing(SawTooth):
    def act(self, observation, instruction, *, rng=None):
        if self.calls:
            raise ContractError("camera 'front' is missing")
        return super().act(observation, instruction, rng=rng)


def test_an_error_in_the_background_reaches_the_loop():
    with pytest.raises(ContractError, match="camera"):
        Loop(latency_ns=TICK_NS, inner=Failing()).run(6)


def test_settings_that_must_starve_are_refused():
    with pytest.raises(ConfigError, match="run out of actions"):
        RealTimeChunking(SawTooth(), ChunkingConfig(horizon=4, expected_delay=2), worker=FakeWorker(FakeClock(), 0))


def test_soft_mask_by_hand():
    assert soft_mask(0, delay=1, horizon=2, length=5) == 1.0
    c = 2 / 3  # (5 - 2 - 1) / (5 - 2 - 1 + 1)
    assert soft_mask(1, delay=1, horizon=2, length=5) == pytest.approx(c * (math.exp(c) - 1) / (math.e - 1))
    assert soft_mask(3, delay=1, horizon=2, length=5) == 0.0


def test_two_rows_are_bounded_each():
    clock = FakeClock()
    worker = FakeWorker(clock, TICK_NS)
    policy = RealTimeChunking(SawTooth(), ChunkingConfig(), worker=worker)
    previous = None
    for _ in range(20):
        worker.settle()
        action = policy.act(observation(clock.now_ns, rows=2), ["a b", "c d"]).actions_BKA[:, 0]
        if previous is not None:
            assert np.abs(action - previous)[:, :3].max() <= 0.01 + 1e-6
        previous = action
        clock.now_ns += TICK_NS


def test_real_thread_runs_and_stops():
    policy = RealTimeChunking(Ramp())
    chunk = policy.act(observation(0), ["lift"])
    assert chunk.actions_BKA.shape == (1, 1, 7)
    assert chunk.policy_version == "policy-ramp"
    policy.close()
