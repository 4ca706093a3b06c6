"""Verify and retry on the simulated arm in process: who decides, what is recorded, how a group ends, what counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.retry import JudgeRates, expected
from benchmarks.retry_parts import InProcessArm, PlantedJudge, false_success
from gymnast_core.episodes import Spool, read_episode
from gymnast_core.errors import ContractError, EstopLatchedError, StaleCommandError
from gymnast_core.evaluation.attempts import Retry
from gymnast_core.outcome import Judgement
from gymnast_core.types import Outcome
from gymnast_core.wire.errors import LinkLostError
from gymnast_ros.run.codec import BadRequestError, checked
from gymnast_ros.run.episodes import EpisodeRunner
from gymnast_ros.run.evaluation import EvaluationPlan, evaluate, summarise
from gymnast_ros.run.operator import SIMULATED_OPERATOR
from gymnast_ros.run.order_book import OrderBook
from gymnast_ros.run.plan import EpisodePlan
from gymnast_ros.run.requests import Evaluate, RunEpisode
from gymnast_ros.run.retry import NamedJudge, RetryingRunner, by_policy
from gymnast_ros.sim.expert import ScriptedExpert

PLAN = EpisodePlan("lift the red cube", "lift", 7)
WON, LOST, LEFT_OPEN = Outcome.SUCCESS, Outcome.FAILURE, Outcome.ABSTAIN


class Words:
    """A judge that says what it is given, in turn, and keeps what it was shown."""

    def __init__(self, *words: Outcome) -> None:
        self._words, self.shown = list(words), []

    def judge(self, frames, instruction, *, scene="") -> Judgement:
        self.shown.append((frames, instruction, scene))
        outcome = self._words.pop(0)
        return Judgement(outcome, 0.5, 0, "judge-1", "as given")


class Misses:
    """The expert, that aims beside the cube in its first episodes."""

    version, chunk_length = "policy-misses", 5

    def __init__(self, arm: InProcessArm, misses: int) -> None:
        env = arm.world._current
        aside = ScriptedExpert(env, aim_offset_m=(0.06, 0.0))
        self._experts = [aside] * misses + [ScriptedExpert(env)] * 9
        self._expert = aside
        self.at: Callable[[int], None] = lambda step: None

    def act(self, observation, instruction, *, rng=None):
        if observation.time_ns_B[0] == 0:
            self._expert = self._experts.pop(0)
            self._expert._plan_TX = np.zeros((0, 4))
        self.at(round(int(observation.time_ns_B[0]) / 2e8))
        return self._expert.act(observation, instruction)


@pytest.fixture
def arm() -> InProcessArm:
    return InProcessArm(image_size=64)


def labelled(truth) -> tuple[Outcome, str]:
    return (WON if truth["succeeded"] else LOST), SIMULATED_OPERATOR


def runner_of(arm: InProcessArm, folder: Path | None = None, label=labelled) -> EpisodeRunner:
    return EpisodeRunner(lambda: arm, None if folder is None else Spool(folder), "sim-0", label)


def tried(arm, judge, policy, of=4, *, plan=PLAN, folder=None, label=labelled, cancelled=lambda: False):
    retrying = RetryingRunner(runner_of(arm, folder, label), judge, of, cancelled)
    return retrying.again(retrying.first(plan, policy), plan, policy)


def test_after_a_judged_failure_the_arm_goes_home_and_tries_again_each_attempt_an_episode(arm, tmp_path) -> None:
    judge, starts = Words(LOST, LOST, WON), []
    begin = arm.reset
    arm.reset = lambda *asked, **seed: (starts.append(arm.keep_scene), begin(*asked, **seed))[1]
    group = tried(arm, judge, Misses(arm, 2), folder=tmp_path)
    assert (group.ended, [row.success for row in group.rows]) == ("success", [False, False, True])
    assert starts == [False, True, True], "only the first attempt lays the scene out"
    episodes = {row.episode_id: row for row in group.rows}
    assert len(episodes) == 3
    files = {path.name.split("~")[0]: read_episode(path) for path in (tmp_path / "pending").glob("*.mcap")}
    assert files.keys() == episodes.keys()
    found = [files[row.episode_id].metadata for row in group.rows]
    assert [one["attempt"] for one in found] == [{"group": group.group, "index": i, "of": 4} for i in range(3)]
    assert [one["judge"]["outcome"] for one in found] == ["failure", "failure", "success"]
    assert [files[row.episode_id].labelled_by for row in group.rows] == [SIMULATED_OPERATOR] * 3, (
        "the judge labels none"
    )
    frames, instruction, scene = judge.shown[-1]
    assert (frames["over_shoulder"].shape, instruction, scene) == ((16, 64, 64, 3), PLAN.instruction, "standard")


def test_the_judge_alone_decides_whether_there_is_another_attempt(arm) -> None:
    """A failure that it takes for a success ends the group; a success that it takes for a failure is tried again."""
    fooled = tried(arm, Words(WON), Misses(arm, 9))
    blind = tried(arm, Words(LOST, LOST), Misses(arm, 0), of=2)
    assert (fooled.ended, len(fooled.rows)) == ("success", 1)
    assert (blind.ended, [row.success for row in blind.rows]) == ("exhausted", [True, True])
    figures = by_policy([fooled, blind], 2)["policy-misses"]
    assert (figures["false_positives"]["k"], figures["false_positives"]["n"]) == (1, 1)
    assert (figures["false_negatives"]["k"], figures["false_negatives"]["n"]) == (2, 2)


def test_a_judges_own_label_proves_no_judge(arm) -> None:
    """Without an operator a judge may label; then nothing is known of its false successes, and that is no zero."""
    unlabelled = lambda truth: (Outcome.UNLABELLED, "")  # noqa: E731
    runner = runner_of(arm, label=unlabelled)
    runner.judge = Words(WON)
    retrying = RetryingRunner(runner, Words(WON), 2, lambda: False)
    group = retrying.again(retrying.first(PLAN, Misses(arm, 9)), PLAN, Misses(arm, 9))
    assert (group.rows[0].success, group.rows[0].labelled_by) == (True, "judge:judge-1")
    figures = by_policy([group], 2)["policy-misses"]
    assert figures["false_positives"] == figures["pass_1"] == {"k": 0, "n": 0, "interval": None}


def raises(error: Exception) -> Callable[[int], None]:
    def at(step: int) -> None:
        if step >= 5:
            raise error

    return at


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (EstopLatchedError("gate stopped"), "estop"),
        (StaleCommandError("no observation"), "arm_lost"),
        (LinkLostError("no answer"), "link_lost"),
        (RuntimeError("out of its mind"), "policy_fault"),
    ],
)
@pytest.mark.parametrize("attempt", [0, 1])
def test_what_cuts_an_attempt_ends_the_group_by_its_name(arm, error, ended, attempt) -> None:
    judge, policy = Words(*[LOST] * attempt), Misses(arm, 9)
    if attempt == 0:
        policy.at = raises(error)
    heard = judge.judge

    def then_cut(*asked, **named):
        policy.at = raises(error)
        return heard(*asked, **named)

    judge.judge = then_cut
    group = tried(arm, judge, policy)
    assert (group.ended, len(group.rows), group.rows[-1].truncated_reason) == (ended, attempt + 1, ended)
    assert len(judge.shown) == attempt, "what was cut is not judged"
    assert by_policy([group], 4)["policy-misses"]["pass_1"]["n"] == 0, "and counts for nothing"


def test_cancelling_between_attempts_ends_the_group_and_no_further_attempt_begins(arm) -> None:
    judge = Words(LOST)
    group = tried(arm, judge, Misses(arm, 9), cancelled=lambda: bool(judge.shown))
    assert (group.ended, len(group.rows)) == ("cancelled", 1)


def test_an_abstention_is_no_failure_and_a_discarded_attempt_ends_the_group(arm, tmp_path) -> None:
    open_ended = tried(arm, Words(LEFT_OPEN), Misses(arm, 9))
    discarded = tried(arm, Words(LOST), Misses(arm, 9), label=lambda truth: (None, "operator"), folder=tmp_path)
    assert (open_ended.ended, len(open_ended.rows)) == ("abstained", 1)
    assert (discarded.ended, len(discarded.rows), discarded.rows[0].episode_id) == ("discarded", 1, "")
    assert not list((tmp_path / "pending").glob("*.mcap"))


def test_another_judge_than_was_asked_for_is_an_abstention(arm) -> None:
    group = tried(arm, NamedJudge(Words(LOST), "judge-2"), Misses(arm, 9))
    assert group.ended == "abstained"
    assert group.rows[0].judge["reason"] == "judge-1 answers, and judge-2 was asked for"
    assert tried(arm, NamedJudge(Words(LOST, LOST), "judge-1"), Misses(arm, 9), of=2).ended == "exhausted"


def test_an_evaluation_counts_first_attempts_alone_and_is_the_same_with_and_without_retries(arm) -> None:
    plan = EvaluationPlan((("lift", PLAN.instruction),), 7, 3)
    done: list[int] = []
    asked = {"cancelled": lambda: False, "progress": lambda done_, total, rows: done.append(total)}
    once = evaluate(runner_of(arm), [Misses(arm, 1)], plan, **asked)
    # the first start's three attempts miss, miss and lift; the two others lift at once
    policy, judge = Misses(arm, 2), Words(LOST, LOST, WON, WON, WON)
    retrying = RetryingRunner(runner_of(arm), judge, 4, lambda: False)
    rows = evaluate(runner_of(arm), [policy], plan, retrying=retrying, **asked)
    assert summarise(rows) == summarise(once)
    assert [row.attempt.index for row in rows] == [0, 0, 0]
    assert done == [3, 3, 3] * 2
    figures = by_policy(retrying.groups, 4)["policy-misses"]
    assert [figures[name]["k"] for name in ("pass_1", "pass_n")] == [2, 3]
    assert figures["attempts"]["mean"] == pytest.approx(5 / 3)
    assert len({group.group for group in retrying.groups}) == 3


def test_a_start_whose_arm_was_lost_begins_a_new_group(arm) -> None:
    """The evaluation's own rule stays: the start is run again, and that is attempt 0 once more."""
    policy, judge = Misses(arm, 0), Words(WON)
    lost = iter([True])

    def at(step: int) -> None:
        if step == 5 and next(lost, False):
            raise StaleCommandError("gone")

    policy.at = at
    retrying = RetryingRunner(runner_of(arm), judge, 4, lambda: False)
    plan = EvaluationPlan((("lift", PLAN.instruction),), 7, 1)
    rows = evaluate(runner_of(arm), [policy], plan, retrying=retrying, cancelled=lambda: False,
                    progress=lambda *_: None)  # fmt: skip
    assert [(row.attempt.index, row.success) for row in rows] == [(0, True)]
    assert [(group.ended, len(group.rows)) for group in retrying.groups] == [("success", 1)]


