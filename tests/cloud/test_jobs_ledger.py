"""The ledger of real against imagined: counts by hand, one row per task, nothing dropped."""

from contextlib import closing

import numpy as np
import pytest

from cloud_trainer.records.ledger import CalibrationLedger, calibration_of
from cloud_trainer.store.database import Database
from gymnast_core.errors import ContractError, CorruptError
from gymnast_core.jobs.replay import LedgerRow
from gymnast_core.judge import Verdict
from gymnast_core.types import Episode, Outcome

S, F, A, U = Outcome.SUCCESS, Outcome.FAILURE, Outcome.ABSTAIN, Outcome.UNLABELLED


def episode(number, outcome, task="lift"):
    return Episode(
        f"ep-{number}", task, {}, np.zeros((3, 7), np.float32), np.zeros((2, 7), np.float32), np.arange(3), outcome
    )


@pytest.fixture
def database(tmp_path):
    with closing(Database(f"sqlite:///{tmp_path / 'store.db'}")) as made:
        yield made


@pytest.fixture
def ledger(database):
    return CalibrationLedger(database)


def row(both, real_only, imagined_only, neither, **names):
    fields = {"task": "lift", "policy": "p", "world_model": "wm-1", "judge": "j", **names}
    return LedgerRow(**fields, both=both, real_only=real_only, imagined_only=imagined_only, neither=neither)


def test_a_real_evaluation_becomes_one_row_per_task_with_abstentions_apart(ledger):
    episodes = [episode(0, S), episode(1, F), episode(2, F), episode(3, S, "push"), episode(4, U), episode(5, F)]
    dreams = {"ep-0": S, "ep-1": S, "ep-2": F, "ep-3": F, "ep-5": A}
    rows = ledger.record(
        episodes,
        lambda known: [Verdict(dreams[e.episode_id], 0.5) for e in known],
        policy="p",
        world_model="wm-1",
        judge="j",
    )
    lift, push = rows
    assert (lift.both, lift.real_only, lift.imagined_only, lift.neither, lift.abstained) == (1, 0, 1, 1, 1)
    assert (push.real, push.imagined) == (1.0, 0.0)
    assert lift.episodes == ("ep-0", "ep-1", "ep-2", "ep-5")
    assert ledger.rows == (lift, push)


def test_calibration_of_100_episodes_by_hand():
    # real 40 %, imagined 50 %: both 30, real only 10, imagined only 20, neither 40
    found = calibration_of([row(30, 10, 20, 40)])
    assert (found.real.mean, found.imagined.mean) == (0.4, 0.5)
    assert found.bias.mean == pytest.approx(0.1)
    assert found.bias.low < 0.1 < found.bias.high
    assert found.agreement == 0.7
    assert found.false_success == pytest.approx(20 / 60)
    assert found.correlation is None


def test_correlation_over_rows_and_trend_over_world_models(ledger):
    for real, imagined in ((2, 3), (5, 6), (8, 9)):  # imagined rate = real rate + .1 in every row: r = 1
        ledger.add(row(real, 0, imagined - real, 10 - imagined, policy=f"p{real}"))
    ledger.add(row(5, 0, 0, 5, world_model="wm-2"))
    (first, old), (second, new) = ledger.trend()
    assert (first, second) == ("wm-1", "wm-2")
    assert old.correlation == pytest.approx(1.0)
    assert old.bias.mean == pytest.approx(0.1)
    assert new.bias.mean == 0.0
    assert ledger.by_task()["lift"].n == 40


CHANGES = {
    "a number": "UPDATE entries SET data = replace(data, 'only\":3', 'only\":0') WHERE sequence = 0",
    "no JSON": "UPDATE entries SET data = '{' WHERE sequence = 0",
    "the first": "DELETE FROM entries WHERE sequence = 0",
    "the newest": "DELETE FROM entries WHERE sequence = 1",
    "a hash": "UPDATE entries SET hash = previous WHERE sequence = 1",
    "their order": "UPDATE entries SET sequence = 7 - sequence",
}


@pytest.mark.parametrize("statement", CHANGES.values(), ids=CHANGES.keys())
def test_the_ledger_survives_reopening_and_names_a_changed_row(database, ledger, statement):
    rows = (row(1, 2, 3, 4), row(2, 2, 2, 2))
    for one in rows:
        ledger.add(one)
    assert CalibrationLedger(database).rows == rows
    assert CalibrationLedger(database, "acme").rows == ()
    with database.transaction() as connection:
        assert connection.exec_driver_sql(statement).rowcount > 0
    with pytest.raises(CorruptError, match="ledger of tenant 'default'"):
        CalibrationLedger(database)


def test_rows_that_say_nothing_are_refused(ledger):
    with pytest.raises(ContractError, match="say nothing"):
        ledger.add(row(0, 0, 0, 0))
    with pytest.raises(ContractError, match="one per episode"):
        ledger.record([episode(0, S)], lambda known: [], policy="p", world_model="w", judge="j")
    assert ledger.calibration() is None
