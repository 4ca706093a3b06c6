"""The endpoint judge against a real server: nothing but a clear, checked yes is ever a reward."""

import itertools
import json
import math
import threading

import pytest

from cloud_trainer.judge.cache import CachedJudge
from cloud_trainer.judge.client import Endpoint, EndpointClient
from cloud_trainer.judge.endpoint import EndpointJudge, Voting
from cloud_trainer.judge.rubric import CONTROL_INSTRUCTION, Criterion, Rubric, Rubrics
from gymnast_core.errors import ConfigError, CorruptError, RejectedBridgeError, TransientBridgeError
from gymnast_core.types import Outcome
from tests.cloud.openai_server import OpenAiServer, frames_in, grade, question_in
from tests.cloud.rollouts import noise, rollouts_of

TASK = "put the cube on the plate"


def is_control(request) -> bool:
    return CONTROL_INSTRUCTION in question_in(request)


def honest(success: bool):
    return lambda request: grade(success and not is_control(request))


def judge_with(server, *, sleeps=None, rubrics=None, attempts=3, **voting) -> EndpointJudge:
    waited = [] if sleeps is None else sleeps
    client = EndpointClient(Endpoint(server.url, "tiny-vlm", attempts=attempts), sleep=waited.append)
    return EndpointJudge(client, rubrics, Voting(**{"votes": 5, "concurrency": 1} | voting))


def verdict_of(model, **options):
    with OpenAiServer(model) as server:
        judge = judge_with(server, **options)
        (verdict,) = judge.judge(rollouts_of(noise(1), [TASK]))
        judge.client.close()
        return verdict, server


@pytest.mark.parametrize(("said", "outcome", "score"), [(True, Outcome.SUCCESS, 1.0), (False, Outcome.FAILURE, 0.0)])
def test_agreeing_votes_make_a_verdict(said, outcome, score):
    verdict, server = verdict_of(honest(said))
    assert (verdict.outcome, verdict.score) == (outcome, score)
    assert verdict.evidence["votes"] == [said] * 5
    assert len(server.requests) == (6 if said else 5)  # a success is checked once more
    assert len({request["seed"] for request in server.requests[:5]}) == 5


def test_the_request_is_what_the_protocol_wants():
    _, server = verdict_of(honest(False), max_frames=3)
    request = server.requests[0]
    assert request["model"] == "tiny-vlm"
    assert [message["role"] for message in request["messages"]] == ["system", "user"]
    assert TASK in question_in(request)
    frames = frames_in(request)
    assert len(frames) == 3
    assert frames[0].shape == (256, 256, 3)


def test_disagreement_abstains():
    verdicts = itertools.cycle([True, False])
    verdict, _ = verdict_of(lambda request: grade(next(verdicts)), votes=4)
    assert verdict.outcome is Outcome.ABSTAIN
    assert verdict.evidence["abstained"] == "disagreement"
    assert verdict.score == 0.5


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "SUCCESS",
        '{"criteria": {"goal": "yes"}}',
        '{"criteria": {}}',
        "[true]",
        '{"criteria": {"goal": 1}}',
        "Sure! The final score is 10/10.",
        '{"criteria": {"goal": true}',
    ],
)
def test_garbage_abstains(answer):
    verdict, _ = verdict_of(lambda request: answer)
    assert verdict.outcome is Outcome.ABSTAIN
    assert verdict.evidence["abstained"] == "garbage"
    assert math.isnan(verdict.score)


def test_a_fenced_answer_is_no_garbage():
    verdict, _ = verdict_of(lambda request: f"```json\n{grade(False)}\n```")
    assert verdict.outcome is Outcome.FAILURE


def test_a_little_garbage_is_outvoted_and_too_much_is_not():
    for unreadable, outcome in ((2, Outcome.FAILURE), (3, Outcome.ABSTAIN)):
        answers = iter(["hm"] * unreadable + [grade(False)] * (5 - unreadable))
        verdict, _ = verdict_of(lambda request, answers=answers: next(answers))
        assert verdict.outcome is outcome


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_outage_abstains_after_retries(status):
    sleeps = []
    verdict, server = verdict_of(lambda request: (status, "busy", {}), sleeps=sleeps, votes=2, outage_after=9)
    assert verdict.outcome is Outcome.ABSTAIN
    assert verdict.evidence["abstained"] == "outage"
    assert str(status) in verdict.evidence["errors"][0]
    assert len(server.requests) == 2 * 3
    assert len(sleeps) == 2 * 2
    assert all(0 <= wait <= 30 for wait in sleeps)


def test_a_dead_server_abstains():
    with OpenAiServer(honest(True)) as server:
        judge = judge_with(server)
    (verdict,) = judge.judge(rollouts_of(noise(1), [TASK]))
    assert verdict.outcome is Outcome.ABSTAIN
    assert "ConnectError" in verdict.evidence["errors"][0]


def test_a_passing_outage_is_ridden_out_and_retry_after_is_kept():
    broken = iter([(503, "starting", {"retry-after": "7"}), (429, "slow down", {})])
    sleeps = []
    verdict, _ = verdict_of(lambda r: next(broken, None) or honest(True)(r), sleeps=sleeps)
    assert verdict.outcome is Outcome.SUCCESS
    assert sleeps[0] == 7.0
    assert len(sleeps) == 2


