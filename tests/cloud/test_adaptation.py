"""Test-time training's parts: budgets, the anchor, adapters, and a forgetting check that says what it cannot see."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cloud_trainer.jobs.adapt import frame_anchor, iterations_within
from cloud_trainer.jobs.forgetting import Forgetting, ForgettingCheck, load_batched
from cloud_trainer.world_model.compact.data import clips_of, starts_of
from gymnast_core.jobs.grpo import GrpoConfig
from gymnast_core.judge import Verdict
from gymnast_core.policies.adapter import ADAPTER_OF
from gymnast_core.policies.lora_settings import LoraSettings
from gymnast_core.records.manifest import read_manifest
from gymnast_core.types import Outcome
from tests.cloud.learning_fakes import episode, tiny_policy, tiny_world
from tests.cloud.local_sampler import local_sampler, run_grpo

REQUEST = {"scene": "evening", "instruction": "lift the red cube"}
CLIPS = clips_of([episode(seed) for seed in range(8)], 64)


class Planted:
    """Judges the n-th batch of ends by the n-th planted list of outcomes."""

    version = "planted"

    def __init__(self, *batches):
        self.batches = list(batches)

    def judge(self, rollouts):
        rows = self.batches.pop(0)
        assert len(rows) == len(rollouts.length_B)
        names = {"s": Outcome.SUCCESS, "f": Outcome.FAILURE, "?": Outcome.ABSTAIN}
        return [Verdict(names[row], float(row == "s")) for row in rows]


def test_a_rollout_budget_ends_within_the_iteration_that_uses_it_up():
    assert iterations_within(None, 8, 192) == 8
    assert iterations_within(1, 8, 192) == 1
    assert iterations_within(192, 8, 192) == 1
    assert iterations_within(193, 8, 192) == 2
    assert iterations_within(10**6, 8, 192) == 8


def test_the_anchor_is_zero_at_the_old_policy_and_grows_with_the_distance_from_it():
    base, other = tiny_policy(0), tiny_policy(0)
    anchor = frame_anchor(base, CLIPS, weight=2.0, frames=6)
    assert float(anchor(other, np.random.default_rng(0)).detach()) == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        other.network.head.bias[0] += 1.0
    near = float(anchor(other, np.random.default_rng(0)).detach())
    with torch.no_grad():
        other.network.head.bias[0] += 1.0
    far = float(anchor(other, np.random.default_rng(0)).detach())
    assert 0 < near < far
    double = frame_anchor(base, CLIPS, weight=4.0, frames=6)
    assert float(double(other, np.random.default_rng(0)).detach()) == pytest.approx(2 * far)


def test_an_anchored_policy_stays_nearer_to_where_it_was(tmp_path):
    tiny_policy(0).save(tmp_path / "base")
    config = GrpoConfig(group_size=4, groups=2, iterations=2, learning_rate=5e-3, keep_low=0.0, keep_high=1.0, seed=1)
    base = load_batched(tmp_path / "base")
    measure = frame_anchor(base, CLIPS, weight=1.0, frames=64)

    def moved(name, anchor):
        judge = Planted(*["sfsfsfsf"] * 2)
        sampler = local_sampler(tiny_world(), judge, starts_of(CLIPS), config)
        run_grpo(tmp_path / "base", sampler, config, tmp_path / name, candidate_every=2, anchor=anchor)
        trained = load_batched(tmp_path / name / "iteration-02")
        return float(measure(trained, np.random.default_rng(5)).detach())

    free, held = moved("free", None), moved("held", frame_anchor(base, CLIPS, weight=100.0, frames=32))
    assert held < 0.7 * free


def test_adapters_are_small_checkpoints_that_open_beside_their_parent(tmp_path):
    parent = tiny_policy(0).save(tmp_path / "base").id
    config = GrpoConfig(group_size=4, groups=2, iterations=1, learning_rate=1e-2, seed=1)
    sampler = local_sampler(tiny_world(), Planted("sfsfsfsf"), starts_of(CLIPS), config)
    training = run_grpo(tmp_path / "base", sampler, config, tmp_path / "out", lora=LoraSettings(rank=2, alpha=4.0))
    (candidate,) = training.candidates
    manifest = read_manifest(candidate.folder)
    assert (manifest.architecture, manifest.parents, manifest.config[ADAPTER_OF]) == ("lora", (parent,), parent)
    size = (candidate.folder / "weights.safetensors").stat().st_size
    assert size < 0.25 * (tmp_path / "base" / "weights.safetensors").stat().st_size
    adapted = load_batched(candidate.folder)
    assert adapted.version == manifest.id
    change = frame_anchor(load_batched(tmp_path / "base"), CLIPS, weight=1.0)(adapted.base, np.random.default_rng(0))
    assert float(change.detach()) > 0


def figures(**changed):
    fields = {"before": 0.8, "after": 0.8, "n": 100, "low": -0.04, "high": 0.04, "sight": 0.5, "by_task": {}}
    return Forgetting(**{**fields, **changed})


def test_what_is_compared_with_the_bound_is_the_most_that_may_really_be_lost():
    assert figures().most == pytest.approx(0.08)  # an imagined loss of up to 0.04 in a dream that sees half of it
    assert figures().refusal(0.10) == ""
    assert "may forget up to 0.12" in figures(low=-0.06).refusal(0.10)
    assert figures(low=0.02).most < 0
    assert "confuses success and failure elsewhere" in figures(sight=0.1).refusal(0.10)
    assert figures(sight=0.1, low=-0.9).refusal(1.0) == ""
    assert "was not measured" in figures(sight=None).refusal(0.10)
    assert (figures(sight=None).most, figures(sight=None).record(0.10).sight) == (1.0, None)
    assert json.loads(json.dumps(figures().record(0.10).to_json()))["ok"] is True


def test_a_loss_in_one_task_refuses_whatever_the_others_gain():
    lost = {"put": {"before": 0.9, "after": 0.86, "n": 60, "low": -0.06, "high": -0.01}}
    said = figures(low=0.05, by_task=lost).refusal(0.10)
    assert "may forget up to 0.12 of success on 'put', 0.10 is allowed (imagined 0.90 to 0.86, n = 60)" in said
    assert figures(low=0.05, by_task={"put": {**lost["put"], "low": -0.05}}).refusal(0.10) == ""


def test_forgetting_is_counted_on_pairs_and_seen_through_the_dreams_own_mistakes(tmp_path):
    for seed, name in ((0, "before"), (1, "after")):
        tiny_policy(seed).save(tmp_path / name)
    # recorded: odd seeds succeeded; "close the drawer" are 0, 3, 6, the rest is what was adapted to
    # audit: 1 of 4 successes missed, 1 of 4 failures taken for a success: sight 1 - 0.25 - 0.25
    judge = Planted("ssssssss", "fsfsssff", "fs?fssss")
    check = ForgettingCheck(
        tiny_world(), judge, CLIPS, Path(tmp_path / "before"), steps=15, adapted_to="lift the red cube", seed=0
    )
    found = check.of(tmp_path / "after")
    assert found.sight == pytest.approx(0.5)
    assert (found.n, found.before) == (3, 1.0)
    assert found.after == pytest.approx(1 / 3)
    assert found.by_task["lift the red cube"]["n"] == 4  # the abstention at 2 is left out of both
    assert found.by_task["lift the red cube"]["after"] == 1.0
    assert found.most == 1.0
    assert "may forget" in found.refusal(0.10)


def check_of(tmp_path, before: str, ends: str) -> ForgettingCheck:
    tiny_policy(0).save(tmp_path / "before")
    return ForgettingCheck(
        tiny_world(),
        Planted(before, ends),
        CLIPS,
        tmp_path / "before",
        steps=15,
        adapted_to="lift the red cube",
        seed=0,
    )


@pytest.mark.parametrize(
    ("before", "ends", "words"),
    [
        ("ssssssss", "f?f?f?f?", "4 are successes and 0 failures"),  # in the order of ends: even failed, odd succeeded
        ("ssssssss", "????????", "0 are successes and 0 failures"),
        ("ssssssss", "sfsfsfsf", "the dream confuses success and failure elsewhere (sight -1.00 < 0.2)"),
        # at a rate of 1 it takes 25 starts to exclude a loss of 0.10, at 0.5 it takes 16
        ("ssssssss", "fsfsfsfs", "collect about 44 more of 'close the drawer', about 40 more of 'lift the red cube'"),
    ],
)
def test_what_no_candidate_could_pass_is_known_before_one_is_trained(tmp_path, before, ends, words):
    if "f?" in ends:
        ends = ends.translate(str.maketrans("f?", "?f"))  # the judge decides on those that succeeded alone
    check = check_of(tmp_path, before, ends)
    assert words in check.refusal_beforehand(0.10)
    assert check.refusal_beforehand(1.0) == ""


def test_where_one_may_pass_it_is_trained(tmp_path):
    check = check_of(tmp_path, "sfsfsfsf", "fsfsfsfs")
    assert "more of" in check.refusal_beforehand(0.40)
    assert check.refusal_beforehand(0.60) == ""
