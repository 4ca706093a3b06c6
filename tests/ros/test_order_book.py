"""A robot that is asked again by the same name goes on where it was, whatever killed it before."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gymnast_core.errors import ContractError
from gymnast_ros.run.evaluation import EvaluationPlan, evaluate
from gymnast_ros.run.order_book import KEPT, OrderBook
from gymnast_ros.run.plan import EpisodePlan, EpisodeResult

ROW = EpisodeResult(
    "policy-a", "lift", "lift the red cube", 7, "standard", True, "operator:sim", 15, "ep-1", "", "", 0, 0
)  # fmt: skip


class Runner:
    """An arm that notes what it runs."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, int, str]] = []

    def run(self, plan: EpisodePlan, policy, cancelled) -> EpisodeResult:
        self.ran.append((plan.task, plan.seed, policy.version))
        return replace(ROW, policy=policy.version, task=plan.task, seed=plan.seed)


class Named:
    def __init__(self, version: str) -> None:
        self.version = version


def test_what_was_finished_is_there_after_a_crash_and_a_half_line_is_not(tmp_path):
    book = OrderBook(tmp_path / "orders")
    assert book.done("portion-1") == []
    rows = [replace(ROW, seed=seed) for seed in range(3)]
    for row in rows:
        book.note("portion-1", row)
    path = tmp_path / "orders" / "portion-1.jsonl"
    path.write_text(path.read_text() + json.dumps(ROW.to_json())[:40])  # a crash in the midst of a line
    assert OrderBook(tmp_path / "orders").done("portion-1") == rows
    book.note("portion-1", replace(ROW, seed=3))
    assert [row.seed for row in book.done("portion-1")] == [0, 1, 2, 3]
    assert book.done("portion-2") == []


def test_lines_of_an_older_version_count(tmp_path):
    older = {name: value for name, value in ROW.to_json().items() if name not in ("termination", "judge", "blame")}
    book = OrderBook(tmp_path)
    (tmp_path / "portion-1.jsonl").write_text(json.dumps(older) + "\n")
    assert book.done("portion-1") == [ROW]


def test_the_newest_names_are_remembered_and_no_name_leaves_the_folder(tmp_path):
    book = OrderBook(tmp_path / "orders")
    for number in range(KEPT + 3):
        book.note(f"portion-{number:03d}", ROW)
    assert len(list((tmp_path / "orders").iterdir())) == KEPT
    assert book.done("portion-000") == []
    assert book.done(f"portion-{KEPT + 2:03d}") == [ROW]
    for name in ("../x", "a/b", "", "x" * 65):
        with pytest.raises(ContractError, match="name of what is to be gone on with"):
            book.done(name)


@pytest.mark.parametrize("before", range(9))
def test_an_evaluation_goes_on_after_its_first_rows_and_runs_none_of_them_again(before):
    plan = EvaluationPlan((("lift", "lift it"), ("push", "push it")), 10, 2)
    policies, whole, rest = [Named("policy-a"), Named("policy-b")], Runner(), Runner()
    seen: list[int] = []
    rows = evaluate(whole, policies, plan, cancelled=lambda: False, progress=lambda *_: None)
    again = evaluate(
        rest, policies, plan, cancelled=lambda: False, progress=lambda done, total, rows: seen.append(done),
        before=rows[:before],
    )  # fmt: skip
    assert again == rows
    assert whole.ran[:before] + rest.ran == whole.ran
    assert seen == list(range(before + 1, 9))
