"""The second simulator as a gate: what leaves the envelope is noticed, what is good leaves it never."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from gymnast_core.evaluation.gate_tally import GateAttempt
from gymnast_core.extensions import GATES, extension
from gymnast_core.spec import WIDOWX_250S
from gymnast_core.types import ActionChunk, Observation
from gymnast_ros.sim.expert import ScriptedExpert
from tests.contracts.env_contract import EnvContract

pytest.importorskip("pybullet", reason="PyBullet has no wheel for this Python; its extra, gate, would build it")
from gymnast_ros.sim.bullet.env import BulletEnv
from gymnast_ros.sim.bullet.gate import BulletGate, GatedEnv, arm_limits

ROOT = Path(__file__).parents[2]


class TestGatedEnvKeepsTheContract(EnvContract):
    def make_env(self) -> GatedEnv:
        return GatedEnv(BulletEnv(image_size=64, max_steps=5))


class Always:
    """The same action at every step."""

    version, chunk_length = "always", 5

    def __init__(self, *actions: tuple[float, ...]) -> None:
        self._chunk = np.array([actions], np.float32)

    def act(self, observation: Observation, instruction: object, *, rng: object = None) -> ActionChunk:
        return ActionChunk(self._chunk, self.version)


@pytest.fixture(scope="module")
def gate() -> Iterator[BulletGate]:
    simulator: BulletGate = extension(GATES, "bullet")()
    yield simulator
    simulator.close()


def test_its_gate_is_set_as_a_real_arms():
    text = (ROOT / "config" / "robot_widowx.yaml").read_text()
    given = next(node["ros__parameters"] for name, node in yaml.safe_load(text).items() if name.endswith("gate"))
    limits = arm_limits(WIDOWX_250S)
    assert (limits.max_change_m, limits.max_change_rad) == (given["max_change_m"], given["max_change_rad"])


def test_an_expert_succeeds_inside_the_envelope(gate: BulletGate):
    attempts = [gate.attempt(ScriptedExpert(gate.env), task, 11) for task in gate.tasks]
    assert attempts == [GateAttempt(True)] * 4


@pytest.mark.parametrize(
    ("actions", "kind"),
    [
        ([(0.0, 0.0, -0.05, 0.0, 0.0, 0.0, 0.0)], "pressed"),
        ([(0.0, 0.0, 0.08, 0.0, 0.0, 0.0, 1.0)], "cut"),
        ([(0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0), (-0.02, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)], "shaken"),
        ([(np.nan,) * 7], "refused"),
    ],
)
def test_what_leaves_the_envelope_is_noticed(gate: BulletGate, actions: list[tuple[float, ...]], kind: str):
    attempt = gate.attempt(Always(*actions), "lift the red cube", 3)
    assert not attempt.succeeded
    assert kind in attempt.violations


def test_a_start_repeats_itself_whatever_was_tried_before(gate: BulletGate):
    expert = ScriptedExpert(gate.env, aim_offset_m=(0.02, 0.0))
    first = [gate.attempt(expert, "lift the red cube", seed) for seed in range(4)]
    gate.attempt(Always((0.05, 0.0, -0.05, 0.0, 0.0, 0.0, 0.0)), "close the drawer", 9)
    assert [gate.attempt(expert, "lift the red cube", seed) for seed in range(4)] == first


def test_bullets_own_pictures_are_another_gate():
    simulator: BulletGate = extension(GATES, "bullet_pictures")()
    assert simulator.randomisation["pictures"] == "pybullet"
    assert simulator.attempt(ScriptedExpert(simulator.env), "close the drawer", 11) == GateAttempt(True)
    simulator.close()
