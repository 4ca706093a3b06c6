"""Roll back acts, nothing that is broken moves the arm, and a trial gives nothing away before it is decided.

One trainer and one simulated robot, started as README starts them. Checkpoints are published with `gymnast weights
publish`; what the robot makes of them is read from the terminal, the page and rollout/episode.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save

from gymnast_core.records.manifest import read_checkpoint, write_checkpoint
from gymnast_core.shipped import shipped_checkpoints
from tests.journeys.hosts import GYMNAST
from tests.journeys.lab import LONG_S, Lab, wait_until
from tests.ros.conftest import domain_id  # noqa: F401  # a fixture

rclpy = pytest.importorskip("rclpy")
import numpy as np  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from gymnast_ros.nodes import topics  # noqa: E402
from gymnast_ros.nodes.client import GraphClient  # noqa: E402

BROKEN = {
    "nan": "an action is not finite",
    "fast": "4.0 times the limit of one step",
    "hang": "it hangs: no answer",
    "slow": "a call takes 3.0",
}
PAGES = ("/", "/evaluations", "/episodes", "/jobs", "/log", "/world-models")


def plant(folder: Path, does: str, number: int = 0) -> str:
    weights = save({"nothing": np.full(4, number, np.float32)})
    return write_checkpoint(
        folder, weights, kind="policy", architecture="planted", config={"does": does}, action_space="bridge_delta_ee_7"
    ).id


@pytest.fixture(scope="module")
def lab(domain_id: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:  # noqa: F811
    made = Lab(tmp_path_factory.mktemp("lab"), domain_id)
    made.planted_log.touch()
    plant(made.folder / "base", "good")
    made.launch(
        "serve", "serve", "--folder", "trainer", "--port-file", "port", "--console-port", "0", "--canary-pairs", "2"
    )
    try:
        port = made.folder / "port"
        made.address = wait_until(lambda: port.read_text() if port.exists() else "", "the trainer's port")
        for name, role in (("sim-0", "robot"), ("admin", "admin"), ("operator", "operator")):
            words = ("enroll", name, "--role", role, "--ca", "trainer/ca")
            subprocess.run([str(GYMNAST), *words], cwd=made.folder, check=True, capture_output=True)
        made.start_robot()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def robot(lab: Lab) -> Iterator[GraphClient]:
    """The robot's topics and services."""
    with GraphClient(domain_id=lab.domain, folder=lab.folder / "robot") as client:
        client.wait_ready(LONG_S)
        yield client


