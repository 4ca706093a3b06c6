"""A plan is asked for on a page, drawn by a worker and shown with what the judge makes of it; nothing moves."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from cloud_trainer.app.jobs import JobProcesses
from cloud_trainer.console import Console, User
from cloud_trainer.console.app import create_app
from cloud_trainer.jobs.job import Job
from cloud_trainer.jobs.plan import plan
from cloud_trainer.jobs.runner import Recorded
from cloud_trainer.jobs.shelf import Shelves
from cloud_trainer.jobs.submission import check_submission
from cloud_trainer.progress import never, silent
from cloud_trainer.service import Service, ServiceConfig
from cloud_trainer.store.protocols import EpisodeRow
from cloud_trainer.world_model.planner.model import CompactPlanner
from cloud_trainer.world_model.planner.network import PlannerConfig
from gymnast_core.episodes import read_summary, write_episode
from gymnast_core.episodes.spool import file_digest
from gymnast_core.errors import ConfigError
from gymnast_core.jobs import PlanSpec
from gymnast_core.records.manifest import read_manifest
from gymnast_core.shipped import shipped_checkpoints
from tests.cloud.learning_fakes import episode
from tests.console.conftest import JSON, ROBOT, Bench, wait_for

SIZES = PlannerConfig(widths=(8, 8, 16), embedding=16, keypoint_widths=(8, 8, 8), hidden=32, sampling_steps=1)
GREY = np.full((64, 64, 3), 120, np.uint8)


def jpeg(frame_HWC: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame_HWC).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def planner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that learned nothing."""
    folder = tmp_path_factory.mktemp("planner") / "planner"
    CompactPlanner.fresh(SIZES, GREY, seed=0).save(folder)
    return folder


@pytest.fixture
def planning(tmp_path: Path, planner: Path) -> Iterator[tuple[Service, TestClient]]:
    """A trainer with workers, a planner and a judge, and the page of an operator."""
    shelves = Shelves(tmp_path, [planner, shipped_checkpoints() / "judge", shipped_checkpoints() / "world_model"])
    with Service(ServiceConfig(folder=tmp_path, insecure=True), JobProcesses(tmp_path, shelves)) as service:
        service.check_job = partial(check_submission, shelves, service.episodes_of)
        console = Console(service)
        app = create_app(console.sources, console.gate, poll_s=0.05)
        token = console.gate.issue(User("ana", "operator"))
        yield service, TestClient(app, headers={"Authorization": f"Bearer {token}"}, follow_redirects=False)
        console.stop()


def test_a_plan_from_what_a_robot_sees_is_asked_for_drawn_and_shown(planning: tuple[Service, TestClient]) -> None:
    service, ana = planning
    service.robots.post(ROBOT, {"state": "ready"}, jpeg(GREY))
    form = ana.get("/plans").text
    assert "what bridge-1 sees now" in form
    asked = {"place": "robot:bridge-1", "instruction": "close the drawer", "best_of": "2"}
    begun = ana.post("/plans", data=asked, headers=JSON)
    assert begun.status_code == 200, begun.text
    address = begun.json()["go"]
    job_id = address.rsplit("/", 1)[-1]
    assert ana.get(f"{address}/plan.webp").status_code == 404
    wait_for(lambda: service.jobs.get("default", job_id).ended, "the plan", timeout_s=300)
    row = service.jobs.get("default", job_id)
    assert (row.state, row.error) == ("done", "")
    page = ana.get(address).text
    assert "path.png" not in page
    assert ana.get(f"{address}/path.png").status_code == 404
    for said in ("close the drawer", "Not drawn into the camera", "no world model was named that knows this camera",
                 "nothing moved", "plan 1:", "plan 2:", "kept", "never calibrated",
                 "path of the gripper over 15 steps", "actions over 15 steps"):  # fmt: skip
        assert said in page, said
    film = Image.open(io.BytesIO(ana.get(f"{address}/plan.webp").content))
    assert film.size == (4 * 64, 64), "what is seen now, and a frame a second"
    assert "close the drawer" in ana.get("/plans").text


