"""Verify and retry with real nodes and a trainer whose judge is asked over TLS: where it is proven it decides."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from cloud_trainer.service import Service, ServiceConfig, enroll
from cloud_trainer.store.protocols import EpisodeRow
from gymnast_cli.main import main
from gymnast_core.evaluation.attempts import Retry
from gymnast_core.outcome import Judgement
from gymnast_core.types import Outcome
from gymnast_core.wire.gymnast.v1 import judge_pb2
from gymnast_core.wire.judging import frames_from
from gymnast_ros.bringup import Graph, GraphConfig
from gymnast_ros.nodes import evaluate_once
from gymnast_ros.run.codec import BadRequestError
from tests.ros.conftest import wait_until

TASK, PROVEN = "lift the red cube", 40


class Scripted:
    """Finds what it is given, in turn; what is left of it is a failure."""

    version, taught_by = "judge-scripted", frozenset({"nothing"})

    def __init__(self) -> None:
        self.words: list[Outcome] = []
        self.asked: Counter[str] = Counter()

    def judge(self, request: judge_pb2.JudgeRequest) -> Judgement:
        (frames_FHWC,) = frames_from(request).values()
        assert frames_FHWC.shape[1:] == (256, 256, 3)
        self.asked[request.instruction] += 1
        found = self.words.pop(0) if self.words else Outcome.FAILURE
        return Judgement(found, float(found is Outcome.SUCCESS), request.frame_steps[-1], self.version, "as given")


@pytest.fixture(scope="module")
def judge() -> Scripted:
    return Scripted()


@pytest.fixture(scope="module")
def service(judge, tmp_path_factory) -> Iterator[Service]:
    """Its judge is proven on lifting in the standard scene, by forty labels for either word, and nowhere else."""
    with Service(ServiceConfig(folder=tmp_path_factory.mktemp("trainer")), judge=judge, judge_floor=0.9) as running:
        for word in (Outcome.SUCCESS, Outcome.FAILURE):
            for number in range(PROVEN):
                name = f"{word.value}-{number}"
                row = EpisodeRow(
                    0, "default", name, "old-arm", "0" * 64, 1, 0, "valid", "", TASK, word.value, "operator:ada"
                )
                running.meta.add_episodes([row])
                found = Judgement(word, 0.5, 3, judge.version, "")
                running.judgements.add("default", name, found, task=TASK, scene="standard", held_out=True)
        yield running


@pytest.fixture(scope="module")
def graph(domain_id, service, tmp_path_factory) -> Iterator[Graph]:
    identity = enroll(service.authority, "sim-0", "robot", out=tmp_path_factory.mktemp("identity") / "robot")
    folder = tmp_path_factory.mktemp("robot")
    with Graph(GraphConfig(folder=folder, domain_id=domain_id, trainer=service.address, identity=identity)) as running:
        yield running


@pytest.fixture(scope="module")
def still(replay) -> str:
    return replay(np.tile([0, 0, 0, 0, 0, 0, 1.0], (15, 1)))


def recorded(service: Service) -> dict[str, EpisodeRow]:
    return {row.episode_id: row for row in service.episodes_of("default").list(robot="sim-0", limit=1000)}


def test_the_trainers_judge_decides_and_every_attempt_arrives_there(service, client, judge, still) -> None:
    judge.words = [Outcome.FAILURE, Outcome.FAILURE, Outcome.SUCCESS]
    row = client.run_episode(instruction="lift", seed=3, checkpoint=still, retry=Retry(max=4))
    assert (row["ended"], row["success"], row["labelled_by"]) == ("success", False, "operator:sim")
    attempts = [row, *row["retries"]]
    assert [one["attempt"]["index"] for one in attempts] == [0, 1, 2]
    assert [one["judge"]["outcome"] for one in attempts] == ["failure", "failure", "success"]
    client.flush()
    wait_until(lambda: {one["episode_id"] for one in attempts} <= recorded(service).keys(), 60.0, "the episodes")
    kept = [recorded(service)[one["episode_id"]].metadata for one in attempts]
    assert [one["attempt"] for one in kept] == [{"group": row["group"], "index": n, "of": 4} for n in range(3)]
    assert kept[2]["judge"]["id"] == judge.version


def test_where_the_judge_is_not_proven_it_abstains_and_nothing_is_tried_again(client, judge, still) -> None:
    judge.words, before = [], judge.asked["push the blue block to the left"]
    row = client.run_episode(instruction="push", seed=3, checkpoint=still, retry=Retry(max=4), record=False)
    assert (row["ended"], row["retries"]) == ("abstained", [])
    assert "its precision is not proven here" in row["judge"]["reason"]
    assert judge.asked["push the blue block to the left"] - before == 1
    other = client.run_episode(
        instruction="lift", seed=3, checkpoint=still, retry=Retry(max=4, judge="judge-2"), record=False
    )
    assert other["ended"] == "abstained"
    assert "judge-scripted answers, and judge-2 was asked for" in other["judge"]["reason"]


def test_an_evaluation_from_the_command_line_keeps_the_two_apart(
    graph, client, domain_id, judge, still, tmp_path, capsys
) -> None:
    """Three starts; the first is tried twice, the second once, the third until there is no attempt left."""
    judge.words = [Outcome.FAILURE, Outcome.SUCCESS, Outcome.SUCCESS]
    words = ["evaluate", still, "--tasks", "lift", "--count", "3", "--no-record", "--retry", "2", "--domain", domain_id]
    out = tmp_path / "result.json"
    assert main(["--json", *map(str, words), "--out", str(out)]) == 0
    said = json.loads(capsys.readouterr().out)
    (policy,) = said["policies"]
    assert (policy["successes"], policy["n"]) == (0, 3), "first attempts alone"
    (figures,) = said["retried"].values()
    assert (figures["groups"], figures["of"], figures["ended"]) == (3, 2, {"exhausted": 1, "success": 2})
    assert figures["attempts"]["mean"] == pytest.approx(5 / 3)
    assert (figures["false_positives"]["k"], figures["false_positives"]["n"]) == (2, 2), "the simulator's state knows"
    written = json.loads(out.read_text())
    assert [row["attempt"]["index"] for row in written["episodes"]] == [0, 0, 0]
    assert [len(group["retries"]) for group in written["groups"]] == [1, 0, 1]


def test_the_program_of_the_launch_file_takes_it(domain_id, judge, still, monkeypatch, capsys) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain_id))
    judge.words = [Outcome.FAILURE, Outcome.SUCCESS]
    words = ["--tasks", "lift", "--seed-count", "1", "--checkpoints", still, "--retry", "3"]
    assert evaluate_once.main(words) == 0
    assert "tried again: 0/1 at first, 0/1 within 3 attempts" in capsys.readouterr().out


def test_the_services_take_it_from_parameters(client, judge, still) -> None:
    judge.words = [Outcome.FAILURE, Outcome.SUCCESS]
    client.set("rollout", {"retry_max": 3, "checkpoint": still, "instruction": "lift", "record": False})
    try:
        run = client.call("rollout/run_episode")
        result = client.wait_for("rollout/result", lambda value: value.get("run_id") == run, 60.0)
    finally:
        client.set("rollout", {"retry_max": 0})
    assert (result["episode"]["ended"], len(result["episode"]["retries"])) == ("success", 1)


def test_what_makes_no_sense_is_refused(client, still) -> None:
    with pytest.raises(BadRequestError, match=r"retry=.*a blinded comparison"):
        client.run_episode(instruction="lift", seed=3, checkpoint=still, purpose="trial", retry=Retry(max=2))
    with pytest.raises(BadRequestError, match=r"retry.max=1"):
        client.run_episode(instruction="lift", seed=3, checkpoint=still, retry={"max": 1})
