"""Nothing crosses from one tenant to another, and nothing of one robot to the next.

Every RPC, every address of the page and every blob, taken from the protos, the application and the store: whatever has
no entry here fails the test.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from cloud_trainer.console.app import create_app
from cloud_trainer.service import Service
from cloud_trainer.service.handlers import QueueRequest, TrialRequest
from cloud_trainer.service.methods import SERVICES
from cloud_trainer.store.protocols import EpisodeRow
from cloud_trainer.store.tenants import PerTenant, tenant_folder
from gymnast_core.episodes.spool import file_digest
from gymnast_core.jobs.replay import LedgerRow
from gymnast_core.paging import Page
from gymnast_core.wire.channel import domain_error
from gymnast_core.wire.codec import decode_blob
from gymnast_core.wire.gymnast.v1 import (
    adaptations_pb2,
    checkpoints_pb2,
    console_pb2,
    enroll_pb2,
    jobs_pb2,
    judge_pb2,
    log_pb2,
    loops_pb2,
    pages_pb2,
    policy_pb2,
    queue_pb2,
    robots_pb2,
    trajectories_pb2,
    trials_pb2,
    weights_pb2,
)
from gymnast_core.wire.identity import Peer
from gymnast_core.wire.judging import request_of
from tests.bridge.conftest import make_checkpoint, make_episode
from tests.console.conftest import SteeredEngine
from tests.hostile.lab import Lab, within
from tests.hostile.registry import Tally, attack

SECRET = "acme-secret"
"""Rides in everything that is acme's; it must be in no answer to anybody else."""


class Acme:
    """A lab in which acme has one of everything, each under an id that default has, too, where ids can be the same."""

    def __init__(self, folder: Path) -> None:
        self.engines = PerTenant(self._engine)
        self.lab = Lab(folder, engine_of=self.engines.of)

    def _engine(self, tenant: str) -> SteeredEngine:
        engine = SteeredEngine()
        engine.begins = partial(self.lab.service.queues.beginnings.begin, tenant)
        return engine

    def fill(self) -> None:
        lab, service = self.lab, self.lab.service
        self.ids: dict[str, dict[str, str]] = {"default": {}, "acme": {}}
        self.people = {
            tenant: {
                role: lab.identity(f"{role}-1", role, tenant) for role in ("robot", "operator", "trainer", "admin")
            }
            for tenant in ("default", "acme")
        }
        self.other_robot = lab.identity("robot-2", "robot")
        for number, tenant in enumerate(("default", "acme")):
            self._fill(tenant, number, service)
        service.trails.of("acme").catch_up()
        service.trails.of("default").catch_up()

    def begin_trial(self) -> None:
        """A trial of acme on a robot of its own, which is in its first run as long as this lab is there."""
        handlers, operator = self.lab.service.handlers, Peer("operator-1", "operator", "acme")
        old = make_checkpoint(self.lab.folder / "made" / "acme" / "old", 9.0)
        shelf = tenant_folder(self.lab.service.config.folder, "acme") / "checkpoints"
        (self.lab.folder / "made" / "acme" / "old").rename(shelf / old.id)
        report = {"state": "ready", "instruction": SECRET, "takes_orders": True, "policy_version": old.id}
        self.lab.service.robots.post(Peer("robot-9", "robot", "acme"), report, b"\xff\xd8\xff" + SECRET.encode())
        self.engines.of("acme").hold["trial"].clear()
        asked = TrialRequest(self.ids["acme"]["checkpoint"], "robot-9", (SECRET,))
        self.ids["acme"]["trial"] = handlers.trials.begin(operator, asked)["trial_id"]
        handlers.queue.pause_robot(operator, "robot-9", SECRET)
        wanted = QueueRequest("evaluation", ("robot-9",), {"tasks": [SECRET], "seed_start": 0, "seed_count": 3})
        self.ids["acme"]["entry"] = handlers.queue.add(operator, wanted).row.entry_id

    def _fill(self, tenant: str, number: int, service: Service) -> None:
        word = SECRET if tenant == "acme" else "ours"
        ids, made = self.ids[tenant], self.lab.folder / "made" / tenant
        made.mkdir(parents=True)
        path = make_episode(made, "ep-1", seed=number)
        ids["episode_digest"] = file_digest(path)
        row = EpisodeRow(0, tenant, "ep-1", "robot-1", ids["episode_digest"], path.stat().st_size, 1, state="valid")
        service.blobs.put_file(path, ids["episode_digest"])
        service.meta.add_episodes([replace(row, instruction=word, metadata={"task": word}, steps=3)])
        lineage = {"episodes": ["ep-1"], "note": word}
        manifest = make_checkpoint(made / "policy", 1.0 + number, lineage=lineage)
        ids["checkpoint"] = manifest.id
        shelf = tenant_folder(service.config.folder, tenant) / "checkpoints"
        shelf.mkdir(parents=True, exist_ok=True)
        (made / "policy").rename(shelf / manifest.id)
        release, _ = service.publisher.publish(tenant, shelf / manifest.id)
        ids["weights_digest"] = release.weights_digest
        job = service.jobs.submit(tenant, "improve", {"note": word, "robot": "robot-1"}, "key", "operator-1")
        ids["job"] = job.job_id
        service.jobs.append(tenant, job.job_id, "progress", {"stage": word})
        work = service.config.folder / "jobs" / job.job_id
        work.mkdir(parents=True)
        (work / "audit.html").write_text(word)
        (work / "audit.json").write_text(json.dumps({"passed": True, "model": word, "outcomes": {}}))
        report = {"state": "ready", "instruction": word, "takes_orders": True, "policy_version": manifest.id}
        robot = Peer("robot-1", "robot", tenant)
        service.robots.post(robot, report, b"\xff\xd8\xff" + word.encode())
        service.ledgers.of(tenant).add(
            LedgerRow(word, manifest.id, "world_model-1", "judge-1", 3, 1, 1, 3, episodes=("ep-1",))
        )
        page = Page("motor_fault", "robot-1", word)
        ids["page"] = page.page_id
        service.pages.raise_page(tenant, page)
        operator = Peer("operator-1", "operator", tenant)
        with service.trails.of(tenant).acting(operator, "note", {"note": word}):
            pass


