"""The rollout node as an operator meets it: services, results, recordings, stops; real processes throughout."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gymnast_core.episodes import read_episode
from gymnast_core.errors import EstopLatchedError
from gymnast_core.evaluation.attempts import Retry
from gymnast_core.records.manifest import write_checkpoint
from gymnast_core.types import Outcome
from gymnast_ros.bringup import Graph, GraphConfig
from gymnast_ros.nodes.client import GraphClient, RobotRefusedError, RobotSilentError
from gymnast_ros.run.codec import BadRequestError, RobotBusyError
from tests.bridge.openpi_parts import served
from tests.cloud.learning_fakes import tiny_policy
from tests.ros.conftest import wait_until


@pytest.fixture(scope="module")
def graph(domain_id: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    """As everywhere, and a trainer's policy may answer it without TLS."""
    folder, insecure = tmp_path_factory.mktemp("robot"), {"rollout": {"insecure": True}}
    with Graph(GraphConfig(folder=folder, domain_id=domain_id, parameters=insecure)) as running:
        yield running


@pytest.fixture
def still(replay) -> str:
    """A policy that stands still for a whole episode."""
    return replay(np.tile([0, 0, 0, 0, 0, 0, 1.0], (15, 1)))


def recordings(graph: Graph) -> list[Path]:
    return sorted((graph.config.folder / "spool" / "pending").glob("*.mcap"))


def recording(graph: Graph, episode_id: str) -> Path:
    (path,) = (path for path in recordings(graph) if path.name.startswith(episode_id))
    return path


def test_episode_is_recorded_as_the_arm_was_told(graph, client, replay) -> None:
    wild = replay(np.random.default_rng(0).normal(0, 0.1, (15, 7)))
    row = client.run_episode(instruction="lift", seed=3, checkpoint=wild)
    assert (row["steps"], row["success"], row["labelled_by"]) == (15, False, "operator:sim")
    assert row["interventions"] > 0
    episode = read_episode(recording(graph, row["episode_id"]))
    assert episode.instruction == "lift the red cube"
    assert episode.outcome is Outcome.FAILURE
    assert episode.steps == 15
    assert np.abs(episode.actions_TA[:, :3]).max() <= 0.05 + 1e-6
    assert set(episode.policy_versions) == {row["policy"]}
    assert episode.metadata["task"] == "lift"


def test_real_time_chunking_runs_the_policy_beside_the_loop(graph, client, replay, still, tmp_path) -> None:
    saved = tiny_policy().save(tmp_path / "policy")
    client.set("rollout", {"chunking": "real_time", "chunking_horizon": 2, "chunking_delay": 1})
    try:
        row = client.run_episode(instruction="lift", seed=3, checkpoint=str(tmp_path / "policy"))
        played = client.run_episode(instruction="lift", seed=3, checkpoint=still)
    finally:
        client.set("rollout", {"chunking": "wait"})
    assert (row["steps"], row["policy"], row["blame"]) == (15, saved.id, "")
    chunking = read_episode(recording(graph, row["episode_id"])).metadata["chunking"]
    assert chunking["seams"] + chunking["starved"] >= 1  # the loop waits for no chunk, nor does simulated time
    assert played["steps"] == 15
    assert "chunking" not in read_episode(recording(graph, played["episode_id"])).metadata  # nothing to wait for


def test_a_remote_policy_drives_the_arm_and_its_silence_ends_the_episode(graph, client, tmp_path) -> None:
    from cloud_trainer.service import Service, ServiceConfig
    from cloud_trainer.service.policy import PolicyServicer
    from gymnast_core.wire.inference import answers

    policy, speaks = tiny_policy(), threading.Event()
    version, act = policy.save(tmp_path / "policy").id, policy.act

    def answer(*asked, **how):
        speaks.wait(20.0)
        return act(*asked, **how)

    policy.act = answer
    speaks.set()
    client.set("rollout", {"remote_deadline_s": 1.0})
    try:
        with Service(
            ServiceConfig(folder=tmp_path / "trainer", insecure=True), policy=PolicyServicer(lambda: answers(policy))
        ) as there:
            asked = {"instruction": "lift", "seed": 3, "checkpoint": f"remote:{there.address}"}
            row = client.run_episode(**asked)
            speaks.clear()
            lost = client.run_episode(**asked, record=False)
            speaks.set()
    finally:
        client.set("rollout", {"remote_deadline_s": 0.5})
    assert (row["policy"], row["steps"], row["truncated_reason"]) == (version, 15, "")
    assert (lost["truncated_reason"], lost["steps"], lost["success"], lost["blame"]) == ("link_lost", 0, None, "")
    assert read_episode(recording(graph, row["episode_id"])).steps == 15


