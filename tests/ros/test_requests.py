"""Requests to a running robot: one message each, so that callers at once each get what they asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String

from gymnast_core.episodes import read_episode
from gymnast_core.errors import EstopLatchedError, ShapeError
from gymnast_ros.nodes import messages, topics
from gymnast_ros.nodes.client import GraphClient, RobotRefusedError
from gymnast_ros.run.codec import Answer, BadRequestError, Failure, RobotBusyError, checked, from_wire, opened, to_wire
from gymnast_ros.run.dispatch import Began, Dispatcher
from gymnast_ros.run.requests import KINDS, ROLLOUT, Annotate, Cancel, Label, RunEpisode
from tests.ros.conftest import wait_until

NOTES_EACH = 25


@pytest.fixture
def other(graph, domain_id) -> Iterator[GraphClient]:
    with GraphClient(domain_id=domain_id, folder=graph.config.folder) as second:
        second.wait_ready(30.0)
        yield second


@pytest.fixture
def awaited_label(client, replay) -> Iterator[Any]:
    """An episode that is being recorded until somebody labels it, and the file name of its recording."""
    still = replay(np.tile([0, 0, 0, 0, 0, 0, 1.0], (15, 1)))
    client.set(ROLLOUT, {"auto_label": False, "label_timeout_s": 120.0})
    try:
        pending = client.ask(RunEpisode(instruction="lift", seed=2, checkpoint=still))
        client.wait_for(topics.ROLLOUT_STATUS, lambda status: status["state"] == "awaiting_label", 30.0)
        yield pending
    finally:
        client.set(ROLLOUT, {"auto_label": True, "label_timeout_s": 0.0})


def test_two_callers_who_interleave_each_get_what_they_asked_for(graph, client, other, awaited_label) -> None:
    start = threading.Barrier(2)

    def annotate(caller: GraphClient, name: str) -> None:
        start.wait()
        for number in range(NOTES_EACH):
            caller.annotate(f"{name} {number}", f"operator:{name}")

    with ThreadPoolExecutor(2) as both:
        list(both.map(annotate, (client, other), ("ada", "bob")))
    other.label("failure", "operator:bob")
    result = client.wait_for(topics.ROLLOUT_RESULT, lambda value: value["run_id"] == awaited_label.first.message, 20.0)
    (path,) = (graph.config.folder / "spool" / "pending").glob(f"{result['episode']['episode_id']}*")
    noted = [(note["text"], note["by"]) for note in read_episode(path).metadata["annotations"]]
    wanted = [(f"{name} {number}", f"operator:{name}") for name in ("ada", "bob") for number in range(NOTES_EACH)]
    assert sorted(noted) == sorted(wanted)
    wait_until(lambda: bool(client.status) and awaited_label.last is not None, 20.0, "the answer to the first request")
    assert awaited_label.last.result["episode"] == result["episode"]


def test_an_answer_goes_to_the_one_who_asked(client, other, replay) -> None:
    slow = replay(np.tile([0, 0, 0, 0, 0, 0, 1.0], (15, 1)))
    with ThreadPoolExecutor(1) as beside:
        first = beside.submit(
            client.evaluate, tasks=["lift"], seed_start=70, seed_count=3, checkpoints=[slow], timeout_s=60.0
        )
        other.wait_for(topics.ROLLOUT_STATUS, lambda status: status["state"] == "running", 20.0)
        with pytest.raises(RobotBusyError, match="busy with evaluate"):
            other.run_episode(instruction="lift", seed=5, checkpoint=slow)
        assert [row["seed"] for row in first.result(60.0)["episodes"]] == [70, 71, 72]
    assert other.run_episode(instruction="lift", seed=5, checkpoint=slow)["seed"] == 5
    client.estop()
    with pytest.raises(EstopLatchedError):
        other.evaluate(tasks=["lift"], seed_start=1, seed_count=1, checkpoints=[slow])
    client.re_arm()


class Wire:
    """Speaks and hears the JSON itself, as a program in another language would."""

    def __init__(self, context: object) -> None:
        self.node = Node("wire", context=context)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self.node)
        self.answers: list[dict[str, Any]] = []
        self._requests = self.node.create_publisher(String, topics.request_topic(ROLLOUT), topics.REQUESTS)
        self.node.create_subscription(
            String, topics.answer_topic(ROLLOUT), lambda message: self.answers.append(messages.from_json(message)),
            topics.REQUESTS,
        )  # fmt: skip
        wait_until(lambda: self._requests.get_subscription_count() > 0, 20.0, "the rollout node")

    def ask(self, request_id: str, operation: str, **arguments: Any) -> dict[str, Any]:
        """Send until answered; returns the newest answer to this id."""
        asked = messages.to_json({"id": request_id, "operation": operation, "arguments": arguments})
        before = len(self.answers)

        def answered() -> bool:
            self._executor.spin_once(timeout_sec=0.5)
            found = [answer for answer in self.answers[before:] if answer["id"] == request_id]
            if not found:
                self._requests.publish(asked)
            return bool(found)

        wait_until(answered, 30.0, f"an answer to {request_id}")
        return [answer for answer in self.answers if answer["id"] == request_id][-1]


@pytest.fixture
def wire(graph, client, context) -> Iterator[Wire]:
    wire = Wire(context)
    yield wire
    wire.node.destroy_node()


def test_a_request_sent_again_is_done_once(graph, client, wire, awaited_label) -> None:
    for _ in range(3):
        assert wire.ask("note-1", "annotate", text="slipped")["failure"] is None
    assert wire.ask("label-1", "label", label="failure")["failure"] is None
    assert wire.ask("label-1", "label", label="failure")["failure"] is None, "the first answer again"
    run = awaited_label.first.message
    row = client.wait_for(topics.ROLLOUT_RESULT, lambda value: value["run_id"] == run, 20.0)["episode"]
    (path,) = (graph.config.folder / "spool" / "pending").glob(f"{row['episode_id']}*")
    assert [note["text"] for note in read_episode(path).metadata["annotations"]] == ["slipped"]
    assert wire.ask("label-2", "label", label="failure")["failure"]["error"] == "NothingToDoError"


@pytest.mark.parametrize(
    ("operation", "arguments", "named"),
    [
        ("run_episode", {"instruction": "lift", "seed": 1, "sede": 2}, "there is no 'sede'"),
        ("run_episode", {"instruction": "lift"}, "seed is missing"),
        ("run_episode", {"instruction": "lift", "seed": True}, "seed=True"),
        ("run_episode", {"instruction": "lift", "seed": -1}, "seed=-1"),
        ("run_episode", {"instruction": "lift", "seed": 1, "purpose": "fun"}, "purpose='fun': must be one of collect"),
        ("evaluate", {"tasks": [], "seed_start": 0, "seed_count": 1}, "tasks="),
        ("label", {"label": "great"}, "label='great': must be one of success, failure, discard"),
        ("swap", {}, "rollout knows no operation 'swap'; it knows run_episode, evaluate"),
        ("re_arm", {}, "rollout knows no operation 're_arm'"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_by_name(wire, operation, arguments, named) -> None:
    failure = wire.ask(f"bad-{operation}-{len(str(arguments))}", operation, **arguments)["failure"]
    assert (failure["error"], named in failure["message"]) == ("BadRequestError", True), failure


def test_services_of_the_same_name_reach_the_same_handler(client) -> None:
    client.set(ROLLOUT, {"tasks": [" "]})
    with pytest.raises(RobotRefusedError, match=r"evaluate: tasks.0=' ': must not be blank"):
        client.call(f"{ROLLOUT}/evaluate")
    with pytest.raises(RobotRefusedError, match="no episode is waiting for a label"):
        client.call(topics.LABEL_SUCCESS)


scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)


requests = st.fixed_dictionaries(
    {"id": values | st.just("1"), "operation": values | st.sampled_from([*KINDS])},
    optional={"arguments": values, "x": values},
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values | requests.filter(lambda value: value.get("operation") != "cancel"))
def test_no_message_is_more_than_refused(value: Any) -> None:
    answers: list[Answer] = []
    dispatcher = Dispatcher(ROLLOUT, {}, answers.append)
    try:
        dispatcher.take(messages.from_json(messages.to_json(value)), lambda: None)
    except (BadRequestError, ShapeError):
        assert answers == []
    else:
        assert answers[0].failure is not None


@pytest.mark.parametrize("kind", [*KINDS.values()], ids=[*KINDS])
def test_every_request_says_what_it_needs(kind) -> None:
    with pytest.raises(BadRequestError, match=f"{kind.operation}: there is no 'surprise'|is missing"):
        checked(kind, {"surprise": 1})


def test_a_request_survives_the_wire() -> None:
    request = RunEpisode(instruction="lift", seed=2**53, checkpoint="replay:/x")
    assert opened(from_wire(to_wire("1", request)), ROLLOUT) == request


def test_a_run_that_ends_before_its_acceptance_is_answered_in_order() -> None:
    answers: list[Answer] = []

    def begin(asked: RunEpisode) -> Began:
        thread = threading.Thread(target=dispatcher.finished, args=("run-1", {"steps": 15}, None))
        threads.append(thread)
        thread.start()
        return Began("run-1")

    threads: list[threading.Thread] = []
    dispatcher = Dispatcher(ROLLOUT, {RunEpisode: begin, Cancel: _explode, Label: _explode}, answers.append)
    dispatcher.take(to_wire("a", RunEpisode(instruction="lift", seed=1)), lambda: None)
    threads[0].join(20.0)
    assert [(answer.id, answer.done, answer.result) for answer in answers] == [
        ("a", False, {}), ("a", True, {"steps": 15}),
    ]  # fmt: skip
    dispatcher.take(to_wire("b", Cancel()), lambda: None)
    assert answers[-1].failure == Failure(error="ZeroDivisionError", message="division by zero")
    with pytest.raises(ZeroDivisionError):
        dispatcher.handle(Label(label="success"))
    with pytest.raises(BadRequestError, match="text"):
        checked(Annotate, {"text": "x" * 2001})


def _explode(asked: object) -> str:
    return str(1 / 0)
