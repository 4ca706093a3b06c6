"""A practice run on the simulated arm: skills take turns, people are called when needed, restarts cost nothing."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.resettable_arm import ResettableArm
from gymnast_core.episodes import Spool, read_episode
from gymnast_core.evaluation.purpose import is_measurement
from gymnast_core.outcome import Judgement
from gymnast_core.paging import KINDS, Acknowledgement
from gymnast_core.practice import PracticeAsked, PracticeState
from gymnast_core.types import Outcome
from gymnast_ros.run.arming import Arming
from gymnast_ros.run.episodes import EpisodeRunner
from gymnast_ros.run.plan import EpisodePlan, EpisodeResult
from gymnast_ros.run.practice import PracticePorts, PracticeRun, new_run
from gymnast_ros.run.practice_book import PracticeBook
from gymnast_ros.run.referee import JudgeWatch, Pair, SimulatorWatch, SkillWatch, Watching
from gymnast_ros.sim.env import SimEnv
from gymnast_ros.sim.expert import ScriptedExpert
from gymnast_ros.sim.tasks import RESET_OF, task_for

DRAWER = Pair({"task": "drawer", "reset": "open"}, {"task": "close the drawer", "reset": "open the drawer"})


@pytest.fixture(scope="module")
def world() -> Iterator[SimEnv]:
    world = SimEnv(image_size=64)
    yield world
    world.close()


class Person:
    """A Pager whose person answers at once, or never."""

    def __init__(self, answers: bool = True) -> None:
        self.answers, self.pages = answers, []
        self.resolved: list[tuple[str, str]] = []
        self.rings: Callable[[], None] = lambda: None

    def page(self, kind: str, text: str, **detail: object) -> str:
        assert kind in KINDS
        self.pages.append((kind, text))
        self.rings()
        return f"page-{len(self.pages):016x}"

    def answer(self, page_id: str) -> Acknowledgement | None:
        return Acknowledgement("ada", time.time_ns()) if self.answers else None

    def resolve(self, page_id: str, by: str) -> None:
        self.resolved.append((page_id, by))


class Lab:
    """One arm, with whatever drives and watches it."""

    def __init__(self, folder: Path, world: SimEnv, person: Person, watching: Watching = SimulatorWatch) -> None:
        self.folder, self.person, self.watching, self.pair = folder, person, watching, DRAWER
        self.arm, self.expert = ResettableArm(world), ScriptedExpert(world)
        self.gate, self.stop, self.closing = Arming(), threading.Event(), threading.Event()
        self.before: Callable[[int], None] = lambda number: None
        self.rows: list[EpisodeResult] = []
        self.sampled: list[tuple[int, float | None]] = []
        self.shown: list[dict[str, object]] = []
        self.book = PracticeBook(folder / "practice")
        self.runner = EpisodeRunner(lambda: self.arm, Spool(folder / "spool"), "sim-0", lambda truth: (None, ""))

    def asked(self, **changes: object) -> PracticeState:
        return new_run(PracticeAsked(**{"task": "drawer", "reset": "open", "hours": 1.0, **changes}), "ada")

    def practise(self, **changes: object) -> PracticeState:
        self.book.keep(self.asked(**changes))
        return self.go_on()

    def go_on(self) -> PracticeState:
        return self.run().run()

    def run(self) -> PracticeRun:
        log = SimpleNamespace(info=lambda text: None, warning=lambda text: None, error=lambda text: None)
        return PracticeRun(self.book, self.pair, PracticePorts(
            episode=self._episode, watching=self.watching, pager=self.person, gate=self.gate, show=self.shown.append,
            ended=self.stop.is_set, closing=self.closing.is_set, log=log,
        ))  # fmt: skip

    def _episode(self, plan: EpisodePlan, checkpoint: str, watch: SkillWatch, /) -> EpisodeResult:
        self.before(plan.practice.number)
        self.sampled.append((plan.temperature_seed, plan.temperature))
        cancelled = lambda: self.stop.is_set() or self.closing.is_set()  # noqa: E731
        self.rows.append(self.runner.run(plan, self.expert, cancelled, label=watch.label))
        return self.rows[-1]


@pytest.fixture
def lab(tmp_path: Path, world: SimEnv) -> Lab:
    return Lab(tmp_path, world, Person())


@pytest.mark.parametrize(("asked", "expected"), [
    ({"sample": 5}, (5, None)), ({"sample": 5, "temperature": 0.5}, (5, 0.5)), ({"sample": -1}, (-1, None)),
])  # fmt: skip
def test_each_episode_is_sampled_as_was_asked(lab: Lab, asked: dict, expected: tuple[int, float | None]) -> None:
    lab.practise(episodes=3, **asked)
    assert len(lab.sampled) >= 3
    assert set(lab.sampled) == {expected}


def test_skills_take_turns_where_the_other_one_ended_and_everything_is_recorded_to_learn_from(lab: Lab) -> None:
    ended = lab.practise(episodes=8)
    assert (ended.state, ended.reason) == ("ended", "all 8 episodes are done")
    assert [row.task for row in lab.rows if not row.truncated_reason] == ["drawer", "open"] * 4
    assert (ended.task.successes, ended.reset.successes, ended.interventions, ended.pages) == (4, 4, 0, 0)
    assert lab.arm.layouts == 1, "only the first one was laid out: there was nothing to go on from"
    episodes = [read_episode(path) for path in sorted((lab.folder / "spool" / "pending").glob("*.mcap"))]
    assert len(episodes) == 8
    assert not any(is_measurement(episode.metadata) for episode in episodes)
    numbers = sorted(episode.metadata["practice"]["number"] for episode in episodes)
    assert len(set(numbers)) == 8
    assert {episode.labelled_by for episode in episodes} == {"operator:sim"}


def test_after_so_many_failures_in_a_row_a_person_lays_the_scene_and_the_task_begins(lab: Lab) -> None:
    lab.expert = ScriptedExpert(lab.arm.world, aim_offset_m=(0.031, 0.0))
    ended = lab.practise(episodes=5, tries=2)
    assert [kind for kind, _ in lab.person.pages] == ["hard_reset", "hard_reset"]
    assert "close the drawer" in lab.person.pages[0][1]
    assert (ended.interventions, ended.pages, ended.task.failures) == (2, 2, 5)
    assert [call.by for call in ended.calls] == ["ada", "ada"]
    assert lab.arm.layouts == 1 + 2
    assert ended.status(time.time_ns())["per_100"] == 40.0


def test_nothing_moves_while_a_person_is_waited_for_and_a_restart_waits_for_the_same_page(
    lab: Lab, tmp_path: Path, world: SimEnv
) -> None:
    lab.person.answers = False
    lab.expert = ScriptedExpert(world, aim_offset_m=(0.031, 0.0))
    lab.person.rings = lab.closing.set
    lab.practise(tries=1)
    assert len([row for row in lab.rows if not row.truncated_reason]) == 1
    again = Lab(tmp_path, world, lab.person)
    assert again.book.state is not None
    assert again.book.state.waiting is not None
    assert again.book.state.waiting.page_id == "page-0000000000000001"
    again.before = lambda number: again.stop.set()
    lab.person.answers = True
    ended = again.go_on()
    assert (ended.reason, ended.pages, ended.interventions) == ("stopped by an operator", 1, 1)


def test_a_person_at_the_robot_answers_and_nobody_else_is_called_any_more(lab: Lab) -> None:
    lab.person.answers = False
    lab.expert = ScriptedExpert(lab.arm.world, aim_offset_m=(0.031, 0.0))
    lab.book.keep(lab.asked(tries=1, episodes=2))
    run = lab.run()
    lab.before = lambda number: lab.stop.set() if lab.person.resolved else None

    def there() -> None:  # beside the arm, a moment after the call
        threading.Timer(0.1, lambda: run.answer("bob")).start()

    lab.person.rings = there
    ended = run.run()
    assert [call.by for call in ended.calls] == ["bob"]
    assert lab.person.resolved == [("page-0000000000000001", "bob")]


def test_a_run_goes_on_where_it_was_after_its_process_has_ended(lab: Lab, tmp_path: Path, world: SimEnv) -> None:
    lab.before = lambda number: lab.closing.set() if number == 5 else None
    cut = lab.practise(episodes=8)
    assert (cut.state, cut.episodes) == ("running", 3)
    again = Lab(tmp_path, world, lab.person)
    again.arm.layouts = 1
    ended = again.go_on()
    assert (ended.run, ended.state, ended.episodes, ended.pages) == (cut.run, "ended", 8, 0)
    seeds = [row.seed for row in (*lab.rows, *again.rows)]
    assert len(seeds) == len(set(seeds)), "no start state is used twice"


@pytest.mark.parametrize(("fails", "page"), [("estop", "estop"), ("fault", "arm_fault"), ("over_force", "over_force")])
def test_a_stop_and_a_fault_of_the_arm_call_for_a_person_and_then_it_goes_on(lab: Lab, fails: str, page: str) -> None:
    def harm(number: int) -> None:
        lab.arm.fails = fails if number == 3 else ""

    lab.before = harm
    ended = lab.practise(episodes=4)
    assert [kind for kind, _ in lab.person.pages] == [page]
    assert (ended.episodes, ended.cut, ended.interventions, ended.reason) == (4, 2, 1, "all 4 episodes are done")


def test_motors_that_recover_by_themselves_are_waited_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gymnast_ros.run.practice.FIRST_WAIT_S", 0.05)
    lab.before = lambda number: setattr(lab.arm, "fails", "motor_fault" if number == 3 else "")
    ended = lab.practise(episodes=4)
    assert [row.truncated_reason for row in lab.rows if row.truncated_reason] == [
        "refused", "motor_fault", "refused", "refused",
    ]  # fmt: skip
    assert (ended.pages, ended.reason, lab.arm.layouts) == (0, "all 4 episodes are done", 1)


def test_an_arm_that_is_started_again_costs_an_episode_and_calls_nobody(lab: Lab) -> None:
    def kill(number: int) -> None:
        if number == 3:
            lab.arm.fails, lab.arm.layouts = "arm_lost", 0

    lab.before = kill
    ended = lab.practise(episodes=4)
    assert (ended.episodes, ended.pages, ended.reason) == (4, 0, "all 4 episodes are done")


def test_where_nothing_can_be_confirmed_the_object_counts_as_lost(lab: Lab) -> None:
    class Blind:
        def __init__(self, skill: object, pair: object) -> None:
            self.verdict = JudgeWatch(self, "task", DRAWER).verdict  # type: ignore[arg-type]
            self.judge = None

        def label(self, truth: object) -> tuple[Outcome, str]:
            return Outcome.UNLABELLED, ""

    lab.watching = Blind
    ended = lab.practise(episodes=3, tries=3)
    assert [kind for kind, _ in lab.person.pages] == ["lost_object"]
    assert (ended.task.unlabelled, ended.task.failures, ended.task.successes) == (3, 0, 0)


def test_hours_that_are_over_end_a_run_even_while_it_waits(lab: Lab) -> None:
    lab.person.answers = False
    lab.expert = ScriptedExpert(lab.arm.world, aim_offset_m=(0.031, 0.0))
    ended = lab.practise(tries=1, hours=1.5 / 3600)
    assert ended.state == "ended"
    assert "hours are over" in ended.reason


class Planted:
    """A judge with planned answers, by instruction."""

    def __init__(self, **answers: Outcome) -> None:
        self.answers = answers

    def judge(self, frames: object, instruction: str, *, scene: str = "") -> Judgement:
        outcome = self.answers[instruction.split()[0]]
        return Judgement(outcome, 0.9, 3, "judge-0123", f"as {instruction} looks")


@pytest.mark.parametrize(
    ("close", "open_", "ready", "label"),
    [
        (Outcome.SUCCESS, Outcome.FAILURE, "reset", Outcome.SUCCESS),
        (Outcome.FAILURE, Outcome.SUCCESS, "task", Outcome.FAILURE),
        (Outcome.FAILURE, Outcome.FAILURE, None, Outcome.FAILURE),
        (Outcome.ABSTAIN, Outcome.SUCCESS, "task", Outcome.UNLABELLED),
        (Outcome.ABSTAIN, Outcome.ABSTAIN, None, Outcome.UNLABELLED),
    ],
)
def test_a_judge_labels_the_skill_and_confirms_how_things_stand(
    close: Outcome, open_: Outcome, ready: str | None, label: Outcome
) -> None:
    watch = JudgeWatch(Planted(close=close, open=open_), "task", DRAWER)
    watch.judge.judge({}, DRAWER.instructions["task"])
    assert (watch.verdict.ready, watch.label({})[0]) == (ready, label)
    assert watch.verdict.labelled_by == ("" if label is Outcome.UNLABELLED else "judge:judge-0123")


def test_a_cube_is_put_on_the_plate_and_taken_off_again_with_nobody_there(lab: Lab) -> None:
    names = {"task": "put", "reset": RESET_OF["put"]}
    lab.pair = Pair(names, {skill: task_for(name).instruction for skill, name in names.items()})
    ended = lab.practise(**names, episodes=10)
    assert (ended.pages, ended.task.successes + ended.reset.successes) == (0, 10)


def test_an_unreadable_state_moves_no_arm(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"run": "x", "next": "both"}')
    assert PracticeBook(tmp_path).state is None
    assert (tmp_path / "state.unreadable").exists()


def test_the_waiting_times_are_bounded() -> None:
    state = new_run(PracticeAsked(task="a", reset="b", hours=2.0), "ada")
    for outcome, ready in itertools.repeat((Outcome.FAILURE, "task"), 8):
        state = state.done(outcome, ready)  # type: ignore[arg-type]
    assert state.needs == "hard_reset"
