"""From a training job to the arm: candidates, the second simulator, a trial on the robot, promotion, and a new policy.

Trainer and robot are two hosts; the robot asks for gate records. It begins with a policy that reaches 2 cm beside, and
the job practises from the shipped one, so that its candidates win. One of them wins without a record, and stays out.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from gymnast_core.records.manifest import read_manifest
from tests.journeys.lab import wait_until
from tests.journeys.test_gated_promotion import LONG_S, SHIPPED, TRAINER, Lab, lab, shifted

pytest.importorskip("rclpy")
pytest.importorskip("pybullet")
pytestmark = pytest.mark.slow
__all__ = ["lab"]

TASK = "push"
JOB = {
    "refine_iterations": 0, "judge_iterations": 0, "groups": 2, "group_size": 4, "grpo_iterations": 2,
    "candidate_every": 1, "check": False,
}  # fmt: skip
"""Small, in the shipped dream, its audit asked for nothing: what it makes of few episodes is not looked at here."""
FIRST_LOOK = "to see it against what runs before the gate has time for it"


def begun(lab: Lab) -> str:
    """Start the robot with a policy that the trainer has; returns the policy's id."""
    beside = shifted(lab.folder / "base", [(0.0, -0.02, 0.0)] * 5)
    lab.root("weights", "publish", "base", "--robot", "sim-0")  # no robot has said yet that it asks for a record
    words = ("--robot", "sim", "--name", "sim-0", "--trainer", TRAINER, "--identity", "identities/sim-0", "--orders")
    lab.up = lab.hosts.robot.start("up", *words, "--policy", "base", "--gate", "required", env={"MUJOCO_GL": "egl"},
                                   cwd=lab.folder)  # fmt: skip
    wait_until(lambda: lab.runs() == beside, "the robot's word of what it runs", LONG_S)
    return beside


def candidates(lab: Lab) -> list[str]:
    """Ids of what an improve job leaves that learns from episodes of this robot."""
    lab.root("queue", "add", "episode", "--robot", "sim-0", "--tasks", TASK, "--count", "16", "--wait")
    kinds = {kind: read_manifest(SHIPPED.parent / kind).id for kind in ("policy", "world_model", "judge")}
    spec = json.dumps({**kinds, "seed": 0, "config": JOB})
    job = lab.root("jobs", "submit", "improve", "--spec", spec, "--watch")
    return [candidate["id"] for candidate in job["result"]["candidates"]]


def tried(lab: Lab, candidate: str) -> dict[str, Any]:
    """Its trial against what the robot runs, which it wins."""
    view = lab.root("operate", "try", candidate, "--robot", "sim-0", "--instruction", TASK, "--wait")
    assert (view["state"], view["card"]["decision"]) == ("decided", "promote"), view
    return dict(view)


def test_a_won_trial_puts_a_candidate_on_the_arm_with_the_gates_record_and_not_without(lab: Lab) -> None:
    beside = begun(lab)
    first, second = candidates(lab)
    lab.root("operate", "promote", second, "--robot", "sim-0", code=3)  # no trial yet

    lab.root("operate", "offer", first, "--robot", "sim-0", "--override-gate", FIRST_LOOK)  # for its trial alone
    assert tried(lab, first)["incumbent"] == beside
    before = lab.releases()
    refused = lab.root("operate", "promote", first, "--robot", "sim-0", code=3)
    assert refused["message"].startswith(
        f"{first} is not released: sim-0 (runs {beside}) requires a gate record against what it runs"
    )
    assert f"gymnast operate gate {first} --robot sim-0" in refused["message"]
    assert lab.releases() == before

    offered = lab.root("operate", "offer", second, "--robot", "sim-0", "--wait")
    [record] = lab.root("operate", "gates", second)["gates"]
    assert offered["gates"][0].startswith(f"{record['id']} passed")
    assert (record["candidate"], record["incumbent"]) == (second, beside)
    card = tried(lab, second)["card"]
    assert (card["candidate"], card["incumbent"]) == (second, beside)
    assert lab.runs() == beside, "a trial moves the arm, and nothing else"
    promoted = lab.root("operate", "promote", second, "--robot", "sim-0")
    release = lab.releases()[-1]
    assert (release["sequence"], release["checkpoint_id"]) == (promoted["release"], second)
    assert release["gate"]["record"] == record["id"]
    wait_until(lambda: lab.runs() == second, "the robot to run it", LONG_S)
    wait_until(lambda: lab.robot()["gate"]["how"] == "passed", "its word of the gate", LONG_S)
    assert lab.robot()["gate"]["record"] == record["id"]
