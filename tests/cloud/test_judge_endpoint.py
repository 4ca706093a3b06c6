"""The endpoint judge against a real server: nothing but a clear, checked yes is ever a reward."""

import contextlib
import itertools
import json
import math
import socket
import threading
import time

import pytest

from cloud_trainer.judge.cache import CachedJudge
from cloud_trainer.judge.client import EndpointClient
from cloud_trainer.judge.endpoint import EndpointJudge
from cloud_trainer.judge.rubric import CONTROL_INSTRUCTION, Rubric, Rubrics
from gymnast_core.errors import ConfigError, CorruptError, RejectedBridgeError, TransientBridgeError
from gymnast_core.jobs.judges import Criterion, Endpoint, Voting
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
    client = EndpointClient(Endpoint(base_url=server.url, model="tiny-vlm", attempts=attempts), sleep=waited.append)
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


@pytest.mark.parametrize(
    "around",
    [
        '<think>\nIt moved. {{"criteria": maybe}} {{"criteria": {{"goal": true}}}}\n</think>\n\n{0}',
        "It moved, so no.\n</think>\n\n{0}",
        "Here is my assessment:\n```json\n{0}\n```\nLet me know {{if}} you need more!",
        '{{"note": 1}} {0}',
    ],
)
def test_thoughts_and_prose_around_an_answer_do_not_matter(around):
    verdict, _ = verdict_of(lambda request: around.format(grade(False)))
    assert verdict.outcome is Outcome.FAILURE


def test_two_answers_that_contradict_each_other_are_none():
    verdict, _ = verdict_of(lambda request: f"{grade(False)} or rather {grade(True)}")
    assert verdict.evidence["abstained"] == "garbage"
    verdict, _ = verdict_of(lambda request: "{" * 5000 + grade(False))
    assert verdict.outcome is Outcome.ABSTAIN


def completion(content):
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}), {}


def test_content_parts_are_put_together():
    parts = [{"type": "reasoning", "text": "hm"}, {"type": "text", "text": grade(False)[:9]},
             {"type": "text", "text": grade(False)[9:]}]  # fmt: skip
    verdict, _ = verdict_of(lambda request: completion(parts))
    assert verdict.outcome is Outcome.FAILURE
    verdict, _ = verdict_of(lambda request: completion(None))
    assert "raise max_tokens" in verdict.evidence["errors"][0]


def newer_model(request):
    if "max_tokens" in request:
        return 400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", {}
    return grade(False)


def test_newer_models_are_asked_with_the_limit_they_take():
    verdict, server = verdict_of(newer_model, votes=2)
    assert verdict.outcome is Outcome.FAILURE
    assert [("max_tokens" in r, "max_completion_tokens" in r) for r in server.requests[:3]] == [
        (True, False), (False, True), (False, True)]  # fmt: skip
    with pytest.raises(ConfigError, match="token_limit must be one of auto, max_tokens, max_completion_tokens"):
        Endpoint(base_url="http://x/v1", model="m", token_limit="tokens")


@pytest.mark.parametrize("where", ["headers", "body"])
def test_an_answer_that_trickles_is_given_up_as_a_whole(where):
    over = threading.Event()

    def serve(listener):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=trickle, args=(connection,), daemon=True).start()

    def trickle(connection):
        begin = b"HTTP/1.1 200 OK\r\n" + (b"content-length: 9999\r\n\r\n" if where == "body" else b"x: ")
        with contextlib.suppress(OSError), connection:
            connection.sendall(begin)
            while not over.wait(0.05):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        client = EndpointClient(Endpoint(base_url=address, model="m", timeout_s=0.5, attempts=2), sleep=lambda _: None)
        started = time.monotonic()
        with pytest.raises(TransientBridgeError, match=r"no whole answer within 0\.5 s"):
            client.complete([], seed=0)
        assert time.monotonic() - started < 20
        client.close()
        over.set()


def test_an_answer_without_end_is_refused(monkeypatch):
    monkeypatch.setattr("cloud_trainer.judge.client.MAX_ANSWER_BYTES", 10_000)
    verdict, _ = verdict_of(lambda request: " " * 20_000)
    assert "an answer above 10000 bytes" in verdict.evidence["errors"][0]


