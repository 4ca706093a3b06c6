"""One unattended loop over two started robots, from the command line: one is stopped on the way and catches up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gymnast_core.records.manifest import read_manifest
from tests.cli.conftest import DOMAIN, DREAM, SHIPPED, Run, robot_of, started
from tests.ros.conftest import GraphClient, wait_until

pytestmark = pytest.mark.slow  # two graphs of nodes, some hundred simulated episodes: minutes on a busy machine


def test_a_stopped_robot_is_passed_over_and_runs_what_the_loop_kept_once_it_is_armed(
    tmp_path: Path, gymnast: Run
) -> None:
    settings = {
        **DREAM, "name": "two", "rounds": 1, "tasks": ["push", "lift"],
        "collect": 6, "piece": 1, "choosing": 15, "evaluation": 4, "grpo_iterations": 1, "replayed": 1,
        "canary": {"alpha_promote": 0.1, "min_pairs": 1},
    }  # fmt: skip
    path, domains = tmp_path / "loop.json", {"arm-1": DOMAIN, "arm-2": DOMAIN + 58}
    path.write_text(json.dumps(settings))
    robots = [word for name in domains for word in ("--robot", name)]
    with (
        started(tmp_path) as stack,
        robot_of(stack, "arm-1", domains["arm-1"], folder="robot-1", identity="arm-1"),
        robot_of(stack, "arm-2", domains["arm-2"], folder="robot-2", identity="arm-2"),
        GraphClient(domain_id=domains["arm-2"], folder=stack.folder / "robot-2") as second,
    ):
        second.wait_ready(60.0)
        code, said = gymnast("loop", "start", path, *stack.trainer())
        assert (code, "name them with --robot" in said["message"]) == (2, True)
        code, begun = gymnast("loop", "start", path, *robots, "--detach", *stack.trainer())
        assert (code, begun["robots"]) == (0, ["arm-1", "arm-2"])

        def now() -> dict[str, object]:
            return gymnast("loop", "show", "two", *stack.trainer())[1]

        wait_until(lambda: "collect" in now()["step"], 300.0, "the first evaluation")
        second.estop()
        wait_until(lambda: now()["step"] == "reach", 600.0, "all but the stopped robot")
        assert "waits for arm-2 (stopped" in now()["note"]
        running = {name: stack.service.robots.find("default", name).status["policy_version"] for name in domains}
        assert running == {"arm-1": read_manifest(SHIPPED).id, "arm-2": stack.base}
        second.re_arm()
        code, view = gymnast("loop", "watch", "two", *stack.trainer())
        assert (code, view["state"], view["history"]["behind"]) == (0, "done", {}), view["reason"]
        (row,) = view["history"]["rounds"]
        assert (row["promoted"], row["evaluated"]) == (True, {"arm-1": 8})
        assert sum(row["collected"].values()) == 12

        def runs() -> str:
            return str(stack.service.robots.find("default", "arm-2").status["policy_version"])

        wait_until(lambda: runs() == read_manifest(SHIPPED).id, 60.0, "arm-2's report of the kept policy")
