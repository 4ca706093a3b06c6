"""Further ways, thought up afresh: other sites' posts, redirects, filters as code, names as paths, others' keys."""

from __future__ import annotations

import functools
import http.client
import json
import os
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest

from cloud_trainer.app import App, AppConfig
from cloud_trainer.app.policy_process import PolicyProcess
from cloud_trainer.service import ServiceConfig, enroll, make_code
from cloud_trainer.service.enroll import create_authority
from gymnast_core.episodes.writer import encode_jpeg
from gymnast_core.errors import GymnastError
from gymnast_core.shipped import shipped_checkpoints
from gymnast_core.wire.gymnast.v1 import (
    adaptations_pb2,
    adaptations_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    loops_pb2,
    loops_pb2_grpc,
    policy_pb2,
    queue_pb2,
    queue_pb2_grpc,
    robots_pb2,
    robots_pb2_grpc,
    trajectories_pb2,
    trajectories_pb2_grpc,
)
from tests.hostile.forged import GOOD_JPEG
from tests.hostile.lab import FORM, Lab, error_of
from tests.hostile.registry import Tally, attack

ELSEWHERE = (
    "//evil.example", "https://evil.example", "/\\evil.example", "\\\\evil", "javascript:alert(1)", "http:evil.example",
    "///evil", "/\t/evil.example", "/ok\r\nSet-Cookie: a=b",
)  # fmt: skip
FOREIGN = ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "https://127.0.0.1.evil.example"})
METHODS = ("PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "PROPFIND")
CODE = ("' OR '1'='1", "x' UNION SELECT * FROM jobs --", "%", "_" * 64, "\x00", "x" * 100_000, "\u202e")
NAMES = ("../x", "a/b", "..", ".", "", "x" * 300, "\u0430na", "x\n", "x ", "x.")
PATHS = ("/static/../../etc/passwd", "/static/%2e%2e/%2e%2e/etc/passwd", "/static/..%5c..%5cx", "/episodes/..%2f..%2fx",
         "/api/episodes/%00", "/adaptations/..%2f..%2fstore.db")  # fmt: skip


def status_of(lab: Lab, method: str, path: str, cookie: str, **headers: str) -> http.client.HTTPResponse:
    connection = lab.connect()
    try:
        connection.request(method, path, "", {**FORM, "Cookie": cookie, **headers})
        answer = connection.getresponse()
        answer.read()
        return answer
    finally:
        connection.close()


@attack("other sites' posts and redirects")
def other_sites(folder: Path, size: int) -> Tally:
    attempts = accepted = lost = 0
    with Lab(folder) as lab:
        token = lab.token(lab.identity("ana", "operator"))
        cookie = lab.log_in(token)
        for there in ELSEWHERE[: max(size, 1)]:
            answer = lab.page("POST", "/login", form={"token": token, "next": there})
            to = answer.headers["location"]
            attempts += 1
            accepted += not (to.startswith("/") and not to.startswith(("//", "/\\")) and "\n" not in to)
        for headers in FOREIGN[: max(size, 1)]:
            attempts += 1
            accepted += status_of(lab, "POST", "/logout", cookie, **headers).status != 403
        for method in METHODS[: max(size, 1)]:
            attempts += 1
            accepted += status_of(lab, method, "/", cookie).status not in (404, 405)
        for path in PATHS[: max(size, 1)]:
            attempts += 1
            accepted += status_of(lab, "GET", path, cookie).status != 404
        lost += lab.page("GET", "/", cookie=cookie).status != 200
    return Tally(attempts, accepted, lost)


def test_no_other_site_posts_or_is_redirected_to(tmp_path):
    tally = other_sites(tmp_path, 99)
    assert (tally.accepted, tally.lost) == (0, 0)


@attack("filters as code, names as paths, keys of others")
def odd_words(folder: Path, size: int) -> Tally:
    attempts = accepted = lost = 0
    with Lab(folder) as lab:
        spec = json.dumps({"robot": "r1", "scene": "s", "instruction": "i"})
        asked = jobs_pb2.SubmitRequest(kind="adapt", spec_json=spec, idempotency_key="key")
        with lab.channel(lab.identity("r1", "robot")) as channel:
            own = jobs_pb2_grpc.JobServiceStub(channel).Submit(asked, timeout=20).job_id
        for name, tenant in (("r2", "default"), ("r1", "acme")):  # another robot's key, and another tenant's robot r1
            with lab.channel(lab.identity(name, "robot", tenant)) as channel:
                jobs, other = jobs_pb2_grpc.JobServiceStub(channel), jobs_pb2.SubmitRequest()
                other.CopyFrom(asked)
                other.spec_json = spec.replace("r1", name)
                attempts += 2
                accepted += error_of(lambda jobs=jobs: jobs.Get(jobs_pb2.JobId(job_id=own), timeout=20)) == ""
                error_of(lambda jobs=jobs, other=other: jobs.Submit(other, timeout=20))
                accepted += any(job.job_id == own for job in jobs.List(jobs_pb2.ListJobsRequest(), timeout=20).jobs)
        with lab.channel(lab.identity("ana", "operator")) as channel:
            jobs, episodes = jobs_pb2_grpc.JobServiceStub(channel), trajectories_pb2_grpc.TrajectoryServiceStub(channel)
            for text in CODE[: max(size, 1)]:
                asks = [functools.partial(jobs.List, jobs_pb2.ListJobsRequest(state=text), timeout=20)]
                for field in ("state", "robot", "episode_id"):
                    request = trajectories_pb2.ListEpisodesRequest(**{field: text})
                    asks.append(functools.partial(episodes.ListEpisodes, request, timeout=20))
                attempts += len(asks)
                if "\0" in text:
                    accepted += sum(error_of(ask) != "InvalidMessageError" for ask in asks)
                else:
                    accepted += sum(reply.ByteSize() > 0 for reply in (ask() for ask in asks))
            lost += len(jobs.List(jobs_pb2.ListJobsRequest(), timeout=20).jobs) != 1
        for name in NAMES[: max(size, 1)]:
            attempts += 2
            accepted += issued(lab, folder, name, "default") + issued(lab, folder, "ana", name)
    return Tally(attempts, accepted, lost)


def issued(lab: Lab, folder: Path, name: str, tenant: str) -> bool:
    """Whether an identity of an odd name or tenant is made."""
    try:
        enroll(lab.service.authority, name, "robot", out=folder / "odd", tenant=tenant)
    except GymnastError:
        return False
    return True


def test_no_word_is_code_and_no_name_a_path_and_no_key_opens_anothers_job(tmp_path):
    tally = odd_words(tmp_path, 99)
    assert (tally.accepted, tally.lost) == (0, 0)


def test_a_code_is_made_for_no_odd_name(tmp_path):
    with Lab(tmp_path) as lab:
        for name in NAMES:
            with pytest.raises(GymnastError):
                make_code(lab.service.authority, name, "robot")


ROW = {"proprio": [0.0] * 7, "time_ns": [1]}


def camera(*jpegs: bytes, name: str = "over_shoulder") -> policy_pb2.InferRequest:
    asked = policy_pb2.InferRequest(instructions=["lift"], **ROW)
    asked.cameras.add(name=name).jpeg.extend(jpegs)
    return asked


INFER = {
    "nothing": lambda: policy_pb2.InferRequest(),
    "no camera": lambda: policy_pb2.InferRequest(instructions=["lift"], **ROW),
    "no frame": lambda: camera(),
    "no picture": lambda: camera(b"x"),
    "an empty picture": lambda: camera(b""),
    "another camera": lambda: camera(GOOD_JPEG, name="\x00" * 300),
    "two frames for a row": lambda: camera(GOOD_JPEG, GOOD_JPEG),
    "no words": lambda: policy_pb2.InferRequest(instructions=[""], **ROW),
    "late": lambda: policy_pb2.InferRequest(instructions=["x"], proprio=[0.0] * 7, time_ns=[2**64 - 1]),
    "a seed": lambda: policy_pb2.InferRequest(instructions=["x"], sample=True, seed=2**64 - 1, **ROW),
    "not a number": lambda: policy_pb2.InferRequest(instructions=["x"], proprio=[float("nan")] * 7, time_ns=[1]),
    "half a past": lambda: policy_pb2.InferRequest(instructions=["x"], past_steps=[3], **ROW),
    "a past of no numbers": lambda: policy_pb2.InferRequest(
        instructions=["x"], past_proprio=[float("nan")] * 112, past_actions=[0.0] * 112, past_steps=[2**32 - 1], **ROW
    ),
    "many rows": lambda: policy_pb2.InferRequest(instructions=["x"] * 10_000, **ROW),
    "one pixel": lambda: camera(encode_jpeg(np.zeros((1, 1, 3), np.uint8))),
    "a lone line": lambda: camera(encode_jpeg(np.zeros((1, 4096, 3), np.uint8))),
}


@attack("requests that end the process of a policy")
def ending_requests(folder: Path, size: int) -> Tally:
    policy = PolicyProcess(shipped_checkpoints() / "policy", "cpu")
    attempts = accepted = lost = 0
    try:
        running = policy._process.pid
        for request in [*INFER.values()][: max(size, 1)]:
            attempts += 1
            try:
                policy.answer(request())
            except GymnastError:
                accepted += 1
            lost += policy.answer(policy_pb2.InferRequest(request_id=7)).request_id != 7
        accepted += policy._process.pid != running
    finally:
        policy.close()
    return Tally(attempts, accepted, lost)


def test_no_request_of_a_robot_ends_the_policys_process(tmp_path):
    assert ending_requests(tmp_path, 99) == Tally(len(INFER), 0, 0)


LONG = "\u00e9" * 300_000


@pytest.mark.parametrize(("stub", "ask"), [
    (adaptations_pb2_grpc.AdaptationServiceStub, lambda s: s.Get(adaptations_pb2.AdaptationId(adaptation_id=LONG))),
    (robots_pb2_grpc.RobotServiceStub, lambda s: s.Frame(robots_pb2.RobotName(robot=LONG))),
    (queue_pb2_grpc.QueueServiceStub, lambda s: s.Cancel(queue_pb2.EntryId(entry_id=LONG))),
    (queue_pb2_grpc.QueueServiceStub, lambda s: s.Pause(queue_pb2.QueueTarget(robot=LONG))),
    (loops_pb2_grpc.LoopServiceStub, lambda s: s.Stop(loops_pb2.LoopName(name=LONG))),
    (jobs_pb2_grpc.JobServiceStub, lambda s: s.Get(jobs_pb2.JobId(job_id=LONG))),
])  # fmt: skip
def test_a_long_name_is_refused_by_an_answer_that_arrives(tmp_path, caplog, stub, ask):
    with Lab(tmp_path) as lab, lab.channel(lab.identity("ana", "operator")) as channel:
        assert error_of(lambda: ask(stub(channel))) in ("NotPossibleError", "NotFoundError", "InvalidMessageError")
    assert max(len(record.getMessage()) for record in caplog.records) < 10_000


@pytest.mark.parametrize("first", ["the trainer", "its authority", "an older version"])
def test_nobody_else_on_the_machine_looks_into_the_folder_of_a_trainer(tmp_path, first):
    folder, before = tmp_path / "trainer", os.umask(0o022)
    try:
        if first == "its authority":
            create_authority(folder / "ca")
        elif first == "an older version":
            folder.mkdir()
        with App(AppConfig(ServiceConfig(folder=folder), console=False)):
            assert folder.stat().st_mode & 0o007 == 0
    finally:
        os.umask(before)


ODD_EVENTS = (
    ("progress", {"total": 1, "metrics": {"loss": "NaN", "agreement": {}}}), ("progress", {"total": "x", "step": [1]}),
    ("progress", {"total": 3, "step": "x", "metrics": [1]}), ("progress", {"total": 1, "step": {}, "stage": []}),
    ("state", {}), ("published", {}), ("result", {"candidates": 5}), ("<b>", {"reason": "<script>"}),
)  # fmt: skip


def test_no_event_that_a_training_machine_reports_takes_the_pages_of_jobs_away(tmp_path):
    with Lab(tmp_path) as lab:
        ana, machine = lab.identity("ana", "operator"), lab.identity("gpu-1", "trainer")
        with lab.channel(ana) as people, lab.channel(machine) as working:
            asking, claiming = jobs_pb2_grpc.JobServiceStub(people), jobs_pb2_grpc.JobServiceStub(working)
            for number, (kind, data) in enumerate(ODD_EVENTS):
                asking.Submit(jobs_pb2.SubmitRequest(kind="adapt", spec_json="{}", idempotency_key=f"odd-{number}"))
                job = claiming.Claim(jobs_pb2.ClaimRequest()).job_id
                event = jobs_pb2.JobEvent(kind=kind, data_json=json.dumps(data))
                claiming.Report(jobs_pb2.ReportRequest(job_id=job, events=[event]))
                for path in ("/jobs", f"/jobs/{job}"):
                    answer = lab.page("GET", path, identity=ana)
                    assert answer.status == 200, (kind, data, answer.text)
                    assert "<script>" not in answer.text.replace("<script src=", "")


def test_a_machine_that_claims_a_job_for_good_does_not_keep_it_for_good(tmp_path):
    with Lab(tmp_path) as lab, lab.channel(lab.identity("ana", "operator")) as people:
        jobs_pb2_grpc.JobServiceStub(people).Submit(jobs_pb2.SubmitRequest(kind="adapt", idempotency_key="k"))
        with lab.channel(lab.identity("gpu-1", "trainer")) as machine:
            job = jobs_pb2_grpc.JobServiceStub(machine).Claim(jobs_pb2.ClaimRequest(lease_s=2**32 - 1))
        with sqlite3.connect(tmp_path / "trainer" / "store.db") as database:
            (until_ns,) = database.execute("SELECT lease_until_ns FROM jobs WHERE job_id = ?", (job.job_id,)).fetchone()
    assert until_ns < time.time_ns() + 3700 * 10**9
