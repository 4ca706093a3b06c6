"""What measures a policy never teaches one, and a trial gives nothing away before it is decided.

One trainer and one simulated robot: README's commands collect, evaluate, try a candidate and train. Who taught whom is
read from `gymnast why`, what measured from `gymnast operate ledger`. The training job is as small as one can be.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load, save

from gymnast_core.records.manifest import read_checkpoint, write_checkpoint
from gymnast_core.shipped import shipped_checkpoints
from tests.journeys.hosts import GYMNAST
from tests.journeys.lab import LONG_S, Lab, wait_until
from tests.ros.conftest import domain_id  # noqa: F401  # a fixture

pytest.importorskip("rclpy")
from gymnast_ros.nodes.client import GraphClient

COLLECT, EVALUATE, PAIRS = 32, 2, 9
SMALL = {
    "refine_iterations": 1, "judge_iterations": 1, "grpo_iterations": 1, "candidate_every": 1, "groups": 2,
    "group_size": 2, "check": False, "overrides": {"jump": "a journey of one step proves nothing"},
}  # fmt: skip
PAGES = ("/", "/evaluations", "/episodes", "/jobs", "/log", "/world-models")


@pytest.fixture(scope="module")
def lab(domain_id: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:  # noqa: F811
    made = Lab(tmp_path_factory.mktemp("lab"), domain_id)
    made.launch("serve", "serve", "--folder", "trainer", "--port-file", "port", "--console-port", "0")
    try:
        port = made.folder / "port"
        made.address = wait_until(lambda: port.read_text() if port.exists() else "", "the trainer's port")
        for name, role in (("sim-0", "robot"), ("admin", "admin"), ("operator", "operator")):
            words = ("enroll", name, "--role", role, "--ca", "trainer/ca")
            subprocess.run([str(GYMNAST), *words], cwd=made.folder, check=True, capture_output=True)
        joined = ("--name", "sim-0", "--trainer", made.address, "--identity", "identities/sim-0", "--orders")
        made.launch("up", "up", "--robot", "sim", *joined)
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def robot(lab: Lab) -> Iterator[GraphClient]:
    """The robot's topics and services: its e-stop."""
    with GraphClient(domain_id=lab.domain, folder=lab.folder / "robot") as client:
        client.wait_ready(LONG_S)
        yield client


@pytest.fixture(scope="module")
def collected(lab: Lab, robot: GraphClient) -> set[str]:
    return set(collect(lab, COLLECT))


@pytest.fixture(scope="module")
def unlabelled(lab: Lab, collected: set[str]) -> str:
    """One whose label an operator took back."""
    name = min(collected)
    assert lab.gymnast("episodes", "label", name, "unlabelled", role="operator")["outcome"] == "unlabelled"
    return name


@pytest.fixture(scope="module")
def evaluated(lab: Lab, collected: set[str]) -> set[str]:
    words = ("evaluate", "--tasks", "lift", "--count", str(EVALUATE), "--out", "evaluated.json")
    lab.gymnast(*words, role="")
    return {row["episode_id"] for row in json.loads((lab.folder / "evaluated.json").read_text())["episodes"]}


@pytest.fixture(scope="module")
def tried(lab: Lab, robot: GraphClient, collected: set[str]) -> set[str]:
    """Runs of a trial that was looked at before it was decided."""
    shipped, other = robot.policy_version, nearly_the_same(lab.folder / "other")
    lab.gymnast("weights", "publish", "other", "--robot", "sim-0")
    robot.wait_staged([other], LONG_S)
    before = set(episodes(lab))
    words = ("operate", "try", other, "--robot", "sim-0", "--instruction", "lift", "--pairs", str(PAIRS))
    trial = lab.gymnast(*words, role="operator")["trial_id"]
    wait_until(lambda: lab.trial(trial)["pairs_done"] >= 1, "the first pair")
    robot.estop()
    wait_until(lambda: lab.trial(trial)["paused"], "the pause")
    wait_until(lambda: len(set(episodes(lab)) - before) >= 2, "recordings of the first pair")
    nothing_says_who_acted(lab, trial, {name: row for name, row in episodes(lab).items() if name not in before})
    robot.re_arm()
    wait_until(lambda: lab.trial(trial)["state"] != "running", "the trial's end")
    decided = view(lab, trial)
    assert decided["state"] == "decided", decided["reason"]
    runs = {name for pair in decided["card"]["pairs"] for name in pair["episodes"]}
    now = episodes(lab)
    assert {now[name]["policy_version"] for name in runs} == {shipped, other}, "the card and the list name them now"
    return runs


@pytest.fixture(scope="module")
def improved(lab: Lab, collected: set[str], unlabelled: str, evaluated: set[str], tried: set[str]) -> dict[str, Any]:
    """The job that trained on what had come in by then."""
    spec = json.dumps({"seed": 0, "config": SMALL, **newest(lab)})
    return dict(lab.gymnast("jobs", "submit", "improve", "--spec", spec, "--watch", role="operator"))