@pytest.fixture(scope="module")
def told(robot: GraphClient, lab: Lab) -> Iterator[Callable[[], set[str]]]:
    """Policies of every message of rollout/episode so far."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=lab.domain)
    node, heard = rclpy.create_node("onlooker", context=context), set()
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    node.create_subscription(
        String, "rollout/episode", lambda message: heard.add(json.loads(message.data)["policy"]), topics.JOB_EVENTS
    )

    def listen() -> set[str]:
        for _ in range(20):
            executor.spin_once(timeout_sec=0.02)
        return heard

    yield listen
    executor.shutdown()
    node.destroy_node()
    context.try_shutdown()


def test_none_of_four_broken_checkpoints_moves_the_arm_and_each_is_refused_by_name(lab, robot, told):
    assert told() == set()
    base = robot.run_episode(instruction="lift", seed=1)
    robot.flush(LONG_S)
    names = {does: plant(lab.folder / does, does) for does in BROKEN}
    for does in BROKEN:
        lab.gymnast("weights", "publish", does, "--robot", "sim-0")
        if does == "nan":  # ordered onto the arm, too: an order is no reason to run it
            lab.gymnast("weights", "rollback", names[does], "--reason", "for this test")
    during = robot.run_episode(instruction="lift", seed=2)  # while one hangs and one takes 3 s a step, beside it
    refused = wait_until(lambda: lab.refused() if len(lab.refused()) == len(BROKEN) else None, "four refusals")
    after = robot.run_episode(instruction="lift", seed=3)
    assert {row["policy"] for row in (base, during, after)} == {base["policy"]}
    assert told() == {base["policy"]}
    for does, reason in BROKEN.items():
        assert reason in refused[names[does]], does
        page = lab.page(f"/checkpoints/{names[does]}")
        assert "turned down" in page
        assert reason in page, does
    listed, shown = lab.terminal("weights", "list"), lab.terminal("operate", "robots")
    for does in BROKEN:
        assert f"sim-0 turned it down: {refused[names[does]]}" in listed, does
        assert f"{names[does]}: " in shown, "its reason is wrapped into the column"
    assert lab.words()["ordered"]["done"]
    robots_terminal = (lab.folder / "up.log").read_text()
    assert all(f"turned down {name}: {refused[name]}" in robots_terminal for name in names.values())
    asked = {tuple(line.split()) for line in lab.planted_log.read_text().splitlines()}
    drove = {version for version, process in asked if "policy_child" in process}
    assert drove == {base["policy"]}, "asked in the process that the arm's rollout asks"
    assert set(names.values()) <= {version for version, _ in asked}, "each was tried"


def test_a_rollback_acts_at_the_next_episode_and_the_robot_says_so_with_the_time(lab, robot):
    shipped = robot.policy_version
    good = plant(lab.folder / "good", "good", 1)
    lab.gymnast("weights", "publish", "good", "--robot", "sim-0")
    robot.wait_staged([good], LONG_S)
    assert robot.run_episode(instruction="lift", seed=4)["policy"] == shipped, "an offer is no order"
    before_ns = time.time_ns()
    release = lab.gymnast("weights", "rollback", good, "--robot", "sim-0", "--reason", "better")
    said = wait_until(lambda: lab.runs(good), "the robot's word")
    assert before_ns < said["at_ns"] < time.time_ns()
    assert said["release"] == release["sequence"]
    assert robot.run_episode(instruction="lift", seed=5)["policy"] == good
    wait_until(lambda: lab.words()["ran"]["checkpoint_id"] == good, "word of the episode")
    assert lab.words()["probation_left"] == 2
    said_there = f"in force from the next episode on: {good}, rollback {release['sequence']}"
    assert said_there in (lab.folder / "up.log").read_text()
    page = lab.page(f"/checkpoints/{good}")
    assert "runs it" in page
    assert f"by rollback {release['sequence']}" in page
    assert "on probation, 2 good episodes to go" in page
    assert "on probation" in lab.page("/")
    for seed in (6, 7):
        assert robot.run_episode(instruction="lift", seed=seed)["policy"] == good
    wait_until(lambda: lab.words()["probation_left"] == 0, "the end of the probation")
    # what came with the robot was never published, nor has the trainer a copy
    lab.gymnast("weights", "rollback", shipped, "--reason", "worse in the evening")
    wait_until(lambda: lab.runs(shipped), "the robot's word")
    assert robot.run_episode(instruction="lift", seed=8)["policy"] == shipped
    assert "rolled back to" in lab.page(f"/checkpoints/{good}")


def test_a_trial_that_an_estop_paused_says_nothing_of_who_acted_and_goes_on_when_re_armed(lab, robot):
    other = plant(lab.folder / "tried", "good", 3)
    lab.gymnast("weights", "publish", "tried", "--robot", "sim-0")
    robot.wait_staged([other], LONG_S)
    lab.gymnast("weights", "publish", "base", "--robot", "sim-0")  # a trial names two checkpoints that the trainer has
    before = set(episodes(lab))
    words = ("operate", "try", other, "--robot", "sim-0", "--instruction", "lift", "--pairs", "9")
    trial = lab.gymnast(*words, role="operator")["trial_id"]

    wait_until(lambda: lab.trial(trial)["pairs_done"] >= 1, "the first pair")
    robot.estop()
    paused = wait_until(lambda: (view := lab.trial(trial))["paused"] and view, "the pause")
    assert (paused["state"], paused["reason"]) == ("running", "")
    assert "sim-0 is stopped (estop service called); it goes on when it is re-armed" in paused["paused"]
    assert "it goes on when it is re-armed" in lab.page("/evaluations")
    wait_until(lambda: len(set(episodes(lab)) - before) >= 2, "recordings of the first pair")
    nothing_says_who_acted(lab, trial, {name: row for name, row in episodes(lab).items() if name not in before})
    robot.re_arm()
    done = wait_until(lambda: (view := lab.trial(trial))["state"] != "running" and view, "the trial's end")
    assert (done["state"], done["card"]["set_aside"]) == ("decided", []), done["reason"]
    assert done["card"]["n"] > paused["pairs_done"]
    decided = view(lab, trial)
    assert decided["card"] == done["card"]
    now = episodes(lab)
    acted = {now[name]["policy_version"] for pair in done["card"]["pairs"] for name in pair["episodes"]}
    assert acted == {other, decided["incumbent"]}, "the card and the list name them now"
    left = {row["metadata"]["purpose"] for name, row in now.items() if row["outcome"] == "unlabelled"}
    assert left <= {"trial"}, "the run that the e-stop ended is no failure"


def test_the_log_of_actions_names_what_a_job_was_told_to_ignore(lab):
    ignored = {"jump": "a journey of one step proves nothing"}
    spec = json.dumps({"seed": 0, "config": {"check": False, "overrides": ignored}, **newest()})
    job = lab.gymnast("jobs", "submit", "improve", "--spec", spec, role="operator")["job_id"]
    lab.gymnast("jobs", "cancel", job, role="operator")
    entries = lab.gymnast("operate", "log")["entries"]
    assert [row["overrides"] for row in entries if row["action"] == "submit" and row["job"] == job] == [ignored]


def test_a_robot_that_is_away_rolls_back_when_it_comes_back(lab, robot):
    good = plant(lab.folder / "other", "good", 2)
    lab.gymnast("weights", "publish", "other", "--robot", "sim-0")
    robot.wait_staged([good], LONG_S)
    lab.stop("up")
    lab.gymnast("weights", "rollback", good, "--reason", "while it was away")
    assert lab.runs(good) is None
    assert "it has not said so yet" in lab.page(f"/checkpoints/{good}")
    lab.start_robot()
    with GraphClient(domain_id=lab.domain) as again:
        again.wait_ready(LONG_S)
        wait_until(lambda: lab.runs(good), "the robot's word")
        assert again.run_episode(instruction="lift", seed=9)["policy"] == good


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


def newest() -> dict[str, str]:
    """The shipped checkpoints, by what they are."""
    return {kind: read_checkpoint(shipped_checkpoints() / kind)[0].id for kind in ("policy", "world_model", "judge")}
