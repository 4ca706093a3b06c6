"""The arm over topics keeps the Env contract, and ends every episode exactly as the simulator in process does."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest

from gymnast_core.arm.command_gate import ArmState, CommandGate
from gymnast_core.env import Env
from gymnast_core.errors import SafetyError, StaleCommandError
from gymnast_core.rollout import run_episode
from gymnast_core.spec import WIDOWX_250S
from gymnast_ros.nodes.client import RobotRefusedError
from gymnast_ros.nodes.topic_env import TopicEnv
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.expert import ScriptedExpert
from gymnast_ros.sim.simulated_arm import SimulatedArm
from tests.contracts.env_contract import EnvContract, frozen
from tests.ros.conftest import wait_until
from tests.ros.gated import GatedEnv


@pytest.fixture(scope="module")
def arm(client, context, keyring) -> Iterator[TopicEnv]:
    env = TopicEnv(context=context, keyring=keyring)
    yield env
    env.close()


class TestTopicEnv(EnvContract):
    """One connection serves all tests (discovery takes up to 4 s); only the ones that close it make their own."""

    @pytest.fixture(autouse=True)
    def _graph(self, client, context, keyring) -> None:
        self._context, self._keyring = context, keyring

    @pytest.fixture
    def env(self, arm) -> Env:
        arm.abandon()
        return arm

    def make_env(self) -> Env:
        return TopicEnv(context=self._context, keyring=self._keyring)


def expert_actions(instruction: str, seed: int) -> list[np.ndarray]:
    env = SimEnv()
    actions: list[np.ndarray] = []

    class Keep:
        def on_reset(self, instructions, observation) -> None:
            pass

        def on_step(self, action_BA, result, chunk, index) -> None:
            actions.append(action_BA.copy())

    run_episode(env, ScriptedExpert(env), instruction, seed=seed, observers=[Keep()])
    assert env.succeeded()
    env.close()
    return actions


def wild_actions(seed: int) -> list[np.ndarray]:
    """Far beyond every limit: into walls, out of reach, spinning."""
    rng = np.random.default_rng(seed)
    scale = np.array([0.2, 0.2, 0.2, 0.1, 0.1, 0.4, 1.0])
    drift = np.array([0.1, 0.05, -0.05, 0, 0, 0, 0.5]) * rng.choice([-1, 1], 7)
    return [(rng.normal(0, 1, (1, 7)) * scale + drift).astype(np.float32) for _ in range(15)]


@pytest.mark.parametrize(
    ("instruction", "seed"),
    [("lift the red cube", 11), ("push the blue block to the left", 12), ("close the drawer", 5)],
)
def test_expert_episode_over_the_graph_ends_as_in_process_step_by_step(arm, instruction, seed) -> None:
    local = SimulatedArm()
    assert_identical(arm, local, local, instruction, seed, expert_actions(instruction, seed))


@pytest.mark.parametrize("scene", ["clutter", "evening"])
def test_wild_episode_over_the_graph_ends_as_behind_the_same_gate_in_process(arm, scene) -> None:
    local = SimulatedArm(scene)
    gated = GatedEnv(local, CommandGate(armed=True), lambda: ArmState(0, *local.arm_target()))
    arm.scene = scene
    assert_identical(arm, gated, local, "push the blue block to the left", 12, wild_actions(12))


def test_rehoming_over_the_graph_keeps_the_scene_as_in_process(arm) -> None:
    """What was moved stays moved; the next ordinary reset lays everything out anew."""
    local, actions = SimulatedArm(), expert_actions("push the blue block to the left", 12)
    arm.scene = "standard"
    laid_out = assert_identical(arm, local, local, "push the blue block to the left", 12, actions)
    arm.keep_scene = True
    try:
        arm.reset("push the blue block to the left", seed=12)
        local.rehome("push the blue block to the left", seed=12)
        kept = arm.truth["digest"]
        assert kept == local.state_digest() != laid_out
        arm.scene = "clutter"
        with pytest.raises(SafetyError, match=r"scene 'standard' cannot be kept where 'clutter' is asked for"):
            arm.reset("push the blue block to the left", seed=12)
    finally:
        arm.keep_scene, arm.scene = False, "standard"
    arm.reset("push the blue block to the left", seed=12)
    assert arm.truth["digest"] == laid_out


def assert_identical(arm: TopicEnv, env: Env, local: SimulatedArm, instruction: str, seed: int, actions: list) -> str:
    """Returns the digest of the start."""
    here, there = env.reset(instruction, seed=seed), arm.reset(instruction, seed=seed)
    start = local.state_digest()
    assert arm.truth["digest"] == start
    for step, action_BA in enumerate(actions):
        ours, theirs = env.step(action_BA), arm.step(action_BA)
        assert arm.truth["digest"] == local.state_digest(), f"states differ after step {step}"
        np.testing.assert_array_equal(theirs.commanded_BA, ours.commanded_BA)
        here, there = frozen(ours.observation), frozen(theirs.observation)
        for name, value in here.items():
            np.testing.assert_array_equal(there[name], value, err_msg=f"{name} after step {step}")
        np.testing.assert_array_equal(theirs.done_B, ours.done_B)
    assert arm.truth["succeeded"] == local.succeeded()
    local.close()
    return start


def test_expert_succeeds_over_the_graph(arm) -> None:
    arm.scene = "standard"
    arm.reset("lift the red cube", seed=21)
    for action_BA in expert_actions("lift the red cube", 21):
        result = arm.step(action_BA)
        np.testing.assert_array_equal(result.commanded_BA, action_BA)
    assert arm.truth["succeeded"]


def test_wild_actions_never_reach_the_arm(arm) -> None:
    arm.reset("lift the red cube", seed=1)
    for action_BA in wild_actions(1):
        commanded_A = arm.step(action_BA).commanded_BA[0]
        assert np.abs(commanded_A[:3]).max() <= 0.05 + 1e-6
        assert np.abs(commanded_A[3:6]).max() <= 0.25 + 1e-6
        assert 0.0 <= commanded_A[6] <= 1.0


def test_task_box_set_while_the_gate_runs_holds_from_the_next_command_on(arm, client) -> None:
    arm.reset("lift the red cube", seed=1)
    low, high = [0.10, -0.20, 0.18], [0.45, 0.25, 0.30]
    client.set("command_gate", {"workspace_low_m": low, "workspace_high_m": high})
    try:
        down_BA = np.array([[0, 0, -0.05, 0, 0, 0, 1.0]], np.float32)
        heights = [arm.step(down_BA).observation.proprio_BP[0, 2] for _ in range(6)]
        assert heights[-1] > 0.175  # it started below the box: lifted into it, however often it is told to go down
        with pytest.raises(RobotRefusedError, match="must lie inside the arm's"):
            client.set("command_gate", {"workspace_low_m": [0.0, -0.20, -0.5]})
        with pytest.raises(RobotRefusedError, match="only be narrowed while"):
            client.set("command_gate", {"workspace_low_m": list(WIDOWX_250S.workspace_low_m)})
    finally:
        while not arm.step(down_BA).truncated_B[0]:
            pass
        client.set("command_gate", {"workspace_low_m": list(WIDOWX_250S.workspace_low_m)})


def test_arm_that_is_restarted_between_episodes_serves_the_next_one(arm, client, graph) -> None:
    arm.reset("lift the red cube", seed=1)
    arm.abandon()
    os.kill(graph.pids["arm"], signal.SIGKILL)
    wait_until(lambda: graph.restarts["arm"] == 1, 20.0, "the arm's successor")
    wait_until(lambda: client.gate.get("state") == "armed", 10.0, "the gate")
    for attempt in range(3):  # while the old one still counts as there, an attempt may be cut; none may hang
        try:
            observation = arm.reset("lift the red cube", seed=2)
            break
        except StaleCommandError:
            assert attempt < 2
    assert observation.time_ns_B[0] == 0


def test_no_arm_in_the_domain_is_named_in_the_error(domain_id, keyring) -> None:
    import rclpy

    lonely = rclpy.Context()
    rclpy.init(context=lonely, domain_id=(domain_id + 50) % 100)
    with pytest.raises(StaleCommandError, match="arm node"):
        TopicEnv(context=lonely, connect_timeout_s=0.5, keyring=keyring)
    lonely.try_shutdown()
