"""The bridge node between a running robot and a running trainer: episodes up, checkpoints down, jobs, swaps."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rcl_interfaces.srv import GetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String

from cloud_trainer.service import JobContext, Service, ServiceConfig, enroll
from cloud_trainer.service.auth import INSECURE_PEER
from gymnast_core.arm.mark import Marker
from gymnast_core.episodes import read_episode
from gymnast_core.evaluation.recognition import SceneRecogniser
from gymnast_core.evaluation.scene import Fingerprint
from gymnast_core.policies.compact import ActionBins, CompactNetwork, CompactPolicy, CompactPolicyConfig
from gymnast_ros.arguments import config_from
from gymnast_ros.bringup import Graph, GraphConfig
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.client import GraphClient, RobotRefusedError
from gymnast_ros.run.codec import to_wire
from gymnast_ros.run.requests import BRIDGE, ROLLOUT, CancelJob, Rollback, SubmitJob, Swap, TrainHere
from tests.hostile.stranger import Stranger
from tests.ros.conftest import wait_until

SMALL = CompactPolicyConfig(widths=(4, 4, 4), hidden=8, head=8, text_dim=4)


def checkpoint(folder: Path, seed: int) -> str:
    """A policy that knows nothing, and its id."""
    torch.manual_seed(seed)
    low = np.array([-0.02] * 3 + [-0.001] * 3 + [0.0], np.float32)
    high = np.array([0.02] * 3 + [0.001] * 3 + [1.0], np.float32)
    return CompactPolicy(CompactNetwork(SMALL), ActionBins(low, high, SMALL.bins)).save(folder).id


def count_to(context: JobContext) -> dict[str, object]:
    for number in range(int(context.job.spec["n"])):
        context.emit("progress", {"done": number + 1})
    return {"answer": 42}


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Service]:
    running = Service(ServiceConfig(folder=tmp_path_factory.mktemp("trainer")), runner=count_to)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("base") / "checkpoint"
    return folder, checkpoint(folder, 0)


@pytest.fixture(scope="module")
def graph(domain_id, service, base, tmp_path_factory) -> Iterator[Graph]:
    identity = enroll(service.authority, "sim-0", "robot", out=tmp_path_factory.mktemp("identity") / "robot")
    config = GraphConfig(
        folder=tmp_path_factory.mktemp("robot"), domain_id=domain_id, trainer=service.address, identity=identity,
        policy=str(base[0]),
    )  # fmt: skip
    with Graph(config) as running:
        yield running


@pytest.fixture(scope="module")
def client(graph, domain_id) -> Iterator[GraphClient]:
    with GraphClient(domain_id=domain_id, folder=graph.config.folder) as connected:
        connected.wait_ready(120.0)
        yield connected


def test_recorded_episodes_reach_the_trainer_and_leave_the_spool(graph, client, service, base) -> None:
    result = client.evaluate(tasks=["lift"], seed_start=1, seed_count=3, temperature_seed=0, record=True)
    client.flush(30.0)
    sent = {row["episode_id"] for row in result["episodes"]}
    wait_until(lambda: {row.episode_id for row in service.episodes.list()} == sent, 10.0, "validation of the episodes")
    assert not list((graph.config.folder / "spool" / "pending").iterdir())
    assert {row["policy"] for row in result["episodes"]} == {base[1]}


def test_what_is_no_episode_in_the_spool_is_named_in_the_bridges_status(graph, client) -> None:
    stray = graph.config.folder / "spool" / "pending" / "notes.txt"
    stray.write_text("not an episode")
    assert client.wait_for("bridge/status", lambda status: bool(status["strays"]), 30.0)["strays"] == ["notes.txt"]
    stray.unlink()
    client.wait_for("bridge/status", lambda status: not status["strays"], 30.0)


def test_the_trainer_sees_the_robot_live(client, service, base) -> None:
    def seen() -> dict:
        reports = service.robots.of_tenant("default")
        return dict(reports[0].status, frame=reports[0].frame, robot=reports[0].robot) if reports else {"frame": b""}

    client.run_episode(instruction="lift", seed=3, record=False)
    wait_until(lambda: seen()["frame"][:3] == b"\xff\xd8\xff", 20.0, "a picture")
    wait_until(lambda: seen()["state"] == "idle", 20.0, "the idle robot")
    assert (seen()["robot"], seen()["policy_version"], seen()["estop"]) == ("sim-0", client.policy_version, False)
    client.estop()
    wait_until(lambda: seen()["estop"], 20.0, "the e-stop")
    assert seen()["estop_reason"]
    client.re_arm()
    wait_until(lambda: not seen()["estop"], 20.0, "the re-armed robot")


def test_published_checkpoint_is_staged_swapped_and_rolled_back(client, service, base, tmp_path) -> None:
    better = checkpoint(tmp_path / "better", 1)
    service.publisher.publish("default", tmp_path / "better")
    client.wait_staged([better], 30.0)
    assert client.policy_version == base[1]
    result = client.evaluate(tasks=["lift"], seed_start=1, seed_count=1, checkpoints=[base[1], better])
    assert set(result["policies"]) == {base[1], better}
    assert client.swap(better) == better
    assert client.run_episode(instruction="lift", seed=1, record=False)["policy"] == better
    assert client.rollback() == base[1]
    assert client.run_episode(instruction="lift", seed=1, record=False)["policy"] == base[1]


def spinner(folder: Path) -> str:
    """A policy that pitches the gripper until no joint angles are left, and goes on asking; and its id."""
    torch.manual_seed(5)
    low = np.array([0.0, 0.0, 0.0, 0.0, 0.2, 0.0, 0.0], np.float32)
    high = np.array([0.001, 0.001, 0.001, 0.001, 0.25, 0.001, 1.0], np.float32)
    return CompactPolicy(CompactNetwork(SMALL), ActionBins(low, high, SMALL.bins)).save(folder).id


def test_policy_that_misbehaves_on_probation_is_rolled_back_and_the_status_says_so(
    client, service, base, tmp_path
) -> None:
    bad = spinner(tmp_path / "bad")
    service.publisher.publish("default", tmp_path / "bad")
    client.wait_staged([bad], 30.0)
    assert client.swap(bad, probation_episodes=5) == bad
    client.wait_for("bridge/status", lambda status: status["probation"] is not None, 10.0)
    row = client.run_episode(instruction="lift", seed=1, record=False)
    assert row["policy"] == bad
    assert "the gate refused" in row["blame"]
    status = client.wait_for("bridge/status", lambda status: status["current"] == base[1], 10.0)
    assert "the gate refused" in status["failed"][bad]
    assert status["probation"] is None
    client.wait_for("rollout/policy_version", lambda value: value["policy_version"] == base[1], 10.0)
    assert client.run_episode(instruction="lift", seed=1, record=False)["policy"] == base[1]


def test_well_behaved_policy_passes_its_probation(client, service, base, tmp_path) -> None:
    good = checkpoint(tmp_path / "good", 3)
    service.publisher.publish("default", tmp_path / "good")
    client.wait_staged([good], 30.0)
    assert client.swap(good, probation_episodes=2) == good
    client.run_episode(instruction="lift", seed=1, record=False)
    client.wait_for("bridge/status", lambda status: (status["probation"] or {}).get("left") == 1, 10.0)
    client.run_episode(instruction="lift", seed=2, record=False)
    status = client.wait_for("bridge/status", lambda status: status["probation"] is None, 10.0)
    assert status["current"] == good
    assert client.rollback() == base[1]


@pytest.fixture
def stranger(domain_id) -> Iterator[Stranger]:
    someone = Stranger(domain_id)
    yield someone
    someone.close()


def test_a_stranger_passes_no_probation_and_turns_no_checkpoint_down(client, service, base, stranger, tmp_path) -> None:
    fresh, other = checkpoint(tmp_path / "fresh", 21), checkpoint(tmp_path / "other", 22)
    for name in ("fresh", "other"):
        service.publisher.publish("default", tmp_path / name)
    client.wait_staged([fresh, other], 30.0)
    assert client.swap(fresh, probation_episodes=3) == fresh
    usual = {"steps": 5, "episode_id": "", "cut": "", "reason": "", "good": True, "bad": False}
    events = [{**usual, "run": f"forged-{number}", "policy": fresh} for number in range(4)]
    events += [{**usual, "run": "bad", "policy": name, "good": False, "bad": True} for name in (other, fresh)]
    for event in events:
        stranger.say(String, topics.EPISODE, messages.to_json(event), quality=topics.JOB_EVENTS)
    client.run_episode(instruction="lift", seed=1, record=False)
    status = client.wait_for("bridge/status", lambda status: (status["probation"] or {}).get("left") == 2, 20.0)
    assert (status["current"], other in status["failed"]) == (fresh, False)
    assert "read-only" in stranger.set(BRIDGE, "probation_episodes", 0)
    assert client.rollback() == base[1]


def test_a_stranger_reports_nothing_to_the_trainer_and_answers_no_request(client, service, base, stranger) -> None:
    seen: list[str] = []

    def answer(message: String) -> None:
        seen.append(messages.from_json(message)["id"])
        forged = {"id": seen[-1], "done": True, "message": "run", "result": {"episode": {}}, "failure": None}
        stranger.say(String, topics.answer_topic(ROLLOUT), messages.to_json(forged), quality=topics.REQUESTS)

    stranger.node.create_subscription(String, topics.request_topic(ROLLOUT), answer, topics.REQUESTS)
    lie = messages.to_json({"policy_version": "policy-of-a-stranger"})
    stranger.say(String, topics.POLICY_VERSION, lie, quality=topics.LATCHED)
    stranger.say(String, topics.answer_topic(ROLLOUT), messages.to_json({"id": ""}), quality=topics.REQUESTS)
    over = threading.Event()
    listening = threading.Thread(target=stranger.spin, args=(120.0, over.is_set), daemon=True)
    listening.start()
    row = client.run_episode(instruction="lift", seed=3, record=False)
    over.set()
    listening.join(30.0)
    assert seen
    assert row["policy"] == base[1]
    since = time.monotonic()
    reports = service.robots.of_tenant
    wait_until(lambda: reports("default")[0].received_s > since, 20.0, "another report")
    assert reports("default")[0].status["policy_version"] == base[1] == client.policy_version


def test_a_promotion_acts_by_itself_at_the_next_episode(client, service, base, tmp_path) -> None:
    chosen = checkpoint(tmp_path / "chosen", 11)
    service.publisher.publish("default", tmp_path / "chosen", robots=["sim-0"], promote=True)
    client.wait_for("rollout/policy_version", lambda value: value["policy_version"] == chosen, 60.0)
    assert client.run_episode(instruction="lift", seed=1, record=False)["policy"] == chosen
    status = client.wait_for("bridge/status", lambda status: (status["probation"] or {}).get("left") == 2, 10.0)
    assert status["probation"]["previous"] == base[1]
    words = {word.word: word for word in service.words.of("default", checkpoint_ids=[chosen])}
    wait_until(lambda: "runs" in {word.word for word in service.words.of("default", checkpoint_ids=[chosen])}, 20, "it")
    assert set(words) <= {"runs", "ran"}
    assert client.rollback() == base[1]


def driven(client: GraphClient, graph: Graph, scene: str) -> tuple[set[str], bytes, Fingerprint]:
    """Run one; returns which versions its recorded steps name, what they asked for, and its first image."""
    client.run_episode(instruction="lift", seed=3, scene=scene)
    newest = max((graph.config.folder / "recent").glob("*.mcap"), key=lambda path: path.stat().st_mtime_ns)
    episode = read_episode(newest)
    first_HWC = next(iter(episode.images.values()))[0]
    return set(episode.policy_versions), episode.actions_TA.tobytes(), Fingerprint.of(first_HWC)


def test_each_scene_has_its_adapter_beside_an_untouched_base(graph, client, service, base, tmp_path) -> None:
    """Attached by the first image of an episode, before anything moves, and detached where the scene is left."""
    untouched = {path.name: path.read_bytes() for path in base[0].iterdir()}
    seen = {scene: driven(client, graph, scene) for scene in ("standard", "dark_table", "evening")}
    adapters = {}
    for number, scene in enumerate(("dark_table", "evening")):
        adapters[scene] = checkpoint(tmp_path / scene, 40 + number)  # no other test rolls these back
        service.publisher.publish("default", tmp_path / scene, robots=["sim-0"])
    client.wait_staged(list(adapters.values()), 240.0)
    for scene, name in adapters.items():
        others = [image for other, (_, _, image) in seen.items() if other != scene]
        recogniser = SceneRecogniser.fitted([seen[scene][2]], others).to_json()
        assert client.attach(name, scene=scene, recogniser=recogniser) == base[1]
    assert client.policy_version == base[1], "the base is in force"
    assert driven(client, graph, "evening")[0] == {adapters["evening"]}
    assert driven(client, graph, "dark_table")[0] == {adapters["dark_table"]}
    assert driven(client, graph, "standard")[:2] == ({base[1]}, seen["standard"][1]), "to the bit what the base did"
    held = graph.config.folder / "store" / "checkpoints" / base[1]
    assert {name: (held / name).read_bytes() for name in untouched} == untouched

    def told() -> list[str]:
        return [one["scene"] for one in service.robots.of_tenant("default")[0].status["weights"]["adapters"]]

    wait_until(lambda: told() == ["dark_table", "evening"], 60.0, "the robot's report")
    service.handlers.robots.drop_adapter(INSECURE_PEER, "sim-0", adapters["dark_table"])
    assert told() == ["evening"]
    assert driven(client, graph, "dark_table")[0] == {base[1]}
    assert client.detach(adapters["evening"]) == adapters["evening"]


def test_swap_to_something_unknown_is_refused(client) -> None:
    with pytest.raises(RobotRefusedError, match="not staged"):
        client.swap("policy-0123456789abcdef")


def test_job_is_followed_to_its_end(client, context) -> None:
    node, events = Node("reader_of_events", context=context), list[dict]()
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    node.create_subscription(
        String, topics.JOBS, lambda message: events.append(messages.from_json(message)), topics.JOB_EVENTS
    )
    request = SubmitJob(kind="adapt", spec={"n": 3, "robot": "sim-0"}, key="count-once")
    last = client.ask_to_the_end(request, 30.0)["last"]

    def ended() -> bool:
        executor.spin_once(timeout_sec=0.1)
        return bool(events) and events[-1] == last

    wait_until(ended, 20.0, "the events of the job")
    assert [event["data"]["done"] for event in events if event["kind"] == "progress"] == [1, 2, 3]
    assert {event["job_id"] for event in events} == {last["job_id"]}
    executor.shutdown()
    node.destroy_node()


@pytest.mark.parametrize(
    ("kind", "spec"), [("improve", {"robot": "sim-0"}), ("adapt", {"robot": "arm-7"}), ("adapt", {})]
)
def test_a_robot_asks_for_its_own_adaptations_alone(client, kind, spec) -> None:
    with pytest.raises(RobotRefusedError, match="adapt jobs of its own alone"):
        client.ask_to_the_end(SubmitJob(kind=kind, spec=spec, key=f"not-mine-{kind}-{len(spec)}"), 30.0)


MARKED = (
    SubmitJob(kind="adapt", spec={"n": 3, "robot": "sim-0"}, key="stranger"), CancelJob(job_id="job-1"), Swap(),
    Rollback(), TrainHere(instruction="lift", approve=True),
)  # fmt: skip


def test_a_stranger_in_the_domain_has_the_robot_do_nothing_in_its_own_name(graph, client, service, context) -> None:
    """Without a mark, with one of another key, with one that was heard of another request, and by the services."""
    heard = Node("reader_of_requests", context=context)
    messages_heard: list[dict] = []
    heard.create_subscription(
        String, topics.request_topic(BRIDGE), lambda message: messages_heard.append(messages.from_json(message)),
        topics.REQUESTS,
    )  # fmt: skip
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(heard)
    jobs, current = len(service.jobs.list("default")), client.policy_version

    def operators_mark() -> str:
        with pytest.raises(RobotRefusedError):
            client.ask(Swap(checkpoint_id="policy-nowhere"))
        executor.spin_once(timeout_sec=0.2)
        return next((str(value["mark"]) for value in reversed(messages_heard) if "mark" in value), "")

    wait_until(lambda: bool(operators_mark()), 60.0, "a request to overhear")
    with GraphClient(domain_id=graph.config.domain_id) as stranger:
        stranger.wait_ready(120.0)
        for request in MARKED:
            with pytest.raises(
                RobotRefusedError, match="UnmarkedRequestError: this needs the key of the robot's graph"
            ):
                stranger.ask(request)
        for number, mark in enumerate(("", "1.2", "x" * 10_000, operators_mark(), forged_mark())):
            for request in MARKED:
                answers = publish_and_hear(
                    heard, executor, {**to_wire(f"f{number}-{request.operation}", request), "mark": mark}
                )
                assert answers["failure"]["error"] == "UnmarkedRequestError", answers
        job = '{"kind": "adapt", "spec": {"n": 1, "robot": "sim-0"}, "key": "stranger"}'
        stranger.set("bridge", {"job": job, "job_id": "job-1", "ttt_instruction": "lift"})
        for service_name in ("submit_job", "cancel_job", "swap", "rollback", "test_time_train"):
            with pytest.raises(RobotRefusedError, match="anybody on the domain may call"):
                stranger.call(f"bridge/{service_name}")
    executor.shutdown()
    heard.destroy_node()
    assert len(service.jobs.list("default")) == jobs
    assert client.policy_version == current


def forged_mark() -> str:
    return Marker(secrets.token_bytes(32), topics.request_topic(BRIDGE)).mark(b"{}")


def publish_and_hear(node: Node, executor: SingleThreadedExecutor, value: dict) -> dict:
    """Send a request as it is and return its answer."""
    answers: list[dict] = []

    def hear(message: String) -> None:
        answers.extend(found for found in [messages.from_json(message)] if found.get("id") == value["id"])

    publisher = node.create_publisher(String, topics.request_topic(BRIDGE), topics.REQUESTS)
    subscription = node.create_subscription(String, topics.answer_topic(BRIDGE), hear, topics.REQUESTS)

    def answered() -> bool:
        publisher.publish(messages.to_json(value))
        executor.spin_once(timeout_sec=0.1)
        return bool(answers)

    wait_until(answered, 60.0, "an answer")
    node.destroy_subscription(subscription)
    node.destroy_publisher(publisher)
    return answers[0]


def test_killed_bridge_loses_nothing(graph, client, service) -> None:
    before = {row.episode_id for row in service.episodes.list()}
    os.kill(graph.pids["bridge"], signal.SIGKILL)
    result = client.evaluate(tasks=["lift"], seed_start=9, seed_count=2, temperature_seed=0, record=True)
    wait_until(lambda: graph.restarts["bridge"] >= 1, 10.0, "respawn")
    sent = {row["episode_id"] for row in result["episodes"]}
    wait_until(
        lambda: {row.episode_id for row in service.episodes.list()} >= before | sent,
        120.0,
        "episodes of a killed bridge",
    )


def ros2_lines() -> list[list[str]]:
    """The ros2 commands of README and of the robot's guide, as a shell splits them."""
    root = Path(__file__).parents[2]
    text = "".join((root / name).read_text() for name in ("README.md", "docs/robot.md")).replace("\\\n", " ")
    lines = [line.split("  #")[0].strip() for line in text.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("ros2 ")]