def test_the_path_is_drawn_into_what_the_camera_saw_when_an_episode_began(
    planning: tuple[Service, TestClient], tmp_path: Path
) -> None:
    service, ana = planning
    file = write_episode(tmp_path / "recorded", episode(0), robot="sim-0")
    summary, digest, size = read_summary(file), file_digest(file), file.stat().st_size
    service.blobs.put_file(file, digest)
    name = summary.header.episode_id
    row = EpisodeRow(0, "default", name, "bridge-1", digest, size, time.time_ns(), "valid", "", "lift",
                     "success", "operator:ana", summary.steps)  # fmt: skip
    assert service.meta.add_episodes([row]) == ["added"]
    world = read_manifest(shipped_checkpoints() / "world_model").id
    assert f"<option>{world}</option>" in ana.get("/plans").text
    asked = {"place": f"episode:{name}", "instruction": "lift the red cube", "best_of": "1", "camera": world}
    begun = ana.post("/plans", data=asked, headers=JSON)
    assert begun.status_code == 200, begun.text
    address = begun.json()["go"]
    job_id = address.rsplit("/", 1)[-1]
    wait_for(lambda: service.jobs.get("default", job_id).ended, "the plan", timeout_s=300)
    row = service.jobs.get("default", job_id)
    assert (row.state, row.error) == ("done", "")
    listed = ana.get("/plans")
    assert listed.status_code == 200, listed.text
    assert f"<td>{name}</td>" in listed.text
    page = ana.get(address).text
    assert f"Seen as by the camera that {world} was trained on" in page
    assert "Not drawn into" not in page
    picture = ana.get(f"{address}/path.png")
    assert picture.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(picture.content)).size == (512, 512)


def test_a_picture_from_before_the_link_was_lost_is_not_what_a_robot_sees_now(
    planning: tuple[Service, TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, ana = planning
    with monkeypatch.context() as earlier:
        earlier.setattr(service.robots, "_clock_s", lambda: time.monotonic() - 300)
        service.robots.post(ROBOT, {"state": "ready"}, jpeg(GREY))
    service.robots.post(ROBOT, {"state": "ready"}, b"")
    assert "what bridge-1 sees now" not in ana.get("/plans").text
    asked = {"place": "robot:bridge-1", "instruction": "close the drawer"}
    answer = ana.post("/plans", data=asked, headers=JSON)
    assert answer.status_code == 409
    assert "the newest picture of bridge-1 is 300 s old" in answer.json()["error"]
    assert not service.jobs.list("default"), "nothing was planned from it"
    service.robots.post(ROBOT, {"state": "ready"}, jpeg(GREY))
    assert "what bridge-1 sees now" in ana.get("/plans").text


def test_what_cannot_be_planned_is_refused_on_the_page(planning: tuple[Service, TestClient], bench: Bench) -> None:
    _, ana = planning
    world = read_manifest(shipped_checkpoints() / "world_model").id
    for asked, said in (
        ({"place": "robot:bridge-1"}, "has not reported here"),
        ({"place": "episode:ep-gone"}, "ep-gone are not at this trainer"),
        ({"place": ""}, "name an episode or give a picture"),
        ({"place": "episode:e", "best_of": "17"}, "best_of"),
        ({"place": "episode:e", "planner": "policy-1"}, "has no such world model"),
        ({"place": "episode:e", "planner": world}, "no planner. Train one on recorded successes"),
    ):
        answer = ana.post("/plans", data={"instruction": "lift", **asked}, headers=JSON)
        assert answer.status_code in (400, 404, 409, 422), (asked, answer.text)
        assert said in answer.json()["error"], answer.text
    empty = bench.client("ana", "operator")
    assert "No planner is here" in empty.get("/plans").text
    answer = empty.post("/plans", data={"instruction": "lift", "place": "episode:e"}, headers=JSON)
    assert "gymnast wm train-planner" in answer.json()["error"]


def test_a_plan_begins_at_an_episodes_first_frame_or_a_picture(planner: Path, tmp_path: Path) -> None:
    file = write_episode(tmp_path / "episodes", episode(0), robot="sim-0")
    given = {"planner": "p", "instruction": "lift", "best_of": 1}
    checkpoints = {"planner": planner, "judge": shipped_checkpoints() / "judge"}

    def made(files: list[Recorded], **more: str) -> list[tuple[float, ...]]:
        return list(plan(Job(PlanSpec(**given, **more), checkpoints, files, tmp_path, silent, never)).actions)

    there = made([Recorded(file, "success", "e")], episode="e")
    assert np.array(there).shape == (15, 7)
    picture = base64.b64encode(jpeg(GREY)).decode()
    assert made([], picture=picture) != there
    for files, more, said in (
        ([], {"episode": "e"}, "e was withdrawn meanwhile"),
        ([], {"picture": "%%"}, "plan from another picture"),
        ([], {"picture": base64.b64encode(b"no picture").decode()}, "plan from another picture"),
        ([], {"picture": base64.b64encode(jpeg(GREY[:32])).decode()}, "has 64 x 32 pixels; crop it"),
    ):
        with pytest.raises(ConfigError, match=said):
            made(files, **more)