def test_a_policy_behind_openpis_protocol_drives_the_arm_and_its_silence_ends_the_episode(graph, client) -> None:
    policy, speaks = tiny_policy(), threading.Event()
    act = policy.act

    def answer(*asked, **how):
        speaks.wait(60.0)
        return act(*asked, **how)

    policy.act = answer
    speaks.set()
    client.set("rollout", {"remote_deadline_s": 2.0})
    try:
        with served(policy) as there:
            asked = {"instruction": "lift", "seed": 3, "checkpoint": there.address.replace("ws", "openpi")}
            row = client.run_episode(**asked)
            speaks.clear()
            lost = client.run_episode(**asked, record=False)
            speaks.set()
    finally:
        client.set("rollout", {"remote_deadline_s": 0.5})
    assert row["policy"].startswith("openpi-127-0-0-1-")
    assert (row["steps"], row["truncated_reason"]) == (15, "")
    assert (lost["truncated_reason"], lost["steps"], lost["success"], lost["blame"]) == ("link_lost", 0, None, "")
    assert set(read_episode(recording(graph, row["episode_id"])).policy_versions) == {row["policy"]}


def test_evaluation_pairs_start_states_and_counts(client, still, replay) -> None:
    down = replay(np.tile([0, 0, -0.01, 0, 0, 0, 1.0], (15, 1)))
    seen: list[dict] = []
    result = client.evaluate(
        tasks=["lift", "drawer"], seed_start=7, seed_count=2, checkpoints=[still, down], progress=seen.append
    )
    assert result["complete"]
    assert [(row["task"], row["seed"]) for row in result["episodes"]] == [
        (task, seed) for seed in (7, 8) for task in ("lift", "drawer") for _ in range(2)
    ]
    for policy in result["policies"].values():
        assert (policy["n"], policy["tasks"]["lift"]["n"]) == (4, 2)
    assert seen[-1]["total"] == 8


def test_bad_requests_are_refused_with_a_reason(client, still) -> None:
    with pytest.raises(BadRequestError, match=r"tasks=\[\]: .*at least 1.*; seed_count=0: .*equal to 1"):
        client.evaluate(tasks=[], seed_start=0, seed_count=0)
    with pytest.raises(RobotRefusedError, match="neither in"):
        client.run_episode(instruction="lift", seed=0, checkpoint="/nowhere")
    with pytest.raises(RobotRefusedError, match="this robot has no trainer; start it with one, or do not retry"):
        client.run_episode(instruction="lift", seed=0, checkpoint=still, retry=Retry(max=2))
    row = client.run_episode(instruction="make coffee", seed=0, checkpoint=still)
    assert row["truncated_reason"] == "refused"
    assert "no task 'make coffee'" in row["detail"]
    assert "no scene" in client.run_episode(instruction="lift", seed=0, checkpoint=still, scene="moon")["detail"]
    with pytest.raises(RobotRefusedError, match="no scene"):
        client.evaluate(tasks=["lift"], seed_start=0, seed_count=1, checkpoints=[still], scene="moon")
    client.set("rollout", {"scene": "standard"})
    with pytest.raises(RobotRefusedError, match="range"):
        client.set("rollout", {"seed_count": 0})
    with pytest.raises(RobotRefusedError, match="nothing is running"):
        client.cancel()


def test_a_checkpoint_that_does_not_hold_what_it_says_ends_its_run_with_the_reason(client, tmp_path) -> None:
    whole = tmp_path / "whole"
    manifest = tiny_policy().save(whole)
    broken = write_checkpoint(
        tmp_path / "broken", (whole / "weights.safetensors").read_bytes(), kind="policy",
        architecture=manifest.architecture, config=manifest.config, normalisation={"low": [0.0] * 7},
    )  # fmt: skip
    with pytest.raises(RobotRefusedError, match=rf"{broken.id} .* is no compact_policy \(KeyError: 'high'\)"):
        client.run_episode(instruction="lift", seed=0, checkpoint=str(tmp_path / "broken"))