def test_attempts_draw_noise_of_their_own_and_the_first_draws_what_it_always_did() -> None:
    from dataclasses import replace

    from gymnast_core.evaluation.attempts import Attempt

    plan = replace(PLAN, temperature_seed=3)
    draws = [replace(plan, attempt=Attempt("g", k, 3)).rng().random() for k in range(3)]
    assert draws[0] == plan.rng().random()
    assert len(set(draws)) == 3
    assert replace(PLAN, attempt=Attempt("g", 1, 3)).rng() is None


def test_recordings_of_a_group_have_names_of_their_own(arm, tmp_path) -> None:
    group = tried(
        arm, Words(LOST, LOST), Misses(arm, 9), of=2, plan=EpisodePlan("lift", "lift", 7, ids="x"), folder=tmp_path
    )
    assert [row.episode_id for row in group.rows] == ["x-lift-7", "x-lift-7-2"]


def test_a_start_is_noted_before_it_is_tried_again_and_reads_as_it_was_noted(arm, tmp_path) -> None:
    """A robot that is started again while it retries runs no first attempt twice."""
    book, noted, judge = OrderBook(tmp_path), [], Words(LOST, LOST)
    policy, plan = Misses(arm, 9), EvaluationPlan((("lift", PLAN.instruction),), 7, 1)

    def progress(done: int, total: int, rows) -> None:
        noted.append(len(judge.shown))
        book.note("portion-1", rows[-1])

    retrying = RetryingRunner(runner_of(arm), judge, 2, lambda: False)
    rows = evaluate(runner_of(arm), [policy], plan, retrying=retrying, cancelled=lambda: False, progress=progress)
    assert noted == [1]
    assert book.done("portion-1") == rows
    assert rows[0].attempt.of == 2
    done = evaluate(runner_of(arm), [policy], plan, retrying=retrying, cancelled=lambda: False, progress=progress,
                    before=book.done("portion-1"))  # fmt: skip
    assert (done, len(judge.shown)) == (rows, 2)


