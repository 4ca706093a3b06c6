"""A policy that hangs, crashes or answers nonsense: its run ends by the deadline with the reason, nothing else does.

On the robot and on a trainer that runs one for robots; from outside: a graph, its requests, and a package's own policy.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest

from cloud_trainer.app.policy_process import PolicyProcess
from gymnast_core.errors import CheckpointError, PolicyFailedError
from gymnast_core.policies import load_policy
from gymnast_core.rollout import GuardedPolicy
from gymnast_core.shipped import shipped_checkpoints
from gymnast_core.types import Observation
from gymnast_core.wire.gymnast.v1 import policy_pb2
from gymnast_ros.graph import CHUNKING
from gymnast_ros.run.codec import checked
from gymnast_ros.run.policy_host import PolicyHost
from gymnast_ros.run.requests import RunEpisode
from gymnast_ros.shadow import StageLimits
from tests.hostile import wild_policy
from tests.hostile.forged import GOOD_JPEG
from tests.hostile.registry import Tally, attack
from tests.ros.conftest import Graph, GraphClient, GraphConfig, wait_until

ROOT = Path(__file__).parents[2]
PROMPT_S = 1.0
"""Longest wait for an answer where the answer is meant not to come."""
SEEN = Observation({"b": np.full((1, 8, 8, 3), 7, np.uint8), "a": np.zeros((1, 8, 8, 3), np.uint8)},
                   np.zeros((1, 7), np.float32), np.ones(1, np.int64))  # fmt: skip
BAD = (*wild_policy.HANGS, *wild_policy.ENDS, *wild_policy.FAILS)


@pytest.fixture
def wild(tmp_path, monkeypatch) -> Path:
    """A checkpoint of the wild policy, which every process from here on knows."""
    package = wild_policy.install(tmp_path / "package")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package), str(ROOT)]))
    return wild_policy.checkpoint(tmp_path / "wild")


def gone(pid: int | None) -> bool:
    return not Path(f"/proc/{pid}").exists()


def alive_after(host: PolicyHost, checkpoint: Path) -> bool:
    """Whether the same checkpoint, asked for something honest, still answers."""
    host.answer_s = 60.0
    chunk = GuardedPolicy(host.load(checkpoint)).act(SEEN, ["lift"])
    return chunk.actions_BKA.shape == (1, 2, 7)


@attack("policies that hang, crash or answer nonsense on the robot")
def attack_host(folder: Path, size: int) -> Tally:
    package = wild_policy.install(folder / "package")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(package), str(ROOT)])
    checkpoint, host, tally = wild_policy.checkpoint(folder / "wild"), PolicyHost("cpu"), Tally(0, 0, 0)
    try:
        for what in islice(cycle(BAD), size):
            policy = GuardedPolicy(host.load(checkpoint))
            pid, began = host.pid, time.monotonic()
            host.answer_s = PROMPT_S if what in wild_policy.HANGS else 60.0
            try:
                policy.act(SEEN, [what])
                tally += Tally(1, 1, 0)
            except PolicyFailedError as error:
                ended = what not in wild_policy.HANGS or (gone(pid) and time.monotonic() - began < 30.0)
                tally += Tally(1, 0, int(not ended or len(str(error)) > 2_000))
            tally += Tally(0, 0, int(not alive_after(host, checkpoint)))
    finally:
        host.close()
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    return tally


def test_whatever_a_policy_does_the_next_question_is_answered(tmp_path):
    assert attack_host(tmp_path, len(BAD)) == Tally(len(BAD), 0, 0)


@pytest.mark.parametrize("at_load", [wild_policy.HANGS[1], "exit", "raise odd"])
def test_a_checkpoint_that_hangs_or_ends_its_process_when_it_is_loaded_is_refused_by_name(wild, tmp_path, at_load):
    bad = wild_policy.checkpoint(tmp_path / "bad", at_load)
    host = PolicyHost("cpu", limits=StageLimits(import_s=1.0, load_s=1.0) if "hold" in at_load else None)
    try:
        with pytest.raises(CheckpointError, match=r"policy-\w+ (does not load within|cannot be loaded)|SystemExit"):
            host.load(bad)
    finally:
        host.close()


def test_a_hosted_policy_answers_bit_for_bit_as_one_in_this_process():
    folder = shipped_checkpoints() / "policy"
    images = np.random.default_rng(0).integers(0, 255, (1, 64, 64, 3), np.uint8)
    seen = Observation({"over_shoulder": images}, np.zeros((1, 7), np.float32), np.zeros(1, np.int64))
    host, here = PolicyHost("cpu"), load_policy(folder)
    host.answer_s = 60.0
    try:
        hosted = host.load(folder)
        assert (hosted.version, hosted.chunk_length) == (here.version, here.chunk_length)
        rngs = [np.random.default_rng([3, 4]) for _ in range(2)]
        for _ in range(2):
            ours, theirs = (policy.act(seen, ["lift"], rng=rng)
                            for policy, rng in zip((here, hosted), rngs, strict=True))  # fmt: skip
            np.testing.assert_array_equal(ours.actions_BKA, theirs.actions_BKA)
            assert (ours.log_probs_BKA is None) == (theirs.log_probs_BKA is None)
            for name in ours.trace:
                np.testing.assert_array_equal(ours.trace[name], theirs.trace[name])
        assert rngs[0].bit_generator.state == rngs[1].bit_generator.state
    finally:
        host.close()


def test_what_nobody_holds_is_let_go_of_and_what_somebody_holds_is_not(wild, tmp_path):
    host = PolicyHost("cpu", answer_s=60.0)
    try:
        first, again = host.load(wild), host.load(wild)
        del again
        other = host.load(wild_policy.checkpoint(tmp_path / "other", "lift"))
        assert first.act(SEEN, ["lift"]).policy_version == first.version
        del first
        other.act(SEEN, ["lift"])
        assert list(host._held) == [str(tmp_path / "other")]
    finally:
        host.close()
    with pytest.raises(CheckpointError, match="was ended with the rollout"):
        other.act(SEEN, ["lift"])


def test_a_policy_that_hangs_at_the_trainer_is_started_again_and_others_are_answered(wild):
    policy = PolicyProcess(wild, "cpu", answer_s=PROMPT_S)

    def ask(what: str) -> policy_pb2.InferReply:
        camera = policy_pb2.Camera(name="a", jpeg=[GOOD_JPEG])
        return policy.answer(policy_pb2.InferRequest(
            request_id=1, instructions=[what], cameras=[camera], proprio=[0.0] * 7, time_ns=[0]
        ))  # fmt: skip

    try:
        for what in wild_policy.HANGS[:2]:
            policy._wait_s = 60.0
            assert ask("lift").error == ""
            policy._wait_s = PROMPT_S
            with pytest.raises(PolicyFailedError, match="did not answer within 1 s; it is started again"):
                ask(what)
        policy._wait_s = 60.0
        assert ask("lift").error == ""
    finally:
        policy.close()


@pytest.fixture
def robot(wild, domain_id, tmp_path) -> Iterator[tuple[Graph, GraphClient]]:
    """A simulated arm whose policy is wild; the arm's, the gate's and the rollout's processes are real."""
    does = {"close_the_drawer": "loop", "put_the_red_cube_on_the_plate": wild_policy.HANGS[1]}
    policy = wild_policy.checkpoint(wild.with_name("told"), push_the_blue_block_to_the_left="crash", **does)
    config = GraphConfig(
        folder=tmp_path / "robot", domain_id=domain_id, policy=str(policy), parameters={"rollout": {"answer_s": 2.0}}
    )
    with Graph(config) as graph, GraphClient(domain_id=domain_id, folder=config.folder) as client:
        client.wait_ready(120.0)
        yield graph, client