def test_evaluations_and_trials_are_in_the_ledger_and_in_nobodys_lineage(lab, improved, collected, evaluated, tried):
    listed = episodes(lab)
    purposes = {name: listed[name]["metadata"]["purpose"] for name in collected | evaluated | tried}
    assert {purposes[name] for name in evaluated} == {"evaluate"}
    assert {purposes[name] for name in tried} == {"trial"}
    result = improved["result"]
    behind = ancestors(lab, result["candidates"][-1]["id"])
    assert {result["world_model"], result["judge"]} <= behind
    assert not behind & (evaluated | tried)
    taught = behind & set(listed)
    assert taught, "what was collected did teach it"
    assert taught <= collected
    count = sum(listed[name]["outcome"] in ("success", "failure") for name in evaluated | tried)
    seen = wait_until(lambda: (n := measured(lab)) >= count and n, "the ledger's rows")
    assert seen == count, "each is measured once"


def test_an_unlabelled_episode_is_no_failure_and_teaches_nobody(lab, improved, unlabelled):
    assert episodes(lab)[unlabelled]["outcome"] == "unlabelled"
    rows = lab.gymnast("episodes", "list", "--outcome", "unlabelled")["episodes"]
    purposes = {row["episode_id"]: row["metadata"]["purpose"] for row in rows if row["state"] == "valid"}
    assert purposes.pop(unlabelled) == "collect"
    assert set(purposes.values()) <= {"trial"}, "the run that the e-stop ended"
    assert unlabelled not in ancestors(lab, improved["result"]["candidates"][-1]["id"])


def test_the_log_of_actions_names_what_the_job_was_told_to_ignore(lab, improved):
    entries = lab.gymnast("operate", "log")["entries"]
    ignored = [row["overrides"] for row in entries if row["action"] == "submit" and row["job"] == improved["job_id"]]
    assert ignored == [SMALL["overrides"]]


def collect(lab: Lab, count: int) -> list[str]:
    return list(lab.gymnast("collect", "--tasks", "lift", "--count", str(count), role="")["episode_ids"])


def nearly_the_same(folder: Path) -> str:
    """Write the shipped policy with its weights a hair off: acts alike, is another checkpoint."""
    manifest, weights = read_checkpoint(shipped_checkpoints() / "policy")
    tensors = load(weights)
    for array in tensors.values():
        if array.dtype.kind == "f":
            array *= 1.0001
    return write_checkpoint(
        folder, save(tensors), kind="policy", architecture=manifest.architecture, config=manifest.config,
        action_space=manifest.action_space, normalisation=manifest.normalisation,
    ).id  # fmt: skip


def nothing_says_who_acted(lab: Lab, trial: str, runs: dict[str, dict[str, Any]]) -> None:
    """Look wherever a user may look while the trial is paused."""
    seen = view(lab, trial)
    policies = (seen["candidate"], seen["incumbent"])
    assert {row["policy_version"] for row in runs.values()} == {""}
    assert {row["policy_version"] for row in lab.gymnast("operate", "robots")["robots"]} == {seen["incumbent"]}
    jobs = json.dumps(lab.gymnast("jobs", "list"))
    shown = {path: lab.page(path) for path in PAGES}
    for name in runs:
        assert name not in jobs
        assert not [policy for policy in policies if policy in lab.page(f"/episodes/{name}")]
        assert not [path for path in PAGES if path != "/episodes" and name in shown[path]]
    who = ("--trainer", lab.address, "--identity", "identities/operator")
    file = subprocess.run(
        [str(GYMNAST), "--json", "episodes", "show", max(runs), *who], cwd=lab.folder, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert file.returncode == 75, f"its file names who acted: {file.stdout}"
    assert not [policy for policy in policies if policy in file.stdout + file.stderr]
    assert seen["card"] == {}, "no score before the decision"


def view(lab: Lab, trial: str) -> dict[str, Any]:
    """The trial as `gymnast operate` shows it."""
    return next(row for row in lab.gymnast("operate", "evaluations")["trials"] if row["trial_id"] == trial)


def episodes(lab: Lab) -> dict[str, dict[str, Any]]:
    rows = lab.gymnast("episodes", "list")["episodes"]
    return {row["episode_id"]: row for row in rows if row["state"] == "valid"}


def newest(lab: Lab) -> dict[str, str]:
    """The shipped checkpoints, by what they are."""
    return {kind: read_checkpoint(shipped_checkpoints() / kind)[0].id for kind in ("policy", "world_model", "judge")}


def ancestors(lab: Lab, made: str) -> set[str]:
    """Ids of all a checkpoint was made from, down to every episode."""
    assert lab.gymnast("why", made, "--verify", "--graph", "why.json")["id"] == made
    return {node["id"] for node in json.loads((lab.folder / "why.json").read_text())["nodes"]}


def measured(lab: Lab) -> int:
    """Episodes the ledger compared with their dreams, abstentions of the judge included."""
    overall = lab.gymnast("operate", "ledger")["overall"]
    return 0 if overall is None else int(overall["n"]) + int(overall["abstained"])
