"""Practice as an operator meets it: real node processes, the documented commands, a kill in between."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest

from gymnast_cli.main import main
from gymnast_core.episodes import read_episode
from gymnast_ros.nodes.client import RobotRefusedError, RobotSilentError
from gymnast_ros.run.codec import BadRequestError, RobotBusyError
from tests.ros.conftest import wait_until

PATIENCE_S = 90.0


@pytest.fixture
def gymnast(graph, domain_id, capsys):
    """The command line at this robot; returns what it printed as JSON."""

    def call(*words: str) -> dict[str, object]:
        capsys.readouterr()
        where = ("--domain", str(domain_id), "--json")
        assert main(["practise", *words, *where]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return call


def test_a_run_calls_a_person_survives_a_kill_while_it_waits_and_goes_on_when_answered(
    graph, client, replay, gymnast
) -> None:
    still = replay(np.tile([0, 0, 0, 0, 0, 0, 1.0], (15, 1)))
    begun = gymnast("--task", "drawer", "--reset", "open the drawer", "--hours", "2", "--tries", "2", "--detach",
                    "--checkpoint", still, "--episodes", "3", "--resume", "night-1")  # fmt: skip
    wait_until(lambda: (client.practice or {}).get("state") == "waiting", PATIENCE_S, "the call for a person")
    assert (client.practice["page_kind"], client.practice["of_task"]["failures"]) == ("hard_reset", 2)
    with pytest.raises(RobotBusyError, match="practise"):
        client.run_episode(instruction="lift", seed=1, checkpoint=still)
    page_id = client.practice["page_id"]

    os.kill(graph.pids["rollout"], signal.SIGKILL)
    wait_until(lambda: _same_run(client) == begun["run"], PATIENCE_S, "the rollout to be started again")
    shown = gymnast("--status")
    assert (shown["run"], shown["state"], shown["page_id"]) == (begun["run"], "waiting", page_id)

    gymnast("--go-on", "ada", "--folder", str(graph.config.folder))
    wait_until(lambda: (client.practice or {}).get("state") == "ended", PATIENCE_S, "the last episode")
    ended = gymnast("--status")
    assert (ended["reason"], ended["episodes"], ended["interventions"], ended["pages"]) == (
        "all 3 episodes are done", 3, 1, 1,
    )  # fmt: skip
    recorded = [read_episode(path) for path in (graph.config.folder / "spool" / "pending").glob("*.mcap")]
    practised = [episode for episode in recorded if episode.metadata["purpose"] == "practise"]
    assert len([episode for episode in practised if not episode.truncated_reason]) == 3


def _same_run(client) -> str:
    """Asked for again with its key; empty while nobody answers."""
    try:
        return client.begin_practice(task="drawer", reset="open", hours=2.0, resume="night-1")
    except RobotSilentError:
        return ""


def test_stop_ends_it_and_what_cannot_be_is_refused_by_name(graph, client, replay, gymnast) -> None:
    still = replay(np.tile([0, 0, 0, 0, 0, 0, 1.0], (15, 1)))
    with pytest.raises(RobotRefusedError, match="both 'drawer'"):
        client.begin_practice(task="drawer", reset="close the drawer", hours=1.0, resume="one")
    with pytest.raises(BadRequestError, match="hours"):
        client.begin_practice(task="drawer", reset="open", hours=0.0, resume="two")
    with pytest.raises(RobotRefusedError, match="no trainer"):
        client.begin_practice(task="drawer", reset="open", hours=1.0, resume="three", judge="trainer")
    with pytest.raises(RobotRefusedError, match="waits for a person"):
        client.go_on_practising("ada")
    client.begin_practice(task="drawer", reset="open", hours=1.0, resume="four", checkpoint=still, tries=50)
    wait_until(lambda: (client.practice or {}).get("episodes", 0) > 0, PATIENCE_S, "an episode")
    gymnast("--stop")
    wait_until(lambda: (client.practice or {}).get("state") == "ended", PATIENCE_S, "the end")
    assert client.practice["reason"] == "stopped by an operator"