@pytest.fixture(scope="module")
def acme(tmp_path_factory):
    acme = Acme(tmp_path_factory.mktemp("lab"))
    with acme.lab as lab:
        acme.fill()
        form = {"robot": "robot-1", "instruction": SECRET}
        begun = lab.page("POST", "/adapt", identity=acme.people["acme"]["operator"], form=form)
        acme.ids["acme"]["adaptation"] = begun.json()["go"].rpartition("/")[2]
        flow = lab.service.handlers.flows.adaptations.get("acme", acme.ids["acme"]["adaptation"])
        assert within(20, lambda: flow.view.stage.value == "ready") < 20
        acme.begin_trial()
        (flow.folder / "start.webp").write_bytes(SECRET.encode())
        yield acme
        acme.engines.of("acme").hold["trial"].set()


# every RPC -----------------------------------------------------------------------------------------------------------


def requests(ids: Mapping[str, str]) -> dict[str, list[Any]]:
    """What somebody asks who knows every id of another tenant: method -> the messages of one call."""
    manifest = json.dumps({"id": ids["checkpoint"]}).encode()
    opening = trajectories_pb2.EpisodeOpen(
        channel=1, episode_id="ep-7", size=1, digest=ids["episode_digest"], schema=""
    )
    event = jobs_pb2.JobEvent(kind="progress", data_json="{}")
    return {
        "TrajectoryService/Upload": [trajectories_pb2.UploadRequest(open=opening)],
        "TrajectoryService/ListEpisodes": [trajectories_pb2.ListEpisodesRequest()],
        "TrajectoryService/LabelEpisode": [trajectories_pb2.LabelEpisodeRequest(episode_id="ep-1", outcome="failure")],
        "TrajectoryService/RetractEpisode": [trajectories_pb2.RetractEpisodeRequest(episode_id="ep-1", reason="x")],
        "WeightsService/Publish": [weights_pb2.PublishRequest(open=weights_pb2.PublishOpen(manifest=manifest))],
        "WeightsService/Import": [weights_pb2.PublishRequest(open=weights_pb2.PublishOpen(manifest=manifest))],
        "WeightsService/Watch": [weights_pb2.WatchRequest()],
        "WeightsService/ListReleases": [weights_pb2.ListReleasesRequest()],
        "WeightsService/Fetch": [weights_pb2.FetchRequest(digest=ids["weights_digest"])],
        "WeightsService/Rollback": [weights_pb2.RollbackRequest(checkpoint_id=ids["checkpoint"], reason="x")],
        "WeightsService/Why": [weights_pb2.WhyRequest(record_id=ids["checkpoint"])],
        "JobService/Submit": [jobs_pb2.SubmitRequest(kind="improve", spec_json="{}", idempotency_key="key")],
        "JobService/Get": [jobs_pb2.JobId(job_id=ids["job"])],
        "JobService/List": [jobs_pb2.ListJobsRequest()],
        "JobService/Cancel": [jobs_pb2.JobId(job_id=ids["job"])],
        "JobService/Events": [jobs_pb2.EventsRequest(job_id=ids["job"])],
        "JobService/Claim": [jobs_pb2.ClaimRequest()],
        "JobService/Report": [jobs_pb2.ReportRequest(job_id=ids["job"], events=[event], state="failed")],
        "PolicyService/Infer": [policy_pb2.InferRequest()],
        "JudgeService/Judge": [request_of({"cam": np.zeros((2, 8, 8, 3), np.uint8)}, "lift", "standard")],
        "JudgeService/ListPrecision": [judge_pb2.ListPrecisionRequest(evidence=True)],
        "JudgeService/ListDoubts": [judge_pb2.ListDoubtsRequest()],
        "RobotService/Report": [robots_pb2.RobotReport(state="ready", takes_orders=True)],
        "EnrollService/Enroll": [enroll_pb2.EnrollRequest()],
        "EnrollService/ListRevoked": [enroll_pb2.ListRevokedRequest()],
        "ConsoleService/LogIn": [console_pb2.LogInRequest()],
        "CheckpointService/List": [checkpoints_pb2.ListCheckpointsRequest()],
        "CheckpointService/Offer": [checkpoints_pb2.OfferRequest(checkpoint_id=ids["checkpoint"])],
        "CheckpointService/Promote": [checkpoints_pb2.OfferRequest(checkpoint_id=ids["checkpoint"])],
        "CheckpointService/Gate": [checkpoints_pb2.GateRequest(checkpoint_id=ids["checkpoint"])],
        "CheckpointService/Gates": [checkpoints_pb2.GatesRequest(checkpoint_id=ids["checkpoint"])],
        "AdaptationService/Begin": [adaptations_pb2.BeginAdaptationRequest(robot="robot-9", instruction="lift")],
        "AdaptationService/Get": [adaptations_pb2.AdaptationId(adaptation_id=ids["adaptation"])],
        "AdaptationService/List": [adaptations_pb2.ListAdaptationsRequest()],
        "AdaptationService/Step": [
            adaptations_pb2.AdaptationStep(adaptation_id=ids["adaptation"], cancel=adaptations_pb2.CancelStep())
        ],
        "AdaptationService/Picture": [
            adaptations_pb2.AdaptationPictureRequest(adaptation_id=ids["adaptation"], name="start")
        ],
        "TrialService/Begin": [
            trials_pb2.BeginTrialRequest(candidate=ids["checkpoint"], robot="robot-1", tasks=["lift"], against="p-1")
        ],
        "TrialService/Get": [trials_pb2.TrialId(trial_id=ids["trial"])],
        "TrialService/List": [trials_pb2.ListTrialsRequest()],
        "TrialService/Stop": [trials_pb2.TrialId(trial_id=ids["trial"])],
        "TrialService/Cards": [trials_pb2.ListCardsRequest()],
        "RobotService/List": [robots_pb2.ListRobotsRequest()],
        "RobotService/Frame": [robots_pb2.RobotName(robot="robot-9")],
        "RobotService/DropAdapter": [robots_pb2.DropAdapterRequest(robot="robot-9", checkpoint_id=ids["checkpoint"])],
        "LoopService/Begin": [loops_pb2.BeginLoopRequest(config_json='{"name": "night", "robot": "robot-9"}')],
        "LoopService/Get": [loops_pb2.LoopName(name="night")],
        "LoopService/Watch": [loops_pb2.LoopName(name="night")],
        "LoopService/List": [loops_pb2.ListLoopsRequest()],
        "LoopService/Stop": [loops_pb2.LoopName(name="night")],
        "PageService/Raise": [pages_pb2.RaisePagesRequest(unanswered=[ids["page"]])],
        "PageService/List": [pages_pb2.ListPagesRequest(every=True)],
        "PageService/Acknowledge": [pages_pb2.AcknowledgePageRequest(page_id=ids["page"])],
        "PageService/Test": [pages_pb2.TestPagesRequest()],
        "QueueService/Add": [
            queue_pb2.AddEntryRequest(
                kind="evaluation", robots=["robot-9"], spec_json='{"tasks": ["lift"], "seed_start": 0, "seed_count": 1}'
            )
        ],
        "QueueService/Get": [queue_pb2.EntryId(entry_id=ids["entry"])],
        "QueueService/List": [queue_pb2.ListEntriesRequest(robot="robot-9")],
        "QueueService/Starts": [queue_pb2.ListStartsRequest(entry_id=ids["entry"])],
        "QueueService/Pause": [queue_pb2.QueueTarget(robot="robot-9")],
        "QueueService/Resume": [queue_pb2.QueueTarget(robot="robot-9")],
        "QueueService/Cancel": [queue_pb2.EntryId(entry_id=ids["entry"])],
        "QueueService/Move": [queue_pb2.MoveEntryRequest(entry_id=ids["entry"], first=True)],
        "LogService/List": [log_pb2.ListActionsRequest()],
        "LogService/Ledger": [log_pb2.LedgerRequest()],
    }


