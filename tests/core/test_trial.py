"""The blinded paired trial: hidden order, declared rule, nothing changed afterwards."""

import json

import numpy as np
import pytest

from gymnast_core.errors import ConfigError, CorruptError, StorageError
from gymnast_core.evaluation.sequential import Decision, HarmRule, SequentialRule
from gymnast_core.evaluation.trial import Trial, TrialError, has_won
from gymnast_core.evaluation.trial_order import candidate_first, commitment_of
from gymnast_core.evaluation.trial_plan import TrialPlan
from gymnast_core.records.journal import Journal
from gymnast_core.types import Outcome

SECRET = bytes(range(32))


def plan(**changes):
    fields = {
        "trial_id": "trial7",
        "incumbent": "policy-old",
        "candidate": "policy-new",
        "instruction": "lift the red cube",
        "rule": SequentialRule(max_pairs=40),
        "start_seeds": tuple(range(100, 140)),
    }
    return TrialPlan(**{**fields, **changes})


@pytest.fixture
def trial(tmp_path):
    trial = Trial.declare(tmp_path / "trial7.jsonl", plan(), SECRET)
    yield trial
    trial.close()


def play(trial, success_of):
    """Run to the decision; success_of(checkpoint, pair) plays the arm."""
    while (run := trial.next_run()) is not None:
        won = success_of(trial.checkpoint_of(run.run_id), run.pair)
        trial.record(run.run_id, Outcome.SUCCESS if won else Outcome.FAILURE, labelled_by="operator:ana")
    return trial.decision


def test_a_better_candidate_is_promoted_and_its_card_reveals_the_order(trial):
    assert play(trial, lambda checkpoint, pair: checkpoint == "policy-new") is Decision.PROMOTE
    card = trial.card()
    assert card["counts"]["wins"] == card["n"] < 15
    assert card["candidate_success"]["mean"] == 1.0
    assert card["difference"]["low"] > 0
    secret = bytes.fromhex(card["secret"])
    assert commitment_of(secret) == card["commitment"]
    assert all(candidate_first(secret, row["pair"], row["attempt"]) == row["candidate_first"] for row in card["pairs"])


def test_a_worse_candidate_is_given_up_and_with_a_patient_rule_shown_to_be_worse(trial, tmp_path):
    def loses(checkpoint, pair):
        return checkpoint == "policy-old"

    assert play(trial, loses) is Decision.FUTILE
    patient = Trial.declare(
        tmp_path / "patient.jsonl", plan(rule=SequentialRule(max_pairs=40, alpha_futile=1e-6)), SECRET
    )
    assert play(patient, loses) is Decision.ROLL_BACK
    patient.close()


def test_equal_policies_end_without_promotion(trial):
    assert play(trial, lambda checkpoint, pair: pair % 2 == 0) in (Decision.FUTILE, Decision.EXHAUSTED)


def test_both_checkpoints_run_every_start_and_the_order_is_mixed(trial):
    first = []
    while (run := trial.next_run()) is not None and run.pair < 20:
        order = []
        for _ in "ab":
            current = trial.next_run()
            assert current.start_seed == 100 + run.pair
            order.append(trial.checkpoint_of(current.run_id))
            trial.record(current.run_id, Outcome.SUCCESS, labelled_by="operator:ana")
        assert sorted(order) == ["policy-new", "policy-old"]
        first.append(order[0])
    assert 4 <= first.count("policy-new") <= 16


def test_order_is_a_fair_coin_over_secrets():
    rng = np.random.default_rng(0)
    heads = sum(candidate_first(rng.bytes(32), 0, 1) for _ in range(2000))
    assert 900 <= heads <= 1100


def test_what_the_labeller_sees_names_no_checkpoint_and_no_score(trial):
    for _ in range(6):
        run = trial.next_run()
        trial.record(run.run_id, Outcome.SUCCESS, labelled_by="operator:ana")
    seen = json.dumps([trial.blinded_view(), vars(trial.next_run())])
    assert "policy-" not in seen
    assert "success" not in seen
    assert trial.blinded_view()["pairs_done"] == 3
    with pytest.raises(TrialError, match="not decided"):
        trial.card()


def test_double_click_records_a_run_once(trial):
    run = trial.next_run()
    trial.record(run.run_id, Outcome.SUCCESS, labelled_by="operator:ana")
    with pytest.raises(TrialError, match="reload the page"):
        trial.record(run.run_id, Outcome.FAILURE, labelled_by="operator:ana")


def test_nothing_can_be_added_after_the_decision(trial):
    play(trial, lambda checkpoint, pair: checkpoint == "policy-new")
    with pytest.raises(TrialError, match="is decided"):
        trial.record("trial7-p000-a1-1", Outcome.FAILURE, labelled_by="operator:eve")


