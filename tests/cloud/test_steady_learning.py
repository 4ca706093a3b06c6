"""A falling learning rate: what it is, and that an interrupted run goes on to the bit; and the benchmark's average."""

import pytest
import safetensors.torch

from benchmarks.ceiling import average_of
from cloud_trainer.progress import CancelledError
from cloud_trainer.training_state import read_values
from gymnast_core.errors import ConfigError
from tests.cloud.learning_fakes import tiny_flow, tiny_policy
from tests.cloud.local_sampler import run_grpo
from tests.cloud.test_grpo import CONFIG, sampler

STEADY = CONFIG.changed(keep_low=0.0, keep_high=1.0, learning_rate=1e-3, final_rate=0.1)


@pytest.fixture
def base(tmp_path):
    tiny_policy().save(tmp_path / "base")
    return tmp_path / "base"


def run(base, config, out, **options):
    return run_grpo(base, sampler(config), config, out, candidate_every=1, **options)


def test_learning_rate_goes_by_the_number_of_the_update(tmp_path, base):
    trained = run(base, STEADY, tmp_path / "run")
    # 1e-3 * (0.1 + 0.9 * (1 + cos(pi t / 4)) / 2), t = 0..3
    assert [row["learning_rate"] for row in trained.history] == pytest.approx([1e-3, 8.682e-4, 5.5e-4, 2.318e-4], 1e-3)
    constant = run(base, STEADY.changed(final_rate=1.0), tmp_path / "constant")
    assert {row["learning_rate"] for row in constant.history} == {1e-3}


def test_unless_asked_the_rate_falls_for_tokens_and_stays_for_a_flow(tmp_path, base):
    unasked = STEADY.changed(final_rate=None, iterations=2)
    tokens = run(base, unasked, tmp_path / "tokens")
    assert [row["learning_rate"] for row in tokens.history] == pytest.approx([1e-3, 5.5e-4])
    tiny_flow().save(tmp_path / "flow base")
    flow = run(tmp_path / "flow base", unasked, tmp_path / "flow")
    assert [row["learning_rate"] for row in flow.history] == [1e-3, 1e-3]


def test_interrupted_run_goes_on_to_the_bit_with_a_falling_rate(tmp_path, base):
    straight, state, done = run(base, STEADY, tmp_path / "a"), tmp_path / "state", []
    with pytest.raises(CancelledError, match="2 of 4"):
        run(base, STEADY, tmp_path / "b", state=state, progress=done.append, cancelled=lambda: len(done) == 2)
    assert len(read_values(state)["history"]) == 2
    resumed = run(base, STEADY, tmp_path / "b", state=state)
    assert [candidate.version for candidate in resumed.candidates] == [c.version for c in straight.candidates]
    assert resumed.history == straight.history


def test_a_share_above_one_is_refused_by_name():
    with pytest.raises(ConfigError, match="final_rate"):
        CONFIG.changed(final_rate=2)


def test_the_benchmarks_average_matches_numbers_worked_by_hand(tmp_path):
    folders = []
    for value in (1.0, 4.0, 7.0):
        policy = tiny_policy()
        policy.network.head.weight.data.fill_(value)
        folders.append(tmp_path / str(value))
        policy.save(folders[-1])
    average_of(folders, 0.5, tmp_path / "average")
    found = safetensors.torch.load_file(tmp_path / "average" / "weights.safetensors")["head.weight"]
    assert found.flatten()[0].item() == pytest.approx(9.25 / 1.75)  # (0.25 * 1 + 0.5 * 4 + 7) / (0.25 + 0.5 + 1)
