"""The operator's day from the command line: collect, look, label, train, adapt, publish, roll back, ask why."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloud_trainer.flows.arms import Errand
from cloud_trainer.service import OrderedRobot
from gymnast_core.orders import OrderError
from gymnast_core.records.manifest import read_manifest
from gymnast_core.wire.identity import Peer
from tests.cli.conftest import DREAM, FAILS, REFUSED, SHIPPED, Run, Stack
from tests.ros.conftest import GraphClient, wait_until

SPEC = {"policy": "p", "world_model": "w", "judge": "j", "seed": 1}


@pytest.fixture(scope="module")
def collected(stack: Stack) -> list[str]:
    """Ids of three episodes that are at the trainer."""
    from gymnast_cli.main import main

    assert main(["collect", "--tasks", "lift", "--count", "3", *stack.robot()]) == 0
    assert stack.service.episodes.settle(20)
    return [row.episode_id for row in stack.service.episodes.list()]


def test_collected_episodes_are_listed_by_the_trainer(stack: Stack, gymnast: Run, collected: list[str]) -> None:
    code, listed = gymnast("episodes", "list", *stack.trainer())
    assert code == 0
    assert [row["episode_id"] for row in listed["episodes"]][: len(collected)] == collected
    first = listed["episodes"][0]
    assert (first["instruction"], first["steps"], first["policy_version"]) == ("lift the red cube", 15, stack.base)
    assert first["metadata"]["seed"] == 900_000


def test_label_is_corrected_and_names_who_did(stack: Stack, gymnast: Run, collected: list[str], tmp_path: Path) -> None:
    code, row = gymnast("episodes", "label", collected[0], "success", *stack.trainer())
    assert (code, row["outcome"], row["labelled_by"]) == (0, "success", "operator:operator")
    code, shown = gymnast("episodes", "show", collected[0], "--film", tmp_path / "film.png", *stack.trainer())
    assert (code, shown["outcome"], shown["steps"]) == (0, "success", 15)
    assert (tmp_path / "film.png").read_bytes()[:4] == b"\x89PNG"


def test_robot_may_not_label(stack: Stack, gymnast: Run, collected: list[str]) -> None:
    code, said = gymnast("episodes", "label", collected[0], "failure", *stack.trainer("robot"))
    assert (code, said["error"]) == (77, "NotPermittedError")
    assert "operator" in said["message"]


def test_evaluation_compares_on_the_same_starts(stack: Stack, gymnast: Run, tmp_path: Path) -> None:
    out = tmp_path / "evaluation.json"
    code, result = gymnast(
        "evaluate", "current", SHIPPED, "--tasks", "push", "--count", 6, "--out", out, *stack.robot()
    )
    assert code == 0
    base, shipped = result["policies"]
    assert (base["id"], base["n"], base["difference"]) == (stack.base, 6, None)
    assert shipped["id"] == read_manifest(SHIPPED).id
    assert shipped["difference"]["mean"] == pytest.approx((shipped["successes"] - base["successes"]) / 6)
    assert shipped["interval"]["low"] <= shipped["successes"] / 6 <= shipped["interval"]["high"]
    assert len(json.loads(out.read_text())["episodes"]) == 12


def test_a_stopped_arm_is_an_exit_code_of_its_own(stack: Stack, gymnast: Run) -> None:
    with GraphClient(domain_id=stack.domain, folder=stack.folder / "robot") as robot:
        robot.wait_ready(30.0)
        robot.estop()
        code, said = gymnast("collect", "--tasks", "lift", "--count", 1, *stack.robot())
        robot.re_arm()
    wait_until(lambda: not stack.service.robots.find("default", "sim-0").status["estop"], 30, "the re-armed robot")
    assert (code, said["error"]) == (4, "EstopLatchedError")
    assert "re-arm it" in said["message"]


def test_job_is_submitted_once_per_key_watched_and_listed(stack: Stack, gymnast: Run) -> None:
    submit = ("jobs", "submit", "improve", "--spec", json.dumps(SPEC), "--key", "once", "--watch")
    code, job = gymnast(*submit, *stack.trainer())
    assert (code, job["state"], job["result"]["audit"]) == (0, "done", {"agreement": 0.9})
    assert gymnast(*submit, *stack.trainer())[1]["job_id"] == job["job_id"]
    code, listed = gymnast("jobs", "list", "--state", "done", *stack.trainer())
    assert [row["job_id"] for row in listed["jobs"]] == [job["job_id"]]
    assert gymnast("jobs", "cancel", job["job_id"], *stack.trainer())[1]["state"] == "done"


def test_failed_job_says_why_and_exits_with_one(stack: Stack, gymnast: Run) -> None:
    spec = json.dumps({**SPEC, "config": {"most_episodes": FAILS}})
    code, job = gymnast("jobs", "submit", "improve", "--spec", spec, "--watch", *stack.trainer())
    assert (code, job["state"], job["error"]) == (1, "failed", "OSError: no space left in [/tmp]")


def test_loop_promotes_what_wins_and_goes_on_where_it_stopped(stack: Stack, gymnast: Run, tmp_path: Path) -> None:
    settings = {
        **DREAM, "name": "first", "rounds": 1,
        "tasks": ["push", "lift"], "collect": 2, "piece": 1, "choosing": 15, "evaluation": 3, "grpo_iterations": 1,
        "job": {"most_episodes": FAILS}, "canary": {"alpha_promote": 0.1, "min_pairs": 1}, "replayed": 1,
    }  # fmt: skip
    path = tmp_path / "loop.json"
    path.write_text(json.dumps(settings))
    code, said = gymnast("loop", "start", path, *stack.trainer())
    assert (code, said["error"]) == (1, "LoopFailedError")
    assert said["message"].startswith("JobEndedError: OSError: no space left in [/tmp]; `gymnast loop start`")
    kept = stack.folder / "trainer" / "console" / "loops" / "default" / "first" / "state.json"
    state = json.loads(kept.read_text())
    assert list(state["steps"]) == [
        "start",
        "0/evaluate/0",
        "0/evaluate/1",
        "0/evaluate/2",
        "1/collect/0",
        "1/collect/1",
        "1/ship",
    ]
    path.write_text(json.dumps({**settings, "job": {}}))
    code, said = gymnast("loop", "start", path, *stack.trainer())
    assert (code, "other ['job']" in said["message"]) == (2, True), "other settings are another loop"
    kept.write_text(json.dumps({**state, "config": {**state["config"], "job": {}}}))
    code, view = gymnast("loop", "start", path, *stack.trainer())
    history = view["history"]
    assert (code, view["state"], view["reason"], history["state"]) == (0, "done", "all rounds done", "all rounds done")
    assert history["base_policy"] == stack.base
    assert history["rounds"][0]["promoted"], history
    (canary,) = history["rounds"][0]["canary"]
    assert (canary["decision"], canary["rule"]["max_pairs"]) == ("promote", 30)
    assert canary["n"] <= 30
    steps = list(json.loads(kept.read_text())["steps"])
    assert steps.index("1/canary/declare") < steps.index(f"1/canary/{canary['candidate']}")
    assert history["policy"] == read_manifest(SHIPPED).id
    assert history["episodes"] == 6 + 4 + 2 * canary["n"] + 6
    jobs = len(stack.service.jobs.list(None))
    again = gymnast("loop", "start", path, *stack.trainer())[1]
    assert again["history"] == history
    assert len(stack.service.jobs.list(None)) == jobs


def test_loop_stops_when_the_audit_keeps_refusing(stack: Stack, gymnast: Run, tmp_path: Path) -> None:
    settings = {
        **DREAM, "name": "refused", "rounds": 5,
        "tasks": ["push"], "collect": 1, "choosing": 1, "evaluation": 6, "job": {"most_episodes": REFUSED},
        "stop": {"refusals": 2},
    }  # fmt: skip
    (tmp_path / "loop.json").write_text(json.dumps(settings))
    code, view = gymnast("loop", "start", tmp_path / "loop.json", *stack.trainer())
    assert code == 0
    assert len(view["history"]["rounds"]) == 2
    assert view["reason"].startswith("the audit refused 2 rounds in a row: world model fails its audit")
    code, said = gymnast("loop", "stop", "refused", *stack.trainer())
    assert (code, "loop 'refused' is not running" in said["message"]) == (1, True)


TTT = ("ttt", "--scene", "standard", "--minutes", "1", "--yes", "--instruction")


def test_adaptation_collects_and_leaves_the_robot_alone_when_the_job_refuses(stack: Stack, gymnast: Run) -> None:
    back_to_base(stack)
    code, said = gymnast(*TTT, "drawer", "--rollouts", 1, *stack.trainer())
    assert (code, said["kept"], said["stage"]) == (3, False, "failed")
    assert "agreement 0.40" in said["reason"]
    figures = said["trust"]["figures"]
    assert figures["needed"] == 3 <= figures["real_episodes_here"], "as many as a judge that abstains takes"
    assert gymnast("operate", "robots", *stack.trainer())[1]["robots"][0]["policy_version"] == stack.base


def test_adaptation_trains_is_tried_on_the_arm_and_kept(stack: Stack, gymnast: Run, tmp_path: Path) -> None:
    back_to_base(stack)
    seen = len(stack.service.episodes.list())
    code, said = gymnast(*TTT, "push", "--seed", 9, "--preview", tmp_path / "films", *stack.trainer())
    shipped = read_manifest(SHIPPED).id
    assert (code, said["kept"], said["candidate"], said["robot"]) == (0, True, shipped, "sim-0"), said["reason"]
    assert (said["card"]["decision"], said["card"]["incumbent"]) == ("promote", stack.base)
    assert said["card"]["difference"]["low"] <= said["card"]["difference"]["mean"]
    assert (tmp_path / "films" / "new.webp").read_bytes()[8:12] == b"WEBP"
    runs = gymnast("evaluate", "--tasks", "push", "--count", 1, *stack.robot())[1]
    assert runs["policies"][0]["id"] == shipped
    assert gymnast("operate", "robots", *stack.trainer())[1]["robots"][0]["policy_version"] == stack.base
    [there] = gymnast("operate", "scenes", *stack.trainer())[1]["scenes"]
    assert (there["robot"], there["scene"], there["checkpoint_id"], there["base"]) == (
        "sim-0", "standard", shipped, stack.base
    )  # fmt: skip
    code, dropped = gymnast("operate", "drop-adapter", "sim-0", shipped, *stack.trainer("operator"))
    assert (code, gymnast("operate", "scenes", *stack.trainer())[1]["scenes"]) == (0, []), dropped
    code, dropped = gymnast("operate", "drop-adapter", "sim-0", shipped, *stack.trainer("operator"))
    assert code != 0
    assert f"'{shipped}' is no adapter of sim-0; it has none" in dropped["message"]
    recorded = [row.metadata["purpose"] for row in stack.service.episodes.list()[seen:]]
    assert recorded.count("canary") == 2 * (said["card"]["n"] + said["card"].get("guard", {"n": 0})["n"])


def test_checkpoint_is_tried_blinded_on_the_arm_and_its_card_names_the_films(stack: Stack, gymnast: Run) -> None:
    back_to_base(stack)
    shipped = read_manifest(SHIPPED).id
    words = ("operate", "try", shipped, "--robot", "sim-0", "--instruction", "lift", "--pairs", 5, "--wait")
    code, said = gymnast(*words, *stack.trainer("operator"))
    card = said["card"]
    assert (said["state"], card["incumbent"]) == ("decided", stack.base), said["reason"]
    assert code == (0 if card["decision"] == "promote" else 3)
    films = [name for pair in card["pairs"] for name in pair["episodes"]]
    rows = {row.episode_id: row for row in stack.service.episodes.list(limit=100_000)}
    assert {rows[name].metadata["purpose"] for name in films} == {"trial"}
    tried = [pair["candidate_first"] for pair in card["pairs"] for _ in "12"]
    tried = [shipped if first == (number % 2 == 0) else stack.base for number, first in enumerate(tried)]
    assert [rows[name].policy_version for name in films] == tried


def back_to_base(stack: Stack) -> None:
    from gymnast_ros.nodes.client import GraphClient

    with GraphClient(domain_id=stack.domain, folder=stack.folder / "robot") as client:
        client.wait_ready(20.0)
        if client.policy_version != stack.base:
            assert client.rollback() == stack.base
        for adapter in client.latest("bridge/status").get("adapters", []):
            client.detach(adapter["checkpoint_id"])

    def reported() -> str:
        report = stack.service.robots.find("default", "sim-0")
        return "" if report is None else str(report.status["policy_version"])

    wait_until(lambda: reported() == stack.base, 30, "the base policy in the robot's report")


def test_checkpoint_is_published_listed_fetched_and_ordered_back(stack: Stack, gymnast: Run, tmp_path: Path) -> None:
    code, said = gymnast("weights", "publish", SHIPPED, *stack.trainer("operator"))
    assert (code, said["error"]) == (77, "NotPermittedError")
    code, release = gymnast("weights", "publish", SHIPPED, "--robot", "nobody", *stack.trainer("trainer"))
    assert (code, release["robots"]) == (0, ["nobody"])
    code, listed = gymnast("weights", "list", *stack.trainer())
    assert listed["releases"][-1] == release
    fetched = tmp_path / "fetched"
    assert gymnast("weights", "fetch", release["checkpoint_id"], fetched, *stack.trainer())[0] == 0
    assert read_manifest(fetched).id == release["checkpoint_id"]
    code, said = gymnast("weights", "fetch", release["checkpoint_id"], fetched, *stack.trainer())
    assert (code, said["error"]) == (2, "ConfigError")
    order = ("weights", "rollback", release["checkpoint_id"], "--reason", "a test", "--robot", "nobody")
    code, said = gymnast(*order, *stack.trainer("admin"))
    assert (code, said["error"]) == (1, "NotPossibleError"), "a robot that never reported is a slip of the pen"
    stack.service.robots.post(Peer("away", "robot", "default"), {"state": "idle"}, b"")
    code, back = gymnast(*order[:-1], "away", *stack.trainer("admin"))
    assert (code, back["kind"], back["reason"]) == (0, "rollback", "a test (by admin)")


def test_retracted_episode_taints_what_was_made_from_it(
    stack: Stack, gymnast: Run, collected: list[str], tmp_path: Path
) -> None:
    from tests.cloud.learning_fakes import tiny_policy

    made = tiny_policy(3).save(tmp_path / "made", lineage={"stage": "grpo", "episodes": collected})
    stack.service.publisher.publish("default", tmp_path / "made", robots=("nobody",))
    code, answer = gymnast("why", made.id, *stack.trainer(), "--verify", "--graph", tmp_path / "graph.json")
    assert (code, answer["counts"]["episode"], answer["damage"], answer["retracted"]) == (0, len(collected), [], [])
    names = {node["id"] for node in json.loads((tmp_path / "graph.json").read_text())["nodes"]}
    assert {made.id, *collected} <= names
    retract = ("episodes", "retract", collected[0], "--reason", "the arm was bumped")
    assert gymnast(*retract, *stack.trainer("robot"))[1]["error"] == "NotPermittedError"
    code, said = gymnast(*retract, *stack.trainer())
    assert {"id": made.id, "kind": "policy"} in said["touched"]
    code, answer = gymnast("why", made.id, *stack.trainer())
    blamed = (answer["retracted"][0]["id"], answer["retracted"][0]["by"])
    assert (code, *blamed) == (3, collected[0], "operator:operator")
    assert [entry.kind for entry in stack.service.trails.of("default").log.entries][-1] == "retract"
    assert collected[0] not in [row.episode_id for row in stack.service.episodes.list()], "it is not trained on again"


def test_unknown_checkpoints_and_episodes_are_said_to_be(stack: Stack, gymnast: Run) -> None:
    for words in (("why", "policy-x"), ("episodes", "show", "ep-x"), ("episodes", "retract", "ep-x", "--reason", "y")):
        code, said = gymnast(*words, *stack.trainer())
        assert (code, said["error"]) == (1, "NotFoundError"), words
        assert "-x" in said["message"]


def test_no_robot_in_this_domain_is_said_within_the_wait(gymnast: Run) -> None:
    code, said = gymnast("evaluate", "--domain", 99, "--wait-s", 0.3)
    assert (code, said["error"]) == (1, "RobotSilentError")
    assert "ROS_DOMAIN_ID" in said["message"]


def test_the_trainer_orders_an_episode_over_the_robots_own_connection(stack: Stack) -> None:
    arm = OrderedRobot(stack.service.orders, stack.service.robots, "default", "sim-0")
    wait_until(lambda: stack.service.robots.find("default", "sim-0") is not None, 20, "a report")
    assert arm.policy_version.startswith("policy-")
    row = arm.run_episode(instruction="lift", seed=31, scene="standard", checkpoint="", record=True, purpose="ttt")
    arm.flush(60.0)
    assert stack.service.episodes.settle(60)
    [kept] = [one for one in stack.service.episodes.all() if one.episode_id == row.episode_id]
    assert (kept.metadata["purpose"], kept.metadata["seed"]) == ("ttt", 31)
    with pytest.raises(OrderError, match=r"sim-0: .*policy-nowhere"):
        arm.swap("policy-nowhere")


def test_an_order_that_takes_too_long_is_ended_at_the_robot(stack: Stack) -> None:
    arm = OrderedRobot(stack.service.orders, stack.service.robots, "default", "sim-0")
    wait_until(lambda: stack.service.robots.find("default", "sim-0") is not None, 20, "a report")
    many = {"tasks": ["lift"], "seed_start": 0, "seed_count": 5000, "scene": "standard", "record": False}
    with pytest.raises(OrderError, match="did not end within 3 s"):
        stack.service.orders.give("default", "sim-0", "evaluate", {**many, "timeout_s": 600.0}, 3.0)
    row = arm.run_episode(instruction="lift", seed=32, scene="standard", checkpoint="", record=False, purpose="ttt")
    assert row.truncated_reason == ""  # it is free again


def test_the_trainers_order_waits_for_what_somebody_runs_at_the_robot_and_is_done_then(stack: Stack) -> None:
    arm = OrderedRobot(stack.service.orders, stack.service.robots, "default", "sim-0")
    wait_until(lambda: stack.service.robots.find("default", "sim-0") is not None, 20, "a report")
    asked = {"instruction": "lift", "seed": 33, "scene": "standard", "checkpoint": "", "record": False}
    with ThreadPoolExecutor(2) as beside, GraphClient(domain_id=stack.domain) as robot:
        robot.wait_ready(30.0)
        local = beside.submit(robot.evaluate, tasks=["lift"], seed_start=0, seed_count=5000, timeout_s=600.0)
        wait_until(lambda: stack.service.robots.find("default", "sim-0").status["state"] == "running", 60, "it to run")
        ordered = beside.submit(arm.run_episode, purpose="ttt", **asked)
        wait_until(lambda: "RobotBusyError: " in arm.unable, 60, "the robot's refusal")
        assert "busy with evaluate" in arm.unable
        assert not ordered.done()
        with GraphClient(domain_id=stack.domain) as other:
            other.wait_ready(30.0)
            other.cancel()
        assert local.result(60.0)["complete"] is False
        assert ordered.result(120.0).truncated_reason == ""
    assert arm.unable == ""


def test_whoever_finds_the_robot_busy_reads_for_whom_and_what_ends_it_and_may_try_again(
    stack: Stack, gymnast: Run
) -> None:
    errand = Errand("ada", "loop", "night", "gymnast loop stop night")
    many = {"tasks": ["lift"], "seed_start": 0, "seed_count": 5000, "scene": "standard", "record": False}
    with ThreadPoolExecutor(1) as beside, GraphClient(domain_id=stack.domain) as robot:
        robot.wait_ready(30.0)
        order = {**many, "timeout_s": 600.0}
        held = beside.submit(
            stack.service.orders.give, "default", "sim-0", "evaluate", order, 600.0, by=errand.order
        )  # fmt: skip
        robot.wait_for("rollout/status", lambda status: status["ordered_by"] == errand.order, 30.0)
        code, said = gymnast("evaluate", "--tasks", "lift", "--count", 1, *stack.robot())
        robot.cancel()
        assert held.result(60.0)["complete"] is False
    assert (code, said["error"]) == (75, "RobotBusyError")
    assert "for ada via loop night, which `gymnast loop stop night` ends; wait" in said["message"]
