"""A judge beside the simulated arm: it labels what nobody labels, and ends an episode that it saw succeed."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from benchmarks.retry_parts import InProcessArm
from gymnast_core.episodes import Spool, read_episode
from gymnast_core.outcome import Judgement
from gymnast_core.types import Observation, Outcome
from gymnast_ros.arguments import config_from
from gymnast_ros.graph import graph
from gymnast_ros.run.episodes import EpisodeRunner
from gymnast_ros.run.judged import IN_A_ROW, EpisodeFrames, JudgedEpisode
from gymnast_ros.run.plan import EpisodePlan
from gymnast_ros.sim.expert import ScriptedExpert

PLAN = EpisodePlan("lift the red cube", "lift", 7)
WON, LOST, LEFT_OPEN, NONE = Outcome.SUCCESS, Outcome.FAILURE, Outcome.ABSTAIN, Outcome.UNLABELLED


class Says:
    """Finds the same of every episode, on its newest frame."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome, self.asked = outcome, []

    def judge(self, frames, instruction, *, scene="") -> Judgement:
        count = len(next(iter(frames.values())))
        self.asked.append((count, instruction, scene))
        if self.outcome is LEFT_OPEN:
            return Judgement.abstain("not proven here", judge="j1", score=0.7, frame=count - 1)
        return Judgement(self.outcome, 0.97, count - 1, "j1", "as asked")


class Step:
    """The next step of the policy waits until the judge has answered, so that a test need not race it."""

    def __init__(self, policy, settled) -> None:
        self._policy, self._settled = policy, settled
        self.version, self.chunk_length = policy.version, 1

    def act(self, observation, instruction, *, rng=None):
        self._settled()
        chunk = self._policy.act(observation, instruction)
        return type(chunk)(chunk.actions_BKA[:, :1], chunk.policy_version)


@pytest.fixture
def arm() -> InProcessArm:
    return InProcessArm(image_size=64)


def ran(arm, folder: Path, judge, *, label=(NONE, ""), every=0, plan=PLAN, asked=None):
    runner = EpisodeRunner(lambda: arm, Spool(folder), "sim-0", lambda truth: label)
    runner.judge, runner.judge_every = judge, every
    row = runner.run(plan, ScriptedExpert(arm.world._current), lambda: False, asked)
    [path] = (folder / "pending").glob("*.mcap")
    return row, read_episode(path)


@pytest.mark.parametrize(
    ("found", "labelled", "success"),
    [(WON, (WON, "judge:j1"), True), (LOST, (LOST, "judge:j1"), False), (LEFT_OPEN, (NONE, ""), None)],
)
def test_it_labels_what_nobody_labels_and_an_abstention_is_no_failure(arm, tmp_path, found, labelled, success):
    row, episode = ran(arm, tmp_path, Says(found))
    assert (episode.outcome, episode.labelled_by) == labelled
    assert (row.success, row.labelled_by) == (success, labelled[1])
    kept = episode.metadata["judge"]
    assert (kept["outcome"], kept["frame"], kept["id"]) == (found.value, row.steps, "j1")
    assert row.truncated_reason == row.termination == ""


def test_an_operators_label_wins_and_what_the_judge_found_stays_beside_it(arm, tmp_path):
    row, episode = ran(arm, tmp_path, Says(WON), label=(LOST, "operator:ana"))
    assert (episode.outcome, episode.labelled_by, row.success) == (LOST, "operator:ana", False)
    assert episode.metadata["judge"]["outcome"] == "success"


def test_without_a_judge_an_episode_stays_unlabelled(arm, tmp_path):
    row, episode = ran(arm, tmp_path, None)
    assert (row.success, row.judge, episode.outcome) == (None, None, NONE)
    assert "judge" not in episode.metadata


@pytest.mark.parametrize("purpose", ["trial", "canary"])
def test_a_blinded_run_is_shown_to_no_judge(arm, tmp_path, purpose):
    judge = Says(WON)
    plan = EpisodePlan("lift the red cube", "lift", 7, purpose=purpose)
    row, _ = ran(arm, tmp_path, judge, plan=plan, every=1)
    assert (row.success, judge.asked) == (None, [])


def test_a_judge_that_is_asked_for_a_retry_alone_labels_nothing(arm, tmp_path):
    row, episode = ran(arm, tmp_path, None, asked=Says(LOST))
    assert (row.success, row.judge["outcome"], episode.outcome) == (None, "failure", NONE)