MUST_FAIL = {
    "WeightsService/Fetch", "WeightsService/Rollback", "WeightsService/Why", "JobService/Get", "JobService/Cancel",
    "JobService/Events", "JobService/Report", "CheckpointService/Offer", "CheckpointService/Promote",
    "AdaptationService/Begin", "AdaptationService/Get", "AdaptationService/Step", "AdaptationService/Picture",
    "TrialService/Begin", "TrialService/Get", "TrialService/Stop", "RobotService/Frame", "LoopService/Begin",
    "RobotService/DropAdapter",
    "LoopService/Get", "LoopService/Stop", "CheckpointService/Gate", "PageService/Acknowledge",
    "QueueService/Add", "QueueService/Get",
    "QueueService/Starts", "QueueService/Pause", "QueueService/Resume", "QueueService/Cancel", "QueueService/Move",
}  # fmt: skip
"""Those that name something of the other tenant's alone; the others act on the caller's own, or list it."""


def call(channel: grpc.Channel, path: str, messages: list[Any]) -> tuple[str, bytes]:
    """Make any call with messages of any kind; returns the error's name and everything that was answered."""
    made = channel.stream_stream(f"/gymnast.v1.{path}", request_serializer=bytes, response_deserializer=bytes)
    answered = b""
    try:
        for answer in made(iter([message.SerializeToString() for message in messages]), timeout=3.0):
            answered += answer
    except grpc.RpcError as failure:
        if failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED:  # a stream that would go on
            return "", answered
        return type(domain_error(failure)).__name__, answered
    return "", answered


