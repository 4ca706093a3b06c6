import dataclasses

import numpy as np
import pytest
import torch

from cloud_trainer.jobs.judging import JudgeData, real_examples, refine_judge
from cloud_trainer.judge.examples import Examples, examples_from_rollouts, join_examples
from cloud_trainer.judge.learned import JudgeConfig, JudgeNetwork, LearnedJudge
from cloud_trainer.judge.thresholds import Thresholds, calibrate, calibration_report, choose_thresholds
from cloud_trainer.judge.training import JudgeTrainer, JudgeTraining, _balanced, train_judge
from cloud_trainer.world_model.compact.data import clips_of
from gymnast_core.errors import ConfigError
from gymnast_core.records.manifest import read_manifest
from gymnast_core.types import Outcome, RolloutBatch
from tests.cloud.learning_fakes import episode, tiny_world

SIZES = JudgeConfig(widths=(8, 8, 8), hidden=16, text_buckets=32, text_dim=8)


def tiny_judge(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LearnedJudge(JudgeNetwork(SIZES))


def bright_or_dark(count, seed=0):
    """Success is a bright square in the last frame."""
    rng = np.random.default_rng(seed)
    success = rng.random(count) < 0.5
    first = rng.integers(90, 110, (count, 64, 64, 3), dtype=np.uint8)
    last = first.copy()
    last[success, 20:40, 20:40] = 250
    return Examples(first, last, ("lift the red cube",) * count, success, np.ones(count, np.float32))


def rollouts_of(examples):
    rows = len(examples)
    frames = np.stack([examples.first_NHWC, examples.first_NHWC, examples.last_NHWC], axis=1)
    zeros = np.zeros((rows, 10, 7), np.float32)
    steps, length = np.array([0, 5, 10]), np.full(rows, 10)
    groups = np.arange(rows)
    return RolloutBatch(examples.instructions, steps, frames, zeros, zeros.astype(np.int64), zeros, length, "v", groups)


def test_judge_learns_what_the_last_frame_shows():
    config = JudgeTraining(iterations=60, batch_size=32)
    judge = train_judge(bright_or_dark(120), config, sizes=SIZES)
    held = bright_or_dark(60, seed=1)
    verdicts = judge.judge(rollouts_of(held))
    called = np.array([verdict.outcome is Outcome.SUCCESS for verdict in verdicts])
    assert (called == held.success_N).mean() > 0.95


def test_score_between_the_thresholds_abstains_and_says_why():
    judge = tiny_judge()
    judge.thresholds = Thresholds(0.0, 1.0)
    verdicts = judge.judge(rollouts_of(bright_or_dark(3)))
    assert {verdict.outcome for verdict in verdicts} == {Outcome.ABSTAIN}
    assert verdicts[0].evidence == {"frames": [0, -1], "low": 0.0, "high": 1.0}
    assert 0 < verdicts[0].score < 1


def test_thresholds_name_outcomes_and_a_score_that_is_no_number_abstains():
    band = Thresholds(0.4, 0.6)
    assert [band.outcome(score) for score in (0.4, 0.5, 0.6, float("nan"))] == [
        Outcome.FAILURE,
        Outcome.ABSTAIN,
        Outcome.SUCCESS,
        Outcome.ABSTAIN,
    ]
    with pytest.raises(ConfigError):
        Thresholds(0.7, 0.6)


def test_chosen_thresholds_separate_and_leave_the_asked_share_undecided():
    score = np.concatenate([np.linspace(0.0, 0.4, 70), np.linspace(0.5, 1.0, 30)]).astype(np.float32)
    success = np.arange(100) >= 70
    assert (score >= choose_thresholds(score, success, abstain=0.0).high).tolist() == success.tolist()
    band = choose_thresholds(score, success, abstain=0.2)
    assert ((score > band.low) & (score < band.high)).mean() == pytest.approx(0.2, abs=0.03)
    with pytest.raises(ConfigError):
        choose_thresholds(score, np.ones(100, bool))


def test_generous_scores_get_a_higher_threshold():
    rng = np.random.default_rng(0)
    success = rng.random(400) < 0.3
    score = np.clip(0.35 * success + rng.normal(0.5, 0.15, 400), 0, 1).astype(np.float32)
    band = choose_thresholds(score, success, abstain=0.0)
    assert band.high > 0.6
    assert abs((score >= band.high).mean() - success.mean()) < 0.03


def test_calibration_matches_counts_by_hand():
    score = np.array([0.9, 0.9, 0.9, 0.5, 0.1, 0.1], np.float32)
    success = np.array([1, 1, 0, 1, 0, 1], bool)
    found = calibrate(score, success, Thresholds(0.4, 0.6))
    assert found.abstained == pytest.approx(1 / 6)
    assert found.accuracy == pytest.approx(3 / 5)
    assert found.precision[0] == pytest.approx(2 / 3)
    assert found.recall[0] == pytest.approx(2 / 3)
    assert found.false_success[0] == pytest.approx(1 / 2)
    assert found.precision[1] < 2 / 3 < found.precision[2]
    assert found.optimism == pytest.approx(0.0)
    tasks = calibration_report(score, success, ["a", "a", "b", "b", "b", "b"], Thresholds(0.4, 0.6))["tasks"]
    assert tasks["a"]["accuracy"] == 1.0
    assert tasks["b"]["examples"] == 4


def test_rare_outcome_is_drawn_at_least_three_times_in_ten():
    examples = join_examples(bright_or_dark(10))
    success = np.arange(10) == 0
    weight = _balanced(dataclasses.replace(examples, success_N=success, weight_N=np.ones(10, np.float32)))
    assert weight[0] / weight.sum() == pytest.approx(0.3, abs=1e-6)


def test_examples_of_one_outcome_teach_nothing():
    alike = dataclasses.replace(bright_or_dark(4), success_N=np.ones(4, bool))
    with pytest.raises(ConfigError, match="same outcome"):
        train_judge(alike, JudgeTraining(iterations=1))


def test_rollout_examples_take_first_and_last_kept_frame():
    given = bright_or_dark(4)
    taken = examples_from_rollouts(rollouts_of(given), given.success_N)
    np.testing.assert_array_equal(taken.first_NHWC, given.first_NHWC)
    np.testing.assert_array_equal(taken.last_NHWC, given.last_NHWC)


def test_training_resumes_bit_for_bit(tmp_path):
    config = JudgeTraining(iterations=6, batch_size=8)
    straight = JudgeTrainer(tiny_judge(), bright_or_dark(40), config)
    for _ in range(6):
        straight.run_step()
    halves = JudgeTrainer(tiny_judge(), bright_or_dark(40), config)
    for _ in range(3):
        halves.run_step()
    halves.save(tmp_path / "state")
    resumed = JudgeTrainer(tiny_judge(seed=4), bright_or_dark(40), config)
    resumed.load(tmp_path / "state")
    for _ in range(3):
        resumed.run_step()
    assert resumed.losses == straight.losses


def test_refined_judge_carries_its_calibration_and_loads_with_its_thresholds(tmp_path):
    clips = clips_of([episode(seed) for seed in range(8)], 64)
    assert real_examples(clips, 64).success_N.tolist() == clips.success_N.tolist()
    data = JudgeData(clips.take(range(4)), clips.take(range(2, 6)), clips.take(range(4, 8)))
    config = JudgeTraining(iterations=2, batch_size=4)
    manifest = refine_judge(tiny_world(), data, config, tmp_path / "judge")
    assert read_manifest(tmp_path / "judge").lineage["calibration"]["overall"]["examples"] == 4
    assert manifest.lineage["choosing"] == list(clips.take(range(4, 8)).episode_ids)
    loaded = LearnedJudge.load(tmp_path / "judge")
    assert loaded.version == manifest.id
    assert {"low": loaded.thresholds.low, "high": loaded.thresholds.high} == manifest.normalisation