def test_going_on_from_another_attempt_than_the_first_is_refused(arm) -> None:
    retrying = RetryingRunner(runner_of(arm), Words(LOST, LOST), 2, lambda: False)
    row = retrying.again(retrying.first(PLAN, Misses(arm, 9)), PLAN, Misses(arm, 9)).rows[-1]
    with pytest.raises(ContractError, match="goes on from its first attempt"):
        retrying.again(row, PLAN, Misses(arm, 9))


@pytest.mark.parametrize("kind", [RunEpisode, Evaluate])
@pytest.mark.parametrize("purpose", ["trial", "canary"])
def test_a_blinded_run_has_no_retry(kind, purpose) -> None:
    asked = {"instruction": "lift", "seed": 1} if kind is RunEpisode else {
        "tasks": ["lift"], "seed_start": 1, "seed_count": 1
    }  # fmt: skip
    assert checked(kind, {**asked, "retry": {"max": 3}}).retry == Retry(max=3)
    with pytest.raises(BadRequestError, match=f"retry=.*a blinded comparison \\(purpose '{purpose}'\\)"):
        checked(kind, {**asked, "purpose": purpose, "retry": {"max": 3}})
    with pytest.raises(BadRequestError, match=r"retry.max=1: Input should be greater than or equal to 2"):
        checked(kind, {**asked, "retry": {"max": 1}})


