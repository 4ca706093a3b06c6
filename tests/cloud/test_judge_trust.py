"""Calibration against operator labels, the floor RL asks for, and the drift alarm."""

import numpy as np
import pytest

from cloud_trainer.judge.drift import DriftMonitor, Reference, binomial_at_least, ks_p_value
from cloud_trainer.judge.trust import JudgeCalibration, compare, require_trusted
from gymnast_core.errors import ConfigError, ContractError, CorruptError, NotTrustedError
from gymnast_core.judge import Verdict
from gymnast_core.types import Outcome

YES, NO, ABSTAIN = Outcome.SUCCESS, Outcome.FAILURE, Outcome.ABSTAIN


def report_of(pairs, version="judge-a", task="lift"):
    verdicts = [Verdict(said, 0.5) for said, _ in pairs]
    return compare(version, verdicts, [label for _, label in pairs], [task] * len(pairs))


def test_counts_by_hand():
    pairs = [(YES, YES)] * 8 + [(YES, NO)] * 2 + [(NO, YES)] * 3 + [(NO, NO)] * 5 + [(ABSTAIN, YES)] * 1
    row = report_of(pairs).of("lift")
    assert row.labelled == 19
    assert row.abstained == 1
    assert row.precision.mean == pytest.approx(0.8)
    assert row.recall.mean == pytest.approx(8 / 12)  # the abstention counts as missed
    assert row.precision.low == pytest.approx(0.4902, abs=1e-4)  # Wilson 8/10, by hand
    assert row.precision.high == pytest.approx(0.9433, abs=1e-4)


def test_tasks_are_kept_apart_and_unlabelled_rows_left_out():
    verdicts = [Verdict(said, 0.5) for said in (YES, YES, NO, YES)]
    labels = [YES, NO, YES, Outcome.UNLABELLED]
    report = compare("judge-a", verdicts, labels, ["lift", "lift", "push", "push"])
    assert [row.task for row in report.tasks] == ["*", "lift", "push"]
    assert report.of("lift").precision.mean == 0.5
    assert report.of("push").precision is None
    assert report.of("push").recall.mean == 0.0
    assert report.of("*").labelled == 3


def test_floor_is_on_the_lower_bound_not_the_mean():
    few, many = ([(YES, YES)] * n for n in (8, 80))
    with pytest.raises(NotTrustedError, match=r"lower bound 0\.68.*floor 0\.8"):
        require_trusted(report_of(few), "judge-a", ["lift"], floor=0.8)
    require_trusted(report_of(many), "judge-a", ["lift", "lift"], floor=0.8)


def test_another_version_or_task_is_refused():
    report = report_of([(YES, YES)] * 80)
    with pytest.raises(NotTrustedError, match="judge-b"):
        require_trusted(report, "judge-b", ["lift"], floor=0.8)
    with pytest.raises(NotTrustedError, match="'stack'"):
        require_trusted(report, "judge-a", ["lift", "stack"], floor=0.8)
    with pytest.raises(ConfigError, match="floor"):
        require_trusted(report, "judge-a", ["lift"], floor=1.0)


def test_report_survives_a_file(tmp_path):
    report = report_of([(YES, YES)] * 3 + [(NO, NO)])
    report.write(tmp_path / "trust.json")
    assert JudgeCalibration.read(tmp_path / "trust.json") == report
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(CorruptError, match="gymnast judge calibrate"):
        JudgeCalibration.read(tmp_path / "bad.json")


def test_mistakes_are_named():
    verdicts = [Verdict(YES, 0.5)] * 2
    with pytest.raises(ContractError, match="2 verdicts, 1 labels and 2 tasks"):
        compare("judge-a", verdicts, [YES], ["a", "b"])
    with pytest.raises(ConfigError, match="label some first"):
        compare("judge-a", verdicts, [Outcome.UNLABELLED] * 2, ["a", "b"])


def test_binomial_tail_by_hand():
    assert binomial_at_least(3, 3, 0.5) == pytest.approx(0.125)
    assert binomial_at_least(1, 2, 0.1) == pytest.approx(0.19)
    assert binomial_at_least(0, 5, 0.1) == 1.0
    assert binomial_at_least(3, 5, 0.0) < 1e-7


def test_ks_sees_a_shift_and_not_a_resample():
    rng = np.random.default_rng(0)
    a, b = rng.beta(2, 2, 300), rng.beta(2, 2, 300)
    assert ks_p_value(a, b) > 0.05
    assert ks_p_value(a, b + 0.3) < 1e-6
    assert ks_p_value([0.0] * 20, [0.0] * 20) == 1.0


def batch(rng, n, *, shift=0.0, abstain=0.1):
    scores = np.clip(rng.beta(2, 2, n) + shift, 0, 1)
    return [
        Verdict(ABSTAIN if rng.random() < abstain else YES if score >= 0.5 else NO, float(score)) for score in scores
    ]


def monitor(rng, **options):
    return DriftMonitor(Reference(tuple(rng.beta(2, 2, 400)), abstained=0.1, precision=0.9), **options)


def test_a_steady_judge_raises_no_alarm_over_many_looks():
    alarms = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        watch = monitor(rng)
        for _ in range(10):
            watch.add(batch(rng, 40))
            alarms += watch.look().alarm
    assert alarms == 0


@pytest.mark.parametrize(("change", "sign"), [({"shift": 0.3}, "scores"), ({"abstain": 0.5}, "abstentions")])
def test_a_moved_judge_is_noticed_within_two_batches(change, sign):
    rng = np.random.default_rng(1)
    watch = monitor(rng)
    for _ in range(2):
        watch.add(batch(rng, 100, **change))
        drift = watch.look()
    assert drift.alarm
    assert sign in drift.signs


def test_contradicting_labels_are_noticed():
    rng = np.random.default_rng(2)
    watch = monitor(rng)
    verdicts = [Verdict(YES, float(score)) for score in rng.beta(2, 2, 30)]
    watch.add(verdicts, [NO] * 15 + [YES] * 15)
    drift = watch.look()
    assert "precision" in drift.signs
    with pytest.raises(ConfigError, match="too few"):
        Reference((0.1, 0.2), 0.0, 0.9)