def everything_of(acme: Acme, tenant: str) -> Any:
    """What a tenant has, as its own admin and the stores see it."""
    service = acme.lab.service
    log = [entry for entry in service.trails.of(tenant).log.entries if entry.data.get("tenant") == tenant]
    return (
        service.meta.episodes(tenant), service.meta.releases(tenant), service.meta.checkpoints(tenant),
        service.jobs.list(tenant), service.jobs.events(tenant, acme.ids[tenant]["job"]), log,
        [report.status for report in service.robots.of_tenant(tenant)], service.pages.store.calls(tenant),
        [flow.view.stage for flow in service_flows(acme, tenant)],
        service.handlers.flows.trials.views(tenant),
    )  # fmt: skip


def service_flows(acme: Acme, tenant: str) -> list[Any]:
    return list(acme.lab.service.handlers.flows.adaptations.of(tenant))


METHODS = [
    f"{service}/{method.name}"
    for service, module in SERVICES.items()
    for method in module.DESCRIPTOR.services_by_name[service].methods
]


def test_every_method_of_every_proto_has_its_attack(acme):
    assert sorted(METHODS) == sorted(requests(acme.ids["acme"]))


@pytest.mark.parametrize("role", ["admin", "robot"])
def test_no_call_reaches_another_tenant(acme, role):
    """Every RPC, as default's admin and robot, with acme's ids: nothing of acme's is answered, nothing has changed."""
    before = everything_of(acme, "acme")
    identity = acme.people["default"][role]
    with acme.lab.channel(identity) as channel:
        for path, messages in requests(acme.ids["acme"]).items():
            error, answered = call(channel, path, messages)
            assert SECRET.encode() not in answered, path
            for name in ("checkpoint", "job", "episode_digest", "weights_digest", "adaptation", "trial"):
                known = acme.ids["acme"][name].encode()
                asked = any(known in message.SerializeToString() for message in messages)
                own = path == "LogService/List"  # which holds what the caller asked for itself
                assert asked or own or known not in answered, (path, name)
            if path in MUST_FAIL:
                assert error in ("NotFoundError", "NotPermittedError", "NotPossibleError"), (path, error)
    assert everything_of(acme, "acme") == before