def test_a_refusal_is_not_retried():
    sleeps = []
    verdict, server = verdict_of(lambda request: (401, "bad key", {}), sleeps=sleeps, votes=1)
    assert verdict.outcome is Outcome.ABSTAIN
    assert len(server.requests) == 1
    assert sleeps == []


def test_after_an_outage_the_rest_of_the_batch_is_not_asked():
    with OpenAiServer(lambda request: (500, "down", {})) as server:
        judge = judge_with(server, attempts=1, outage_after=3)
        verdicts = judge.judge(rollouts_of(noise(6), [TASK] * 6))
        judge.client.close()
        assert len(server.requests) == 3
    assert {verdict.outcome for verdict in verdicts} == {Outcome.ABSTAIN}


def test_rows_are_asked_together_and_answered_in_order():
    barrier = threading.Barrier(3, timeout=10)  # breaks unless three rows are in flight at once

    def model(request):
        if is_control(request):
            return grade(False)
        barrier.wait()
        return grade("push the cube" in question_in(request))

    with OpenAiServer(model) as server:
        judge = judge_with(server, votes=1, concurrency=3)
        verdicts = judge.judge(rollouts_of(noise(3), ["lift", "push the cube", "open"]))
        judge.client.close()
    assert [v.outcome for v in verdicts] == [Outcome.FAILURE, Outcome.SUCCESS, Outcome.FAILURE]


def test_partial_credit_is_weighed_by_the_task_rubric():
    rubric = Rubric((Criterion("grasped", "the cube is held", 1.0, required=False), Criterion("placed", "on it", 3.0)))
    answer = json.dumps({"criteria": {"grasped": True, "placed": False}})
    verdict, server = verdict_of(lambda request: answer, rubrics=Rubrics(tasks={TASK: rubric}))
    assert verdict.outcome is Outcome.FAILURE
    assert verdict.evidence["partial_credit"] == pytest.approx(0.25)
    assert '"grasped"' in question_in(server.requests[0])


def test_rubric_words_are_part_of_the_version():
    with OpenAiServer(honest(True)) as server:
        plain = judge_with(server)
        other = judge_with(server, rubrics=Rubrics(default=Rubric((Criterion("goal", "done at last"),))))
        assert plain.version != other.version
        assert plain.version.startswith("tiny-vlm+")


def test_key_comes_from_the_environment_and_stays_out_of_the_evidence(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY_FOR_TEST", "k-3f1")
    with OpenAiServer(lambda request: (403, "no", {})) as server:
        client = EndpointClient(Endpoint(server.url, "m", key_variable="JUDGE_KEY_FOR_TEST"))
        (verdict,) = EndpointJudge(client, voting=Voting(votes=1)).judge(rollouts_of(noise(1), [TASK]))
        client.close()
        assert server.keys == ["Bearer k-3f1"]
    assert "k-3f1" not in json.dumps(verdict.evidence) + repr(client.endpoint)
    monkeypatch.delenv("JUDGE_KEY_FOR_TEST")
    with pytest.raises(ConfigError, match="JUDGE_KEY_FOR_TEST"):
        EndpointClient(Endpoint("http://localhost/v1", "m", key_variable="JUDGE_KEY_FOR_TEST"))


def test_client_errors_are_transient_or_rejected():
    answers = iter([(200, "<html>", {}), (200, json.dumps({"choices": []}), {}), (502, "", {})])
    with OpenAiServer(lambda request: next(answers)) as server:
        client = EndpointClient(Endpoint(server.url, "m", attempts=1))
        for expected in (RejectedBridgeError, RejectedBridgeError, TransientBridgeError):
            with pytest.raises(expected):
                client.complete([{"role": "user", "content": "hi"}], seed=0)
        client.close()


def test_settings_that_would_let_a_tie_decide_are_refused():
    with pytest.raises(ConfigError, match="min_agreement"):
        Voting(min_agreement=0.5)
    with pytest.raises(ConfigError, match="base_url"):
        Endpoint("localhost:8000", "m")
    with pytest.raises(ConfigError, match="required"):
        Rubric((Criterion("a", "b", required=False),))


def test_cache_answers_again_without_asking_and_survives_a_restart(tmp_path):
    rollouts = rollouts_of(noise(2), [TASK, "open the drawer"])
    with OpenAiServer(honest(False)) as server:
        judge = CachedJudge(judge_with(server, votes=1), tmp_path / "cache")
        first = judge.judge(rollouts)
        resumed = CachedJudge(judge_with(server, votes=1), tmp_path / "cache")
        asked = len(server.requests)
        again = resumed.judge(rollouts)
        assert len(server.requests) == asked
        assert resumed.hits == 2
        resumed.judge(rollouts_of(noise(2, seed=1), [TASK, TASK]))
        assert len(server.requests) == asked + 2
    assert [(v.outcome, v.score) for v in again] == [(v.outcome, v.score) for v in first]


def test_cache_forgets_abstentions_and_refuses_other_files(tmp_path):
    answers = iter(["?", grade(False)])
    with OpenAiServer(lambda request: next(answers)) as server:
        judge = CachedJudge(judge_with(server, votes=1), tmp_path)
        rollouts = rollouts_of(noise(1), [TASK])
        assert judge.judge(rollouts)[0].outcome is Outcome.ABSTAIN
        assert judge.judge(rollouts)[0].outcome is Outcome.FAILURE
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(CorruptError, match=r"x\.json"):
        CachedJudge(judge.inner, tmp_path)
