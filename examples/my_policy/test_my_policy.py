"""The policy keeps the contract, and its checkpoint finds its class by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from examples.my_policy.my_policy import MyPolicy, save
from gymnast_core.errors import CheckpointError
from gymnast_core.policies import load_policy
from gymnast_core.types import Observation
from tests.contracts.policy_contract import PolicyContract


class TestMyPolicy(PolicyContract):
    stochastic = False
    discrete = learning = False

    def make_policy(self) -> MyPolicy:
        return MyPolicy(np.array([0.3, 0.0, 0.15], np.float32), "policy-mine")


def test_it_moves_towards_its_goal(tmp_path: Path) -> None:
    save(tmp_path / "policy", (0.3, 0.0, 0.15))
    policy = MyPolicy.load(tmp_path / "policy")
    pose_BP = np.array([[0.26, 0.04, 0.15, 0, 0, 0, 1]], np.float32)
    chunk = policy.act(Observation({}, pose_BP, np.zeros(1, np.int64)), ["anything"])
    np.testing.assert_allclose(chunk.actions_BKA.sum(axis=1)[0, :3], [0.04, -0.04, 0.0], atol=1e-6)


def test_its_checkpoint_is_refused_where_the_package_is_not_installed(tmp_path: Path) -> None:
    """Where it is installed a robot runs it: examples/my_simulator/test_my_simulator.py."""
    save(tmp_path / "policy", (0.3, 0.0, 0.15))
    with pytest.raises(CheckpointError, match="install the package that adds it"):
        load_policy(tmp_path / "policy")
