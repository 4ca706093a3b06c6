"""A falling learning rate and averaged weights: what they are, and that an interrupted run goes on to the bit."""

import numpy as np
import pytest
import safetensors.numpy
import torch

from benchmarks.ceiling import average_of
from cloud_trainer.practice.grpo.average import WeightAverage
from cloud_trainer.progress import CancelledError
from cloud_trainer.training_state import read_values
from gymnast_core.errors import ConfigError
from tests.cloud.learning_fakes import tiny_policy
from tests.cloud.local_sampler import run_grpo
from tests.cloud.test_grpo import CONFIG, sampler

STEADY = CONFIG.changed(keep_low=0.0, keep_high=1.0, learning_rate=1e-3, final_rate=0.1, average_decay=0.5)


@pytest.fixture
def base(tmp_path):
    tiny_policy().save(tmp_path / "base")
    return tmp_path / "base"


def weights(folder):
    return safetensors.numpy.load_file(folder / "weights.safetensors")


def run(base, config, out, **options):
    return run_grpo(base, sampler(config), config, out, candidate_every=1, **options)


def test_average_matches_numbers_worked_by_hand():
    layer = torch.nn.Linear(1, 1, bias=False)
    average, seen = WeightAverage(layer, 0.5), []
    for number, value in enumerate((1.0, 4.0, 7.0), start=1):
        layer.weight.data.fill_(value)
        average.follow(number)
        with average.published():
            seen.append(layer.weight.item())
        assert layer.weight.item() == value
    # (1), (0.5 * 1 + 4) / 1.5, (0.25 * 1 + 0.5 * 4 + 7) / 1.75
    assert seen == pytest.approx([1.0, 3.0, 5.285714])


def test_learning_rate_goes_by_the_number_of_the_update(tmp_path, base):
    trained = run(base, STEADY, tmp_path / "run")
    # 1e-3 * (0.1 + 0.9 * (1 + cos(pi t / 4)) / 2), t = 0..3
    assert [row["learning_rate"] for row in trained.history] == pytest.approx([1e-3, 8.682e-4, 5.5e-4, 2.318e-4], 1e-3)


def test_candidates_are_the_average_of_the_iterates_which_it_does_not_change(tmp_path, base):
    plain = run(base, STEADY.changed(average_decay=0.0), tmp_path / "plain")
    averaged = run(base, STEADY, tmp_path / "averaged")
    assert averaged.history == plain.history
    average_of([candidate.folder for candidate in plain.candidates[:3]], 0.5, tmp_path / "by hand")
    wanted, last = weights(tmp_path / "by hand"), weights(plain.candidates[2].folder)
    for name, found in weights(averaged.candidates[2].folder).items():
        np.testing.assert_array_equal(found, wanted[name])
    assert any((wanted[name] != last[name]).any() for name in last)


def test_interrupted_run_goes_on_to_the_bit_with_falling_rate_and_average(tmp_path, base):
    straight, state, done = run(base, STEADY, tmp_path / "a"), tmp_path / "state", []
    with pytest.raises(CancelledError, match="2 of 4"):
        run(base, STEADY, tmp_path / "b", state=state, progress=done.append, cancelled=lambda: len(done) == 2)
    assert len(read_values(state)["history"]) == 2
    resumed = run(base, STEADY, tmp_path / "b", state=state)
    assert [candidate.version for candidate in resumed.candidates] == [c.version for c in straight.candidates]
    assert resumed.history == straight.history


@pytest.mark.parametrize(("change", "says"), [({"average_decay": 1.0}, "average_decay"), ({"final_rate": 2}, "final")])
def test_settings_out_of_range_are_refused_by_name(change, says):
    with pytest.raises(ConfigError, match=says):
        CONFIG.changed(**change)