def hosts_of(rollout: int) -> list[int]:
    """Process ids of the policies that a rollout runs."""
    children = Path(f"/proc/{rollout}/task").glob("*/children")
    pids = [int(pid) for path in children for pid in path.read_text().split()]
    return [pid for pid in pids if b"policy_child" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_run_whose_policy_hangs_ends_by_name_and_the_rollout_runs_the_next_one(robot) -> None:
    graph, client = robot
    for chunking in CHUNKING:
        client.set("rollout", {"chunking": chunking, "chunking_horizon": 1, "chunking_delay": 1})
        for what in ("drawer", "put", "push"):
            row = client.run_episode(instruction=what, seed=1, record=True, timeout_s=300.0)
            assert (row["truncated_reason"], row["steps"], bool(row["blame"])) == ("policy_fault", 0, True), row
            assert ("did not answer within 2 s" in row["detail"]) == (what != "push"), row
            assert client.gate["state"] == "armed"
        row = client.run_episode(instruction="lift", seed=1, record=False, timeout_s=300.0)
        assert (row["truncated_reason"], row["blame"]) == ("", ""), row
    client.set("rollout", {"answer_s": 600.0})
    client.ask(checked(RunEpisode, {"instruction": "put", "seed": 1}))
    wait_until(lambda: client.status["state"] == "running", 60.0, "the run")
    (host,) = hosts_of(graph.pids["rollout"])
    os.kill(graph.pids["rollout"], signal.SIGKILL)
    wait_until(lambda: gone(host), 60.0, "the end of a policy that hangs, with its rollout")
    wait_until(lambda: graph.restarts["rollout"] > 0, 60.0, "the rollout's successor")
    wait_until(lambda: client.status.get("state") == "idle", 120.0, "the successor's readiness")
    row = client.run_episode(instruction="lift", seed=1, record=False, timeout_s=300.0)
    assert (row["truncated_reason"], row["blame"]) == ("", ""), row
