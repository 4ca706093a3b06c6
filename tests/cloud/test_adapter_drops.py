"""What counts as a robot's word that an adapter is detached."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from cloud_trainer.service.adapter_drops import AdapterDrops
from gymnast_core.errors import NotPossibleError
from gymnast_core.robot_status import AdapterStatus, RobotStatus
from gymnast_core.web.auth import User
from tests.bridge.test_bridge import wait_until

ROBOT = User("wx-1", "robot")
ATTACHED: AdapterStatus = {
    "checkpoint_id": "policy-a", "scene": "s", "base": "policy-b", "since_ns": 1, "resting": False,
    "probation_left": 0, "recognised": "",
}  # fmt: skip


def test_a_report_that_says_nothing_of_checkpoints_or_comes_from_elsewhere_is_no_word() -> None:
    drops = AdapterDrops(answer_s=60.0)
    none: RobotStatus = {"weights": {"current": "policy-b", "adapters": []}}
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(drops.drop, "default", "wx-1", "policy-a")
        wait_until(lambda: drops.of(ROBOT) == ["policy-a"])
        drops.heard(ROBOT, {"weights": {}})
        drops.heard(ROBOT, {"weights": {"adapters": [ATTACHED]}})
        drops.heard(User("wx-2", "robot"), none)
        drops.heard(User("wx-1", "robot", tenant="other"), none)
        assert drops.of(ROBOT) == ["policy-a"]
        drops.heard(ROBOT, none)
        assert waits.result(timeout=60) is None


def test_who_gives_up_waiting_answers_for_nobody_else() -> None:
    drops = AdapterDrops(answer_s=0.3)

    def first() -> None:
        with contextlib.suppress(NotPossibleError):
            drops.drop("default", "wx-1", "policy-a")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(first)
        wait_until(lambda: drops.of(ROBOT) == ["policy-a"])
        with pytest.raises(NotPossibleError, match="has not said that policy-a is detached"):
            drops.drop("default", "wx-1", "policy-a")
    assert drops.of(ROBOT) == []
