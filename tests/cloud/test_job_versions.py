"""Jobs that wait in the database of the version before run, or fail by the name of what they lack."""

import time

import pytest

from cloud_trainer.app.jobs import JobProcesses
from cloud_trainer.jobs.shelf import Shelves
from cloud_trainer.service import Service, ServiceConfig
from gymnast_core.jobs import spec_of

IDS = {"policy": "policy-0", "world_model": "world_model-0", "judge": "judge-0"}
TASK = {"scene": "standard", "instruction": "lift the red cube"}
WRITTEN = [
    ("improve", {**IDS, "seed": 3, "config": {"candidate_every": 5, "grpo_iterations": 10}, "offer_to": ["sim-0"]}),
    ("improve", {"policy": "policy-0", "config": {"grpo": {"temperature": 1.6}, "audit": {"parts": ["outcomes"]}}}),
    ("imitate", {"policy": "policy-0", "mode": "lora"}),
    ("imitate", {"policy": "policy-0", "config": {"imagined_rounds": 2, "groups": 4, "refine_iterations": 0}}),
    ("adapt", {**IDS, **TASK, "robot": "sim-0", "seed": 0, "budget_s": 3600.0, "rollouts": 5000, "mode": "full",
               "config": {"check": False, "scene_episodes": 4, "forgetting": 1.0}, "checked": ["ep-1"]}),
    ("replay", {"policy": "policy-0", "seed": 0, "episodes": ["ep-1"]}),
]  # fmt: skip
"""Specs as the command line, the loop, the page and the watch for evaluations of 0.1 wrote them."""


@pytest.mark.parametrize(("kind", "spec"), WRITTEN)
def test_what_the_version_before_submitted_is_read(kind, spec):
    assert spec_of(kind, spec).to_json() == spec


def test_a_waiting_job_with_a_setting_of_another_kind_fails_by_its_name(tmp_path):
    shelves = Shelves(tmp_path)
    with Service(ServiceConfig(folder=tmp_path, insecure=True), JobProcesses(tmp_path, shelves)) as service:
        job = service.jobs.submit("default", "improve", {**IDS, "config": {"rehearsal": 0.5}}, "key", "ana").job_id
        deadline = time.monotonic() + 60
        while not (row := service.jobs.get("default", job)).ended and time.monotonic() < deadline:
            time.sleep(0.02)
    assert row.state == "failed"
    assert row.error.startswith("ConfigError: job improve: config: unknown settings ['rehearsal']")
    assert not (tmp_path / "jobs" / job / "spec.json").exists(), "nothing was begun"
