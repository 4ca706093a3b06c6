"""Two arms on one network, apart by their namespaces: neither hears the other's commands nor its stop."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gymnast_ros.bringup import Graph, GraphConfig
from gymnast_ros.nodes.client import GraphClient

pytestmark = pytest.mark.slow


def test_each_arm_does_its_own_episode_and_a_stop_stops_one(domain_id, tmp_path, replay) -> None:
    moves = {
        "left": replay(np.tile([0.0, 0.01, 0, 0, 0, 0, 1.0], (10, 1))),
        "right": replay(np.tile([0.0, -0.01, 0, 0, 0, 0, 1.0], (10, 1))),
    }
    configs = {
        side: GraphConfig(folder=tmp_path / side, robot_name=side, domain_id=domain_id, namespace=side, paced=True)
        for side in moves
    }

    def episode(side: str) -> dict[str, object]:
        with GraphClient(domain_id=domain_id, namespace=side) as client:
            client.wait_ready(30.0)
            return client.run_episode(instruction="lift", seed=3, checkpoint=moves[side])

    with Graph(configs["left"]), Graph(configs["right"]), ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(episode, moves))
        assert [row["truncated_reason"] for row in rows] == ["", ""], rows
        with GraphClient(domain_id=domain_id, namespace="left") as left:
            left.wait_ready(30.0)
            left.estop()
            assert episode("right")["truncated_reason"] == ""
            assert left.gate["state"] == "estop"