def test_readmes_ros2_examples_name_what_the_graph_offers(graph, client, context) -> None:
    """Names and types of topics, services and parameters, asked from the running nodes as ros2 asks them."""
    node = Node("reader_of_the_readme", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    lines = ros2_lines()
    assert {"launch", "topic", "service"} <= {line[1] for line in lines}
    wanted = {line[3] for line in lines if line[1] in ("topic", "service")}

    def known() -> dict[str, list[str]]:
        return {**dict(node.get_topic_names_and_types()), **dict(node.get_service_names_and_types())}

    wait_until(lambda: wanted <= set(known()), 20.0, f"{sorted(wanted)} on the graph")
    for words in lines:
        kind, action, name = words[1:4]
        if kind == "launch":
            assert (action, (Path("launch") / name).is_file()) == ("gymnast_ros", True), words
            config_from(dict(word.split(":=", 1) for word in words[4:]))
        elif kind in ("topic", "service"):
            given = [word for word in words[4:] if word.count("/") == 2 and not word.startswith("{")]
            assert given == [] if kind == "topic" and not given else known()[name] == given, words
        elif kind == "param":
            request, asked = GetParameters.Request(names=[words[4]]), f"{name}/get_parameters"
            service = node.create_client(GetParameters, asked)
            assert service.wait_for_service(timeout_sec=10.0), words
            future = service.call_async(request)
            executor.spin_until_future_complete(future, timeout_sec=10.0)
            assert future.result().values[0].type != 0, f"{words}: {name} declares no {words[4]}"
        else:
            assert (kind, action, Path(name).suffix) in {("bag", "info", ".mcap"), ("bag", "play", ".mcap")} or (
                kind == "lifecycle" and name == "/arm"
            ), words
    executor.shutdown()
    node.destroy_node()