@pytest.mark.parametrize(
    ("variables", "url", "said"),
    [
        ({"no_proxy": "::1,[fe80::1],fd00::/8,localhost"}, "http://judge.example:1/v1", ""),
        ({"https_proxy": "http://[::1"}, "https://judge.example/v1", r"https_proxy='http://\[::1' is not a proxy"),
        ({"https_proxy": "ftp://x:1"}, "https://judge.example/v1", r"https_proxy='ftp://x:1' is not a proxy"),
        ({"all_proxy": "socks5://127.0.0.1:1080"}, "http://judge.example/v1", "all_proxy names a SOCKS proxy"),
        ({"all_proxy": "socks5://127.0.0.1:1080"}, "http://127.0.0.1:1/v1", ""),
        ({"all_proxy": "socks5://h:1", "no_proxy": ".example"}, "http://judge.example:1/v1", ""),
        ({"all_proxy": "socks5://h:1", "no_proxy": "fd00::/8"}, "http://[fd00::7]:1/v1", ""),
        ({"all_proxy": "socks5://h:1", "no_proxy": "10.0.0.0/8"}, "http://10.1.2.3:1/v1", ""),
    ],
)
def test_proxy_variables_are_used_or_named(monkeypatch, variables, url, said):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if said:
        with pytest.raises(ConfigError, match=said):
            EndpointClient(Endpoint(base_url=url, model="m"))
    else:
        EndpointClient(Endpoint(base_url=url, model="m")).close()


def test_a_server_on_this_machine_is_asked_past_the_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    verdict, _ = verdict_of(lambda request: grade(False))
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
    rubric = Rubric(
        (
            Criterion(name="grasped", text="the cube is held", weight=1.0, required=False),
            Criterion(name="placed", text="on it", weight=3.0),
        )
    )
    answer = json.dumps({"criteria": {"grasped": True, "placed": False}})
    verdict, server = verdict_of(lambda request: answer, rubrics=Rubrics(tasks={TASK: rubric}))
    assert verdict.outcome is Outcome.FAILURE
    assert verdict.evidence["partial_credit"] == pytest.approx(0.25)
    assert '"grasped"' in question_in(server.requests[0])


def test_rubric_words_are_part_of_the_version():
    with OpenAiServer(honest(True)) as server:
        plain = judge_with(server)
        other = judge_with(server, rubrics=Rubrics(default=Rubric((Criterion(name="goal", text="done at last"),))))
        assert plain.version != other.version
        assert plain.version.startswith("tiny-vlm+")


def test_key_comes_from_the_environment_and_stays_out_of_the_evidence(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY_FOR_TEST", "k-3f1")
    with OpenAiServer(lambda request: (403, "no", {})) as server:
        client = EndpointClient(Endpoint(base_url=server.url, model="m", key_variable="JUDGE_KEY_FOR_TEST"))
        (verdict,) = EndpointJudge(client, voting=Voting(votes=1)).judge(rollouts_of(noise(1), [TASK]))
        client.close()
        assert server.keys == ["Bearer k-3f1"]
    assert "k-3f1" not in json.dumps(verdict.evidence) + repr(client.endpoint)
    monkeypatch.delenv("JUDGE_KEY_FOR_TEST")
    with pytest.raises(ConfigError, match="JUDGE_KEY_FOR_TEST"):
        EndpointClient(Endpoint(base_url="http://localhost/v1", model="m", key_variable="JUDGE_KEY_FOR_TEST"))


def test_client_errors_are_transient_or_rejected():
    answers = iter([(200, "<html>", {}), (200, json.dumps({"choices": []}), {}), (502, "", {})])
    with OpenAiServer(lambda request: next(answers)) as server:
        client = EndpointClient(Endpoint(base_url=server.url, model="m", attempts=1))
        for expected in (RejectedBridgeError, RejectedBridgeError, TransientBridgeError):
            with pytest.raises(expected):
                client.complete([{"role": "user", "content": "hi"}], seed=0)
        client.close()


def test_settings_that_would_let_a_tie_decide_are_refused():
    with pytest.raises(ConfigError, match="min_agreement"):
        Voting(min_agreement=0.5)
    with pytest.raises(ConfigError, match="base_url"):
        Endpoint(base_url="localhost:8000", model="m")
    with pytest.raises(ConfigError, match="required"):
        Rubric((Criterion(name="a", text="b", required=False),))


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
