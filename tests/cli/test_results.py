"""The rules by which an adapted checkpoint stays, and the table of an evaluation, by hand-worked numbers."""

from __future__ import annotations

import pytest

from benchmarks.keep_rule import KeepRule, judge_trial
from gymnast_cli.commands import evaluate
from gymnast_core.evaluation.results import counts, difference, trials_of


def part(mean: float, doubt: float = 0.0) -> dict[str, dict[str, float]]:
    return {"difference": {"mean": mean, "low": mean - doubt, "high": mean + doubt}}


@pytest.mark.parametrize(
    ("scene", "others", "kept", "reason"),
    [
        (0.25, 0.0, True, "gains +25% in the scene, +0% on the other tasks"),
        (0.25, -0.10, True, "gains +25% in the scene, -10% on the other tasks"),
        (0.25, -0.15, False, "loses 15% on the other tasks, 10% allowed"),
        (0.0, 0.5, False, "no gain in the scene: +0%"),
        (-0.1, 0.0, False, "no gain in the scene: -10%"),
    ],
)
def test_kept_only_if_it_wins_here_and_does_not_forget_elsewhere(scene, others, kept, reason) -> None:
    verdict, words = judge_trial(part(scene), part(others), KeepRule())
    assert verdict is kept
    assert reason in words


def test_a_loss_that_the_trial_cannot_exclude_is_not_kept() -> None:
    assert judge_trial(part(0.25), part(-0.02, 0.08), KeepRule())[0]
    kept, words = judge_trial(part(0.25), part(-0.03, 0.08), KeepRule())
    assert not kept
    assert "up to 11% may be lost on the other tasks, 10% allowed; try it on more start states" in words


def test_without_other_tasks_only_the_scene_counts() -> None:
    assert judge_trial(part(0.1), {}, KeepRule(gain=0.05))[0]
    assert not judge_trial(part(0.1), {}, KeepRule(gain=0.1))[0]


def row(policy: str, seed: int, success: bool | None) -> dict[str, object]:
    return {"policy": policy, "task": "lift", "seed": seed, "success": success}


def test_unlabelled_episode_is_neither_success_nor_failure() -> None:
    result = {"episodes": [row("a", 1, True), row("a", 2, None), row("b", 1, False), row("b", 2, True)]}
    trials = trials_of(result, ["a", "b"])
    assert trials == {"a": {("lift", 1): True, ("lift", 2): None}, "b": {("lift", 1): False, ("lift", 2): True}}
    own = {"successes": 1, "n": 1, "unlabelled": 1}
    assert counts(trials["a"]) == {**own, "tasks": {"lift": own}}
    first, second = evaluate.summarise(trials, ["a", "b"])["policies"]
    assert (first["n"], first["unlabelled"], second["n"]) == (1, 1, 2)
    assert second["difference"]["mean"] == difference(trials["a"], trials["b"])["mean"] == -1.0
    assert evaluate.cells(first, None)[0] == "1/1 (1 not labelled)"


def test_summary_pairs_with_the_first_checkpoint() -> None:
    a = {("lift", seed): seed < 2 for seed in range(10)}
    b = {("lift", seed): seed < 7 for seed in range(10)}
    first, second = evaluate.summarise({"a": a, "b": b}, ["a", "b"])["policies"]
    assert first["difference"] is None
    assert (second["successes"], second["n"]) == (7, 10)
    assert second["difference"]["mean"] == pytest.approx(0.5)
    assert second["difference"]["p"] == pytest.approx(2 / 2**5)
    assert second["interval"]["low"] == pytest.approx(0.3968, abs=1e-4)
    assert second["interval"]["high"] == pytest.approx(0.8922, abs=1e-4)


def test_cancelled_evaluation_compares_only_whole_pairs() -> None:
    a = {("lift", 0): False, ("lift", 1): False}
    b = {("lift", 0): True}
    first, second = evaluate.summarise({"a": a, "b": b}, ["a", "b"])["policies"]
    assert first["n"] == 2
    assert second["difference"]["mean"] == 1.0
    assert evaluate.summarise({"a": {}}, ["a"])["policies"][0]["interval"] is None