def episode_of(judge, every, light=(0, 0, 0, 0)):
    """A watch that was shown a reset and some steps, waiting for each answer."""
    watch = JudgedEpisode(judge, "lift", "bench", every)
    watch.on_reset((), seen(0))
    for step in range(1, len(light) + 1):
        watch.on_step(None, type("Result", (), {"observation": seen(step)}), None, 0)
        if watch._asking is not None:
            watch._asking.result(60)
    return watch


def seen(step: int) -> Observation:
    return Observation(
        {"cam": np.full((1, 4, 4, 3), step, np.uint8)}, np.zeros((1, 7), np.float32), np.zeros(1, np.int64)
    )


def test_success_has_to_be_seen_twice_in_a_row():
    assert IN_A_ROW == 2
    assert not episode_of(Says(WON), 2, (0, 0)).ends()
    assert episode_of(Says(WON), 2, (0, 0, 0, 0)).ends()
    judge = Says(WON)
    turns = iter([WON, LEFT_OPEN, WON, LOST, WON])
    ask = judge.judge

    def differently(frames, instruction, *, scene=""):
        judge.outcome = next(turns)
        return ask(frames, instruction, scene=scene)

    judge.judge = differently
    assert not episode_of(judge, 1, (0,) * 5).ends()


def test_an_episode_ends_when_success_was_seen_and_says_why(arm, tmp_path):
    judge, watches = Says(WON), []
    runner = EpisodeRunner(lambda: arm, Spool(tmp_path), "sim-0", lambda truth: (NONE, ""))
    runner.judge, runner.judge_every = judge, 3
    begin = runner._judged
    runner._judged = lambda *asked: watches.append(begin(*asked)) or watches[-1]

    def settled():
        if watches[-1]._asking is not None:
            watches[-1]._asking.result(60)

    row = runner.run(PLAN, Step(ScriptedExpert(arm.world._current), settled), lambda: False)
    [path] = (tmp_path / "pending").glob("*.mcap")
    episode = read_episode(path)
    assert (row.steps, row.termination, row.truncated_reason) == (6, "success_seen", "")
    assert (episode.outcome, episode.labelled_by) == (WON, "judge:j1")
    assert (episode.metadata["termination"], episode.metadata["judge"]["frame"]) == ("success_seen", 6)
    assert len(judge.asked) == 2, "what it ended for is its label; it is not judged once more"


def test_what_measures_a_policy_runs_to_its_end(arm, tmp_path):
    judge = Says(WON)
    row, _ = ran(arm, tmp_path, judge, plan=EpisodePlan("lift the red cube", "lift", 7, purpose="evaluate"), every=1)
    assert (row.termination, len(judge.asked), row.success) == ("", 1, True)


def test_the_loop_never_waits_for_the_judge(arm, tmp_path):
    """A judge that does not answer: the episode runs to its end meanwhile."""
    answers, asked = threading.Event(), []

    class Slow(Says):
        def judge(self, frames, instruction, *, scene=""):
            asked.append(len(frames["over_shoulder"]))
            assert answers.wait(60)
            return super().judge(frames, instruction, scene=scene)

    env_step, last = arm.step, []

    def step(action):
        result = env_step(action)
        last.append(result)
        if result.done_B.all():
            answers.set()  # only now: had the loop waited, this would never come
        return result

    arm.step = step
    row, _ = ran(arm, tmp_path, Slow(WON), every=1)
    assert row.steps == len(last)
    assert asked[0] == 2, "it was asked after the first step"


def test_frames_of_a_long_episode_are_thinned_evenly_and_the_newest_is_always_there():
    frames = EpisodeFrames()
    for step in range(1001):
        frames.add(step, seen(step % 256))
    steps, shown = frames.shown()
    assert (steps[0], steps[-1]) == (0, 1000)
    assert len(steps) == len(shown["cam"]) <= 66
    assert set(np.diff(steps[:-1])) == {16}
    assert shown["cam"][-1, 0, 0, 0] == 1000 % 256


def test_the_launch_argument_reaches_the_rollout_node(tmp_path):
    texts = {"folder": str(tmp_path), "trainer": "localhost:7", "insecure": "true"}
    for judge, labels in (("auto", True), ("", False)):
        rollout = next(spec for spec in graph(config_from({**texts, "judge": judge})) if spec.name == "rollout")
        assert (rollout.parameters["trainer"], rollout.parameters["judge_labels"]) == ("localhost:7", labels)
    with pytest.raises(Exception, match="the judge runs at the trainer"):
        config_from({"folder": str(tmp_path), "judge": "auto"})
