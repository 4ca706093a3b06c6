"""A sampling temperature from the command line to the policy's own process, and into the recording."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gymnast_cli.main import main
from gymnast_core.episodes import read_episode
from gymnast_core.policies import load_policy
from gymnast_core.policies.compact import ActionBins, CompactNetwork, CompactPolicy, CompactPolicyConfig
from gymnast_ros.bringup import Graph
from gymnast_ros.nodes.client import RobotRefusedError

COLD = 1e-6
"""Next to greedy: an untrained policy's tokens differ by little."""


@pytest.fixture(scope="module")
def undecided(tmp_path_factory) -> str:
    """A policy whose likeliest moves are hardly likelier than the others, at temperature 1."""
    torch.manual_seed(3)
    sizes = CompactPolicyConfig(widths=(4, 4, 4), hidden=8, head=8, text_dim=4)
    low = np.array([-0.02] * 3 + [-0.001] * 3 + [0.0], np.float32)
    high = np.array([0.02] * 3 + [0.001] * 3 + [1.0], np.float32)
    folder = tmp_path_factory.mktemp("undecided") / "policy"
    CompactPolicy(CompactNetwork(sizes), ActionBins(low, high, sizes.bins)).save(folder)
    return str(folder)


def asked(graph: Graph, episode_id: str) -> tuple[np.ndarray, object]:
    """The actions of a recording, and at which temperature its policy was sampled."""
    (path,) = (graph.config.folder / "spool" / "pending").glob(f"{episode_id}*.mcap")
    episode = read_episode(path)
    return episode.actions_TA, episode.metadata.get("temperature")


def test_the_policys_process_samples_at_the_temperature_that_is_asked_for(graph, client, undecided) -> None:
    def run(**how) -> tuple[np.ndarray, object]:
        row = client.run_episode(instruction="lift", seed=3, checkpoint=undecided, **how)
        return asked(graph, row["episode_id"])

    (greedy, at_none), (cold, at_cold) = run(), run(temperature_seed=1, temperature=COLD)
    own, at_own = run(temperature_seed=1)
    assert (at_none, at_cold, at_own) == (0.0, COLD, load_policy(Path(undecided)).temperature)
    np.testing.assert_array_equal(cold, greedy)
    assert not np.array_equal(own, greedy), "what was asked for before does not stay"


def test_the_node_takes_it_as_a_parameter(graph, client, undecided) -> None:
    client.set("rollout", {"temperature": 0.5, "temperature_seed": 4, "checkpoint": undecided, "instruction": "lift"})
    try:
        run = client.call("rollout/run_episode")
        result = client.wait_for("rollout/result", lambda value: value.get("run_id") == run, 60.0)
    finally:
        client.set("rollout", {"temperature": 0.0, "temperature_seed": -1, "checkpoint": ""})
    assert asked(graph, result["episode"]["episode_id"])[1] == 0.5


def test_collect_and_evaluate_take_it_and_refuse_it_where_the_policy_has_none(
    graph, client, domain_id, undecided, replay, tmp_path, capsys
) -> None:
    words = ["--json", "evaluate", undecided, "--tasks", "lift", "--count", "2", "--sample", "1", "--domain", domain_id]
    assert main([*map(str, words), "--temperature", "0.5", "--out", str(tmp_path / "result.json")]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert [asked(graph, row["episode_id"])[1] for row in result["episodes"]] == [0.5, 0.5]
    still = replay(np.tile([0, 0, 0, 0, 0, 0, 1.0], (15, 1)))
    with pytest.raises(RobotRefusedError, match="cannot be sampled at another temperature than its own"):
        client.run_episode(instruction="lift", seed=3, checkpoint=still, temperature_seed=0, temperature=0.5)
    capsys.readouterr()
    words = ["collect", "--tasks", "lift", "--count", "1", "--keep-local", "--domain", str(domain_id)]
    with pytest.raises(SystemExit):
        main([*words, "--temperature", "0"])
    assert "must be above 0 and at most 10" in capsys.readouterr().err


def practised(graph: Graph, capsys, *words: str) -> tuple[dict[str, object], list[object]]:
    """What `gymnast practise` came to, and at which temperatures its whole episodes were sampled."""
    capsys.readouterr()
    asked_for = ("--task", "drawer", "--reset", "open", "--hours", "1", "--episodes", "2", "--tries", "50")
    assert main(["practise", *asked_for, *words, "--domain", str(graph.config.domain_id), "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = [read_episode(path) for path in (graph.config.folder / "spool" / "pending").glob("*.mcap")]
    ours = [one for one in found if (one.metadata.get("practice") or {}).get("run") == said["run"]]
    return said, [one.metadata.get("temperature") for one in ours if not one.truncated_reason]


@pytest.mark.parametrize(
    ("words", "expected"), [((), 0.25), (("--temperature", "0.5"), 0.5), (("--sample", "-1"), 0.0)]
)
def test_practice_explores_every_episode_at_a_quarter_unless_asked(
    graph, client, undecided, capsys, words, expected
) -> None:
    said, temperatures = practised(graph, capsys, "--checkpoint", undecided, *words)
    assert said["episodes"] == 2
    assert temperatures == [expected, expected]


def test_practice_of_what_has_no_temperature_goes_on_as_ever_and_refuses_one_by_name(
    graph, client, replay, capsys
) -> None:
    still = replay(np.tile([0, 0, 0, 0, 0, 0, 1.0], (15, 1)))
    said, temperatures = practised(graph, capsys, "--checkpoint", still)
    assert (said["episodes"], temperatures) == (2, [None, None])
    said, temperatures = practised(graph, capsys, "--checkpoint", still, "--temperature", "0.5")
    assert (said["episodes"], said["state"], temperatures) == (0, "ended", [])
    assert "cannot be sampled at another temperature than its own" in said["reason"]