@attack("calls and pages across tenants")
def cross(folder: Path, size: int) -> Tally:
    """Every RPC and every address, as often as it takes: accepted is what shows something of the other tenant's."""
    acme, accepted, attempts = Acme(folder), 0, 0
    with acme.lab:
        acme.fill()
        ids = {**acme.ids["acme"], "adaptation": "adapt-0", "trial": "trial-0"}
        parts = {**PARTS, "checkpoint_id": ids["checkpoint"], "job_id": ids["job"], "adaptation_id": "adapt-0",
                 "trial_id": "trial-0"}  # fmt: skip
        before = everything_of(acme, "acme")
        while attempts < size:
            for role, identity in acme.people["default"].items():
                with acme.lab.channel(identity) as channel:
                    answers = [call(channel, path, messages)[1] for path, messages in requests(ids).items()]
                paths = [(way, path.format(**parts)) for way, path in addresses(acme) if path not in OPEN]
                if role != "robot":
                    answers += [acme.lab.page(way, path, identity=identity).body for way, path in paths]
                attempts += len(answers)
                accepted += sum(SECRET.encode() in answer for answer in answers)
        return Tally(attempts, accepted, int(everything_of(acme, "acme") != before))


def test_a_claim_takes_jobs_of_the_callers_tenant_alone(acme):
    with acme.lab.channel(acme.people["default"]["trainer"]) as channel:
        taken = [jobs_pb2.Job.FromString(call(channel, "JobService/Claim", [jobs_pb2.ClaimRequest()])[1]).job_id
                 for _ in range(3)]  # fmt: skip
    assert acme.ids["acme"]["job"] not in taken


# every address of the page -------------------------------------------------------------------------------------------


def addresses(acme: Acme) -> list[tuple[str, str]]:
    app = create_app(acme.lab.console.sources, acme.lab.console.gate)
    found = [(method, route.path) for route in app.routes for method in (getattr(route, "methods", None) or ())]
    return sorted((method, path) for method, path in found if method in ("GET", "POST"))


PARTS = {
    "episode_id": "ep-1", "robot": "robot-1", "number": "0", "name": "start", "how": "rollback",
    "step": "cancel",
}  # fmt: skip
OPEN = {"/login", "/logout", "/events"}
"""Addresses that name nobody's data: the way in and out, and the caller's own news."""


