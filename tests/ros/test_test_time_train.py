"""The service rollout/test_time_train: real nodes, real mutual TLS, a trainer whose job is steered by the test."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cloud_trainer.progress import CancelledError
from cloud_trainer.service import JobContext, Service, ServiceConfig, enroll
from gymnast_core.errors import NotTrustedError
from gymnast_core.manifest import read_manifest
from gymnast_ros.bringup import Graph, GraphConfig
from gymnast_ros.nodes.client import GraphClient, RobotRefusedError
from tests.cloud.learning_fakes import tiny_policy
from tests.ros.conftest import wait_until

HERE = {"instruction": "lift", "scene": "evening", "episodes": 2, "seed_start": 5, "timeout_s": 90.0}
HOLD = threading.Event()
SEEN: list[dict[str, Any]] = []


def practise(context: JobContext) -> Mapping[str, Any]:
    """A training job: what the robot asked for is kept, `config` says how it ends."""
    spec = dict(context.job.spec)
    context.episodes.settle(20)
    SEEN.append({**spec, "recorded": [row.metadata.get("scene") for row in context.episodes.list()]})
    context.emit("progress", stage="grpo", step=1, total=3, metrics={"imagined_reward": 0.25})
    config = dict(spec["config"])
    if config.get("refuse"):
        raise NotTrustedError("world model fails its audit: agreement 0.40 < 0.7")
    if config.get("forget"):
        return {"candidates": [], "refused": "may forget up to 0.30 of success on the other tasks"}
    if config.get("hold"):
        while not HOLD.wait(0.05):
            if context.cancelled():
                raise CancelledError("cancelled after 1 of 3 iterations")
    folder = context.folder / "candidate"
    if not folder.exists():
        tiny_policy(int(spec["seed"]) + 1).save(folder)
    context.publish(folder)
    return {"candidates": [{"id": read_manifest(folder).id, "iteration": 1}]}


@pytest.fixture(scope="module")
def graph(domain_id, tmp_path_factory) -> Iterator[Graph]:
    folder = tmp_path_factory.mktemp("ttt")
    tiny_policy(0).save(folder / "base")
    with Service(ServiceConfig(folder=folder / "trainer"), runner=practise) as service:
        robot = enroll(service.authority, "sim-0", "robot", out=folder / "robot-identity")
        config = GraphConfig(
            folder=folder / "robot", domain_id=domain_id, trainer=service.address, identity=robot,
            policy=str(folder / "base"),
        )  # fmt: skip
        with Graph(config) as running:
            yield running
        HOLD.set()


@pytest.fixture(scope="module")
def client(graph, domain_id) -> Iterator[GraphClient]:
    with GraphClient(domain_id=domain_id) as connected:
        connected.wait_ready(60.0)
        yield connected


@pytest.fixture(scope="module")
def base(graph) -> str:
    return read_manifest(Path(graph.config.policy)).id


def test_start_frames_go_up_and_an_adapted_checkpoint_is_staged_with_the_next_step_named(client, base) -> None:
    told: list[dict[str, Any]] = []
    answer = client.test_time_train(**HERE, seed=3, budget_s=7.0, rollouts=99, mode="lora", progress=told.append)
    asked = SEEN[-1]
    wanted = {
        "robot": "sim-0", "policy": base, "scene": "evening", "instruction": "lift the red cube", "budget_s": 7.0,
        "rollouts": 99, "mode": "lora",
    }  # fmt: skip
    assert {name: asked[name] for name in wanted} == wanted
    assert asked["recorded"] == ["evening", "evening"]
    assert (answer["state"], answer["reason"]) == ("ready", "")
    client.wait_staged([answer["candidate"]], 10.0)
    assert client.policy_version == base  # nothing is swapped by itself
    status = client.wait_for("rollout/status", lambda value: value["state"] == "idle", 10.0)
    assert f"set swap_to of bridge to '{answer['candidate']}'" in status["next"]
    assert any(row.get("metrics") == {"imagined_reward": 0.25} for row in told)
    assert client.swap(answer["candidate"]) == answer["candidate"]
    assert client.rollback() == base


@pytest.mark.parametrize(
    ("config", "reason"), [({"refuse": True}, "agreement 0.40 < 0.7"), ({"forget": True}, "may forget up to 0.30")]
)
def test_a_dream_that_is_not_trusted_or_forgets_brings_no_candidate_and_says_why(client, base, config, reason) -> None:
    answer = client.test_time_train(**{**HERE, "episodes": 0}, config=config)
    assert (answer["state"], answer["candidate"]) == ("refused", "")
    assert reason in answer["reason"]
    assert client.policy_version == base


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"mode": "half"}, "must be one of full, lora"),
        ({"budget_s": 0.0}, "ttt_budget_s"),
        ({"rollouts": -1}, "ttt_rollouts"),
        ({"instruction": "  "}, "instruction is empty"),
        ({"scene": ""}, "scene is empty"),
    ],
)
def test_bad_values_are_refused_by_name(client, values, named) -> None:
    with pytest.raises(RobotRefusedError, match=named):
        client.test_time_train(**{**HERE, "episodes": 0, **values})


def test_cancel_ends_the_job_and_leaves_the_robot_ready(client, base) -> None:
    cancelled = []

    def cancel_once(status: dict[str, Any]) -> None:
        if status.get("stage") == "grpo" and not cancelled:
            cancelled.append(status)

    client.set(
        "rollout", {"instruction": "lift", "scene": "evening", "ttt_episodes": 0, "ttt_config": '{"hold": true}'}
    )
    run_id = client.call("rollout/test_time_train")
    client.wait_for("rollout/status", lambda value: value.get("stage") == "grpo", 40.0, cancel_once)
    with pytest.raises(RobotRefusedError, match="busy with test_time_train"):
        client.call("rollout/test_time_train")
    client.cancel()
    result = client.wait_for("rollout/result", lambda value: value["run_id"] == run_id, 40.0)
    assert result["adaptation"]["state"] == "cancelled"
    client.set("rollout", {"ttt_config": "{}"})
    assert client.run_episode(instruction="lift", seed=1, record=False)["policy"] == base


def test_a_bridge_killed_in_the_middle_finds_the_same_job_again(graph, client) -> None:
    before = len(SEEN)
    client.set("rollout", {"ttt_config": '{"hold": true}', "ttt_episodes": 0, "ttt_seed": 8})
    run_id = client.call("rollout/test_time_train")
    client.wait_for("rollout/status", lambda value: value.get("stage") == "grpo", 40.0)
    restarts = graph.restarts["bridge"]
    os.kill(graph.pids["bridge"], signal.SIGKILL)
    wait_until(lambda: graph.restarts["bridge"] > restarts, 20.0, "respawn")
    HOLD.set()
    result = client.wait_for("rollout/result", lambda value: value["run_id"] == run_id, 60.0)
    assert result["adaptation"]["state"] == "ready"
    assert len(SEEN) == before + 1  # one job, not two