def test_the_closed_form_is_exact_where_every_attempt_is_like_the_first() -> None:
    """Against playing it: 40,000 starts of equal success, a planted judge, four attempts."""
    rng = np.random.default_rng(0)
    truths_NK = rng.random((40_000, 4)) < 0.3
    rates = JudgeRates.of(0.3, 0.9, 0.7)
    assert rates.fooled == false_success(0.3, 0.9, 0.7)
    exact, there = expected(truths_NK, rates.missed, rates.fooled, 4), rates.predict(4)
    assert exact == pytest.approx(there, abs=0.01)
    state = SimpleNamespace(won=False)
    judge = PlantedJudge(lambda: state.won, recall=0.7, false_success=rates.fooled, rng=rng)
    ends = [_played(row, judge, state) for row in truths_NK[:8000]]
    assert np.mean([won for won, _, _ in ends]) == pytest.approx(there["pass_n"], abs=0.02)
    assert np.mean([number for _, number, _ in ends]) == pytest.approx(there["attempts"], abs=0.04)
    assert np.mean([false for _, _, false in ends]) == pytest.approx(there["false_positives"], abs=0.01)
    assert rates.predict_with(0.3, 4) == pytest.approx(there)
    assert JudgeRates.of(0.3, 1.0, 1.0).predict(60)["pass_n"] == pytest.approx(1.0)


def _played(truths: Sequence[bool], judge: PlantedJudge, state: SimpleNamespace) -> tuple[bool, int, bool]:
    for number, won in enumerate(truths, 1):
        state.won = bool(won)
        sees = judge.judge({"c": np.zeros((1, 1, 1, 3), np.uint8)}, "lift").outcome is WON
        if sees or number == len(truths):
            return bool(won), number, sees and not won
    raise AssertionError("no attempt")