def test_abstention_and_estop_set_the_pair_aside_and_repeat_its_start(trial):
    run = trial.next_run()
    trial.record(run.run_id, Outcome.SUCCESS, labelled_by="judge:v1")
    second = trial.next_run()
    trial.record(second.run_id, Outcome.ABSTAIN, labelled_by="judge:v1")
    again = trial.next_run()
    assert (again.pair, again.start_seed, again.run_id) == (0, run.start_seed, "trial7-p000-a2-1")
    trial.void(again.run_id, "e-stop")
    assert trial.counts.n == 0
    assert trial.blinded_view()["set_aside"] == 2


def test_unlabelled_is_not_an_outcome(trial):
    with pytest.raises(TrialError, match="no label"):
        trial.record(trial.next_run().run_id, Outcome.UNLABELLED, labelled_by="operator:ana")


def test_a_crash_in_the_middle_continues_at_the_same_run(tmp_path):
    path = tmp_path / "trial7.jsonl"
    trial = Trial.declare(path, plan(), SECRET)
    for _ in range(7):
        trial.record(trial.next_run().run_id, Outcome.FAILURE, labelled_by="operator:ana")
    waiting, checkpoint = trial.next_run(), trial.checkpoint_of(trial.next_run().run_id)
    trial.close()
    with path.open("ab") as file:
        file.write(b'{"sequence": 8, "kind": "rec')  # the crash tore this line
    again = Trial.load(path)
    assert again.next_run() == waiting
    assert again.checkpoint_of(waiting.run_id) == checkpoint
    assert again.counts.n == 3
    again.close()


def test_a_changed_label_in_the_file_is_named(tmp_path, trial):
    trial.record(trial.next_run().run_id, Outcome.FAILURE, labelled_by="operator:ana")
    trial.close()
    path = tmp_path / "trial7.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"success":false', b'"success":true '))
    with pytest.raises(CorruptError, match="line 2"):
        Trial.load(path)


def test_a_declared_trial_is_not_declared_again_nor_opened_twice(tmp_path, trial):
    with pytest.raises(TrialError, match="exists"):
        Trial.declare(tmp_path / "trial7.jsonl", plan(), SECRET)
    with pytest.raises(StorageError, match="another process"):
        Journal(tmp_path / "trial7.jsonl")


def test_another_secret_is_refused(tmp_path, trial):
    trial.close()
    (tmp_path / "trial7.secret").write_bytes(bytes(32))
    with pytest.raises(TrialError, match="not the secret"):
        Trial.load(tmp_path / "trial7.jsonl")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidate": "policy-old"}, "two checkpoints"),
        ({"start_seeds": (1, 2, 3)}, "add some"),
        ({"start_seeds": (1,) * 40}, "repeat"),
    ],
)
def test_plans_that_compare_nothing_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        plan(**changes)


def test_a_short_secret_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="16"):
        Trial.declare(tmp_path / "t.jsonl", plan(), b"short")


TASKS = ("push", "put", "drawer")


def other_tasks(**changes):
    rule = HarmRule(pairs=10, tasks=3)
    return plan(**{"rule": rule, "tasks": TASKS, "start_seeds": tuple(range(30)), **changes})


def test_tasks_take_turns_and_harm_in_one_of_them_ends_the_trial(tmp_path):
    path = tmp_path / "guard.jsonl"
    trial = Trial.declare(path, other_tasks(), SECRET)
    asked = []
    while (run := trial.next_run()) is not None:
        asked.append(run.instruction)
        won = run.instruction != "drawer" or trial.checkpoint_of(run.run_id) == "policy-old"
        trial.record(run.run_id, Outcome.SUCCESS if won else Outcome.FAILURE, labelled_by="operator:ana")
        if len(asked) == 7:  # a crash on the way
            trial.close()
            trial = Trial.load(path)
    assert asked[:8] == ["push", "push", "put", "put", "drawer", "drawer", "push", "push"]
    card = trial.card()
    assert card["decision"] == "roll_back"
    assert card["by_task"]["drawer"]["counts"]["losses"] == card["by_task"]["drawer"]["n"] == 7
    assert card["by_task"]["push"]["difference"]["mean"] == 0
    assert not has_won({"decision": "promote", "guard": card})
    trial.close()


def test_no_harm_by_the_end_says_how_much_is_excluded(tmp_path):
    trial = Trial.declare(tmp_path / "guard.jsonl", other_tasks(), SECRET)
    assert play(trial, lambda checkpoint, pair: True) is Decision.EXHAUSTED
    card = trial.card()
    assert (card["n"], set(card["by_task"])) == (30, set(TASKS))
    assert -0.5 < card["by_task"]["put"]["difference"]["low"] < 0
    assert has_won({"decision": "promote", "guard": card})
    trial.close()


@pytest.mark.parametrize("tasks", [("push",), ("push", "push", "put"), ()])
def test_a_plan_names_as_many_other_tasks_as_its_rule_is_for(tasks):
    with pytest.raises(ConfigError, match="for 3 other tasks"):
        other_tasks(tasks=tasks)
