"""kill -9 of nodes in the middle of episodes; a hundred of them: python -m benchmarks.node_kills --kills 100."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.node_kills import HOLDS, VICTIMS, joined, measure, order_of


def check(result: dict[str, Any], victims: Sequence[str]) -> None:
    """The arm held, what was cut says so, nothing is missing; how long it took is the benchmark's business."""
    assert {row["node"] for row in result["kills"]} == set(victims)
    for row in result["kills"]:
        assert row["node"] not in HOLDS or row["moved_steps"] <= 2, row
    assert result["lost"] == []
    assert result["broken"] == []
    assert result["unmarked"] == 0


def test_arm_holds_without_its_gate_and_the_cut_episode_says_so(domain_id) -> None:
    check(joined({}, measure(["command_gate"], seed=1, domain_id=domain_id)), ("command_gate",))


@pytest.mark.slow
def test_every_node_may_be_killed_three_times(domain_id) -> None:
    check(joined({}, measure(order_of(15, seed=2), seed=2, domain_id=domain_id)), VICTIMS)