def test_busy_robot_refuses_a_second_run_and_cancel_keeps_the_recording(graph, client, still) -> None:
    before = len(recordings(graph))
    client.set("rollout", {"tasks": ["lift"], "seed_count": 500, "checkpoints": [still], "record": True})
    run_id = client.call("rollout/evaluate")
    client.wait_for("rollout/status", lambda status: status["run_id"] == run_id and status["done"] >= 1, 20.0)
    with pytest.raises(RobotRefusedError, match=f"busy with evaluate {run_id}"):
        client.call("rollout/run_episode")
    with pytest.raises(RobotBusyError, match=f"busy with evaluate {run_id}; cancel it or wait"):
        client.run_episode(instruction="lift", seed=0)
    client.cancel()
    result = client.wait_for("rollout/result", lambda value: value["run_id"] == run_id, 10.0)
    assert result["ok"]
    assert not result["complete"]
    assert len(recordings(graph)) > before


def test_ids_that_follow_from_the_seed_are_the_same_in_every_run_and_never_used_twice(graph, client, still) -> None:
    asked = {"tasks": ["lift", "push"], "seed_start": 7, "seed_count": 1, "checkpoints": [still], "record": True}
    first, again = (client.evaluate(**asked, episode_ids="demo-0-1")["episodes"] for _ in range(2))
    assert [row["episode_id"] for row in first] == ["demo-0-1-lift-7", "demo-0-1-push-7"]
    assert [row["episode_id"] for row in again] == ["demo-0-1-lift-7-2", "demo-0-1-push-7-2"]
    fresh = [row["episode_id"] for row in client.evaluate(**asked)["episodes"]]
    assert fresh == sorted(fresh), "ids sort by the time of recording"
    assert all(name.startswith("ep-") for name in fresh)


def test_an_estop_pauses_an_evaluation_and_re_arming_goes_on(graph, client, still) -> None:
    """The episode it ended counts for nothing and is repeated from its start."""
    client.set(
        "rollout", {"tasks": ["lift"], "seed_start": 40, "seed_count": 4, "checkpoints": [still], "record": True}
    )
    run_id = client.call("rollout/evaluate")
    client.wait_for("rollout/status", lambda status: status["run_id"] == run_id and status["done"] >= 1, 20.0)
    client.estop()
    paused = client.wait_for("rollout/status", lambda status: status["state"] == "paused", 10.0)
    assert "estop service called" in paused["message"]
    assert "re-arm" in paused["message"]
    client.re_arm()
    result = client.wait_for("rollout/result", lambda value: value["run_id"] == run_id, 60.0)
    assert (result["ok"], result["complete"]) == (True, True), result
    rows = json.loads(Path(result["file"]).read_text())["episodes"]
    assert [row["seed"] for row in rows] == [40, 41, 42, 43]
    assert {row["truncated_reason"] for row in rows} == {""}


def test_a_paused_evaluation_can_be_cancelled_and_a_stopped_arm_begins_none(client, still) -> None:
    client.set("rollout", {"tasks": ["lift"], "seed_count": 500, "checkpoints": [still], "record": False})
    run_id = client.call("rollout/evaluate")
    client.wait_for("rollout/status", lambda status: status["run_id"] == run_id and status["done"] >= 1, 20.0)
    client.estop()
    client.wait_for("rollout/status", lambda status: status["state"] == "paused", 10.0)
    client.cancel()
    result = client.wait_for("rollout/result", lambda value: value["run_id"] == run_id, 10.0)
    assert (result["ok"], result["complete"]) == (True, False)
    with pytest.raises(EstopLatchedError, match=r"estop service called\); re-arm it"):
        client.evaluate(tasks=["lift"], seed_start=1, seed_count=1, checkpoints=[still])
    row = client.run_episode(instruction="lift", seed=1, checkpoint=still)
    assert (row["truncated_reason"], row["steps"], row["success"]) == ("estop", 0, None)
    client.re_arm()
    assert client.run_episode(instruction="lift", seed=1, checkpoint=still)["truncated_reason"] == ""


def test_human_label_is_waited_for_and_recorded(graph, client, still) -> None:
    client.set("rollout", {"auto_label": False, "label_timeout_s": 20.0})
    try:
        values = {"instruction": "lift", "seed": 2, "checkpoint": still, "record": True}
        client.set("rollout", values)
        run_id = client.call("rollout/run_episode")
        client.wait_for("rollout/status", lambda status: status["state"] == "awaiting_label", 15.0)
        client.label("success", "operator:ada")
        row = client.wait_for("rollout/result", lambda value: value["run_id"] == run_id, 10.0)["episode"]
        assert (row["success"], row["labelled_by"]) == (True, "operator:ada")
        assert read_episode(recording(graph, row["episode_id"])).labelled_by == "operator:ada"
    finally:
        client.set("rollout", {"auto_label": True, "label_timeout_s": 0.0})