@pytest.mark.parametrize("role", ["admin", "operator"])
def test_no_page_shows_or_does_anything_of_another_tenants(acme, role):
    """Every route of the application, by default's people, with acme's ids in every part and field."""
    ids = acme.ids["acme"]
    parts = {**PARTS, "checkpoint_id": ids["checkpoint"], "job_id": ids["job"], "adaptation_id": ids["adaptation"],
             "trial_id": ids["trial"], "page_id": ids["page"], "entry_id": ids["entry"]}  # fmt: skip
    form = {"reason": "x", "robots": "*", "revision": "0", "outcome": "failure", "robot": "robot-1", "instruction": "x",
            "tenant": "acme", "against": ids["checkpoint"]}  # fmt: skip
    before, tried = everything_of(acme, "acme"), 0
    for method, path in addresses(acme):
        unknown = {word.split("}")[0] for word in path.split("{")[1:]} - set(parts)
        assert not unknown, f"{path} has parts {unknown} that this test has no attack for"
        if path in OPEN:
            continue
        answer = acme.lab.page(method, path.format(**parts), identity=acme.people["default"][role], form=form)
        assert answer.status < 500, (path, answer.text)
        assert SECRET not in answer.text, path
        if answer.status < 400 and path != "/log":  # which hold what they asked for themselves
            assert ids["checkpoint"] not in answer.text, path
        tried += 1
    assert tried >= 25
    assert everything_of(acme, "acme") == before


def test_acmes_own_people_see_what_is_theirs(acme):
    """Otherwise the tests above would show nothing."""
    seen = 0
    ids = acme.ids["acme"]
    parts = {**PARTS, "checkpoint_id": ids["checkpoint"], "job_id": ids["job"], "adaptation_id": ids["adaptation"],
             "trial_id": ids["trial"], "page_id": ids["page"], "entry_id": ids["entry"]}  # fmt: skip
    for method, path in addresses(acme):
        if method == "GET" and path not in OPEN:
            answer = acme.lab.page(method, path.format(**parts), identity=acme.people["acme"]["admin"])
            seen += SECRET in answer.text
    assert seen >= 12
    with acme.lab.channel(acme.people["acme"]["admin"]) as channel:
        for path in ("TrajectoryService/ListEpisodes", "JobService/Get", "WeightsService/Why"):
            assert SECRET.encode() in call(channel, path, requests(ids)[path])[1], path


def test_a_robot_of_another_tenants_cannot_be_adapted_tried_or_watched(acme):
    """robot-9 is acme's alone: default's operator can do nothing with it, however it is named."""
    robot = Peer("robot-9", "robot", "acme")
    acme.lab.service.robots.post(robot, {"state": "ready", "takes_orders": True}, b"\xff\xd8\xff")
    operator = acme.people["default"]["operator"]
    for method, path, form in (
        ("GET", "/robots/robot-9/frame", {}),
        ("POST", "/adapt", {"robot": "robot-9", "instruction": "lift"}),
        ("POST", f"/checkpoints/{acme.ids['default']['checkpoint']}/try", {"robot": "robot-9", "instruction": "lift"}),
    ):
        answer = acme.lab.page(method, path, identity=operator, form=form)
        assert (answer.status, "has not reported here" in answer.text) == (409, True), path


def test_a_robot_busy_in_one_tenant_is_free_in_another(acme):
    """robot-1 of acme is being adapted; default's robot-1 is another arm, and waits for its own adaptations alone."""
    form, operator = {"robot": "robot-1", "instruction": "lift"}, acme.people["default"]["operator"]
    assert [acme.lab.page("POST", "/adapt", identity=operator, form=form).status for _ in range(2)] == [200, 200]
    on = acme.lab.service.handlers.flows.adaptations.on
    assert within(30.0, lambda: all(view.waits for view in on("default", "robot-1")[1:])) < 30.0
    [first, *others] = on("default", "robot-1")
    assert others, "the second waits"
    assert all(view.reason.startswith(f"begins after adaptation {first.adaptation_id} ") for view in others)
    acme_s = {view.adaptation_id for view in on("acme", "robot-1")}
    assert not [view.reason for view in others for name in acme_s if name in view.reason]