def test_annotation_lands_in_the_recording_at_its_moment(graph, client, still) -> None:
    with pytest.raises(RobotRefusedError, match="no episode is being recorded"):
        client.annotate("too early")
    with pytest.raises(BadRequestError, match="text=' ': must not be blank"):
        client.annotate(" ")
    client.set("rollout", {"auto_label": False, "label_timeout_s": 20.0})
    try:
        client.set("rollout", {"instruction": "lift", "seed": 2, "checkpoint": still, "record": True})
        run_id = client.call("rollout/run_episode")
        client.wait_for("rollout/status", lambda status: status["state"] == "awaiting_label", 15.0)
        client.annotate("cube was slippery #grasp", "operator:ada")
        client.label("failure")
        row = client.wait_for("rollout/result", lambda value: value["run_id"] == run_id, 10.0)["episode"]
        episode = read_episode(recording(graph, row["episode_id"]))
        (note,) = episode.metadata["annotations"]
        assert (note["text"], note["by"], note["step"]) == ("cube was slippery #grasp", "operator:ada", 15)
        assert note["stamp_ns"] == episode.time_ns_T[-1]
    finally:
        client.set("rollout", {"auto_label": True, "label_timeout_s": 0.0})


@pytest.mark.parametrize("victim", ["arm", "command_gate"])
def test_killed_node_comes_back_and_the_evaluation_completes(graph, client, still, victim) -> None:
    """The lost episode is kept, marked, and run again from the same start."""
    client.set("rollout", {"step_timeout_s": 1.0})
    before = {path.name for path in recordings(graph)}
    client.set(
        "rollout", {"tasks": ["lift"], "seed_start": 0, "seed_count": 12, "checkpoints": [still], "record": True}
    )
    run_id = client.call("rollout/evaluate")
    client.wait_for("rollout/status", lambda status: status["run_id"] == run_id and status["done"] >= 1, 20.0)
    os.kill(graph.pids[victim], signal.SIGKILL)
    result = client.wait_for("rollout/result", lambda value: value["run_id"] == run_id, 150.0)
    assert result["complete"], result
    assert graph.restarts[victim] >= 1
    kept = [read_episode(path) for path in recordings(graph) if path.name not in before]
    cut = [episode for episode in kept if episode.truncated_reason]
    assert {episode.truncated_reason for episode in cut} <= {"arm_lost"}
    assert len(kept) - len(cut) == 12
    client.set("rollout", {"step_timeout_s": 5.0})


def test_killed_rollout_keeps_what_it_recorded_and_answers_again(graph, client, still) -> None:
    client.set("rollout", {"tasks": ["lift"], "seed_count": 500, "checkpoints": [still], "record": True})
    before = len(recordings(graph))
    run_id = client.call("rollout/evaluate")
    client.wait_for("rollout/status", lambda status: status["run_id"] == run_id and status["done"] >= 2, 20.0)
    restarts = graph.restarts["rollout"]
    os.kill(graph.pids["rollout"], signal.SIGKILL)
    wait_until(lambda: graph.restarts["rollout"] > restarts, 10.0, "respawn")
    client.wait_for("rollout/status", lambda status: status["state"] == "idle" and status["run_id"] == "", 20.0)
    assert client.run_episode(instruction="lift", seed=1, checkpoint=still)["steps"] == 15
    kept = [read_episode(path) for path in recordings(graph)]
    assert len(kept) >= before + 3
    assert {episode.truncated_reason for episode in kept} <= {"", "crash", "cancelled", "estop", "arm_lost"}


def test_graph_ends_cleanly_while_an_episode_runs(tmp_path, domain_id, still) -> None:
    with Graph(GraphConfig(folder=tmp_path, domain_id=domain_id + 100)) as graph:
        with GraphClient(domain_id=domain_id + 100) as client:
            client.wait_ready(30.0)
            client.set("rollout", {"tasks": ["lift"], "seed_count": 500, "checkpoints": [still], "record": True})
            run_id = client.call("rollout/evaluate")
            client.wait_for("rollout/status", lambda status: status["run_id"] == run_id and status["done"] >= 1, 20.0)
        codes = graph.stop()
    assert codes == {"arm": 0, "command_gate": 0, "rollout": 0}
    assert not list((tmp_path / "spool" / "recording").glob("*.partial*"))


def test_client_without_a_graph_says_so() -> None:
    before = threading.active_count()
    with GraphClient(domain_id=99) as lonely, pytest.raises(RobotSilentError, match="is the graph running"):
        lonely.wait_ready(0.3)
    wait_until(lambda: threading.active_count() <= before, 10.0, "end of the client's threads")