# blobs ---------------------------------------------------------------------------------------------------------------


def fetch(acme: Acme, identity: Path, digest: str) -> bool:
    with acme.lab.channel(identity) as channel:
        made = channel.unary_stream(
            "/gymnast.v1.WeightsService/Fetch",
            request_serializer=weights_pb2.FetchRequest.SerializeToString,
            response_deserializer=decode_blob,
        )
        try:
            return sum(len(chunk.data) for chunk in made(weights_pb2.FetchRequest(digest=digest), timeout=20)) > 0
        except grpc.RpcError as failure:
            if type(domain_error(failure)).__name__ != "NotFoundError":
                raise
            return False


def test_every_blob_is_read_by_those_whose_rows_name_it_and_by_nobody_else(acme):
    """Every blob of the store, by every role of both tenants and another robot."""
    digests = set(acme.lab.service.blobs.digests())
    known = {
        acme.ids[tenant][name]: (tenant, name) for tenant in acme.ids for name in acme.ids[tenant] if "digest" in name
    }
    assert digests == set(known), "a blob nobody's row names, or one this test does not know"
    for digest, (owner, name) in known.items():
        for tenant, people in acme.people.items():
            for role, identity in people.items():
                assert fetch(acme, identity, digest) == (tenant == owner), (name, owner, tenant, role)
        reads = fetch(acme, acme.other_robot, digest)
        assert reads == (owner == "default" and name == "weights_digest"), (
            "weights are for every robot, episodes are not"
        )


def test_weights_for_one_robot_are_read_by_that_one(tmp_path):
    with Lab(tmp_path) as lab:
        make_checkpoint(tmp_path / "mine", 3.0)
        release, _ = lab.service.publisher.publish("default", tmp_path / "mine", robots=["wx-1"])
        acme = Acme(tmp_path)
        acme.lab = lab
        assert fetch(acme, lab.identity("wx-1", "robot"), release.weights_digest)
        assert not fetch(acme, lab.identity("wx-2", "robot"), release.weights_digest)


def test_a_robot_sees_its_own_jobs_alone(tmp_path):
    """Those it submitted, and those that are about it; by id, in the list, their events, and to cancel."""
    with Lab(tmp_path) as lab:
        jobs = lab.service.jobs
        mine = jobs.submit("default", "adapt", {"robot": "wx-1"}, "1", "console").job_id
        sent = jobs.submit("default", "adapt", {}, "2", "wx-1").job_id
        other = jobs.submit("default", "adapt", {"robot": "wx-2"}, "3", "wx-2").job_id
        lab_wide = jobs.submit("default", "improve", {}, "4", "ana").job_id
        with lab.channel(lab.identity("wx-1", "robot")) as channel:
            listed = jobs_pb2.ListJobsReply.FromString(
                call(channel, "JobService/List", [jobs_pb2.ListJobsRequest()])[1]
            )
            assert {job.job_id for job in listed.jobs} == {mine, sent}
            for path in ("Get", "Cancel", "Events"):
                for job in (other, lab_wide):
                    message = jobs_pb2.EventsRequest(job_id=job) if path == "Events" else jobs_pb2.JobId(job_id=job)
                    assert call(channel, f"JobService/{path}", [message])[0] == "NotFoundError", path
            assert call(channel, "JobService/Get", [jobs_pb2.JobId(job_id=mine)])[0] == ""


def test_an_episode_uploaded_under_another_tenants_id_and_withdrawn_blocks_nobody(acme):
    """What was seen: default's ep-1 is withdrawn, and acme's checkpoint, made from acme's ep-1, stays promotable."""
    admin = acme.people["default"]["admin"]
    answer = acme.lab.page("POST", "/episodes/ep-1/retract", identity=admin, form={"reason": "dark"})
    assert acme.ids["default"]["checkpoint"] in answer.text
    graph = acme.lab.service.trails.of("acme").graph
    graph.check_promotable(acme.ids["acme"]["checkpoint"])
    assert acme.lab.service.meta.episode("acme", "ep-1").state == "valid"
