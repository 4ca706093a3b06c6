"""A night of practice on the simulated arm, accelerated: how often people are needed, what is lost and what is learned.

`hours` runs the practice run itself (gymnast_ros.run.practice, its recorder and spool) in process, with a scripted
driver of about 30 % success, kills, stops and faults at random moments; a person answers each page. `learn` practises
with a trained policy, imitates its successes and compares it with the same number of episodes from scripted resets.
Each cell is written when it is done; the same command goes on where the file ends.

python -m benchmarks.practice hours --json benchmarks/practice_cpu2_202611.json
python -m benchmarks.practice learn --policy FOLDER --work FOLDER --json benchmarks/practice_cpu2_202611.json
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.resettable_arm import ResettableArm
from gymnast_core.episodes import Spool, read_episode
from gymnast_core.evaluation.statistics import wilson_interval
from gymnast_core.images import area_downsample
from gymnast_core.paging import Acknowledgement
from gymnast_core.policies.processor import use_threads
from gymnast_core.policy import Policy
from gymnast_core.practice import PracticeAsked, PracticeState, Skill
from gymnast_core.practice_rules import tries_for
from gymnast_core.types import Episode, Outcome
from gymnast_ros.run.arming import Arming
from gymnast_ros.run.episodes import EpisodeRunner
from gymnast_ros.run.plan import EpisodePlan, EpisodeResult
from gymnast_ros.run.practice import PracticePorts, PracticeRun, new_run
from gymnast_ros.run.practice_book import PracticeBook
from gymnast_ros.run.referee import OTHER, Pair, SimulatorWatch, SkillVerdict, SkillWatch, Watching
from gymnast_ros.sim.collect import collect, evaluate
from gymnast_ros.sim.env import MAX_STEPS, SimEnv
from gymnast_ros.sim.expert import ScriptedExpert
from gymnast_ros.sim.tasks import RESET_OF, task_for

EPISODE_S = MAX_STEPS / 5.0 + 4.0
"""Of an episode on a real arm: its steps at 5 Hz, and the way home."""
DRIVER = {"aim_offset_m": (0.02, 0.0), "aim_noise_m": 0.012}
"""A mis-calibrated station that now and then hits: about 30 % success."""
SEES, MISTAKES = 0.85, 0.03
"""Of the planted judge: the share of what is so that it sees, and of what is not that it sees all the same."""
HARM = {"estop": 0.002, "over_force": 0.002, "arm_lost": 0.005, "restart": 0.005}
"""Chance of each in an episode."""
PAGES_OF = {"estop": "estop", "over_force": "over_force"}
FIRST_EVALUATED = 2_000_000


class NoisyWatch:
    """What a judge of known recall and false positives would say, drawn from the simulator's state."""

    judge = None

    def __init__(self, rng: np.random.Generator, skill: Skill, pair: Pair) -> None:
        self._rng, self._skill, self._true = rng, skill, SimulatorWatch(skill, pair)
        self.verdict = SkillVerdict()

    def label(self, truth: Mapping[str, object]) -> tuple[Outcome | None, str]:
        """See SkillWatch."""
        self._true.label(truth)
        ready = self._true.verdict.ready
        if self._says(ready == OTHER[self._skill]):
            self.verdict = SkillVerdict(Outcome.SUCCESS, "judge:planted", OTHER[self._skill], "seen")
        else:
            said: Skill | None = self._skill if self._says(ready == self._skill) else None
            self.verdict = SkillVerdict(Outcome.FAILURE, "judge:planted", said, "not seen")
        return self.verdict.outcome, self.verdict.labelled_by

    def _says(self, so: bool) -> bool:
        return bool(self._rng.random() < (SEES if so else MISTAKES))


class Person:
    """A Pager whose person comes at once; each page is held against what has happened."""

    def __init__(self, night: Night) -> None:
        self._night = night
        self.kinds: Counter[str] = Counter()
        self.wrong: list[str] = []

    def page(self, kind: str, text: str, **detail: object) -> str:
        """Count it, and whether it is due."""
        self.kinds[kind] += 1
        if not self._night.is_due(kind):
            self.wrong.append(f"{kind}: {text}")
        return f"page-{sum(self.kinds.values()):016x}"

    def answer(self, page_id: str) -> Acknowledgement | None:
        """At once."""
        self._night.note_answer()
        return Acknowledgement("person", time.time_ns())


class Night:
    """One run, with what harms it.

    Args:
        folder: of the robot.
        world: the scene.
        task: of the pair.
        driver: what drives the arm.
        watching: who watches; None is the simulator's state.
        harm: chance of each kind.
        seed: of everything random.
    """

    def __init__(
        self, folder: Path, world: SimEnv, task: str, driver: Policy, watching: Watching | None, *,
        harm: Mapping[str, float], seed: int,
    ) -> None:  # fmt: skip
        self.folder, self._task, self._driver = folder, task, driver
        self._rng, self._harm = np.random.default_rng(seed), harm
        self._watching = watching or SimulatorWatch
        self.arm, self.person = ResettableArm(world), Person(self)
        names = {"task": task, "reset": RESET_OF[task]}
        self._pair = Pair(names, {skill: task_for(name).instruction for skill, name in names.items()})  # type: ignore[arg-type]
        self._closing = threading.Event()
        self._watch: SkillWatch | None = None
        self._last: list[tuple[Skill, str | None]] = []
        self._answered = 0
        self._harmed = ""
        self.restarts, self.harmed = 0, Counter[str]()
        self.rows: list[EpisodeResult] = []

    def run(self, **asked: object) -> PracticeState:
        """Practise to the end, over all restarts of the process."""
        self._asked = PracticeAsked(task=self._task, reset=RESET_OF[self._task], hours=24.0, **asked)  # type: ignore[arg-type]
        PracticeBook(self.folder / "practice").keep(new_run(self._asked, "benchmark"))
        while True:
            self._closing.clear()
            book = PracticeBook(self.folder / "practice")
            runner = EpisodeRunner(
                lambda: self.arm, Spool(self.folder / "spool"), "sim-0", lambda truth: (Outcome.UNLABELLED, "")
            )
            state = PracticeRun(book, self._pair, PracticePorts(
                episode=lambda plan, checkpoint, watch, runner=runner: self._episode(runner, plan, watch),
                watching=self._begin_watch, pager=self.person, gate=Arming(), show=lambda status: None,
                ended=lambda: False, closing=self._closing.is_set, log=logging.getLogger("practice"),
            )).run()  # fmt: skip
            runner.close()
            if state.state == "ended":
                return state
            self.restarts += 1

    def is_due(self, kind: str) -> bool:
        """Whether a page of this kind is right, by what was seen and harmed; not by what the run believes."""
        tries = self._tries()
        last = self._last[-tries:]
        if kind in PAGES_OF.values():
            return PAGES_OF.get(self._harmed) == kind
        if kind == "lost_object":
            return len(last) == tries and all(ready is None for _, ready in last)
        if kind == "hard_reset":
            return len(last) == tries and all(ready != OTHER[skill] for skill, ready in last)  # type: ignore[index]
        return False

    def note_answer(self) -> None:
        """What failed before is behind us."""
        self._answered = len(self._last)

    def _tries(self) -> int:
        """Failures in a row after which a page is right: as asked for, or by how often the skill succeeded."""
        if self._asked.tries or not self._last:
            return self._asked.tries or 1
        skill = self._last[-1][0]
        row = [ready for name, ready in self._last if name == skill]
        streak = 0
        while streak < len(self._last) - self._answered and self._last[-1 - streak] in ((skill, None), (skill, skill)):
            streak += 1
        return tries_for(sum(ready == OTHER[skill] for ready in row), len(row) - streak)

    def _begin_watch(self, skill: Skill, pair: Pair) -> SkillWatch:
        self._watch = self._watching(skill, pair)
        return self._watch

    def _episode(self, runner: EpisodeRunner, plan: EpisodePlan, watch: SkillWatch) -> EpisodeResult:
        kinds = list(self._harm)
        drawn = self._rng.random(len(kinds)) < np.array([self._harm[kind] for kind in kinds])
        self._harmed = next((kind for kind, hit in zip(kinds, drawn, strict=True) if hit), "")
        self.harmed[self._harmed or "none"] += 1
        self.arm.fails = self._harmed if self._harmed != "restart" else ""
        if self._harmed == "restart":
            self._closing.set()
        row = runner.run(plan, self._driver, self._closing.is_set, label=watch.label)
        self.rows.append(row)
        if not row.truncated_reason and plan.practice is not None:
            self._last.append((plan.practice.skill, watch.verdict.ready))
        return row

    def lost(self) -> int:
        """Recorded episodes that are not in the spool, readable."""
        there = {read_episode(path).episode_id for path in (self.folder / "spool" / "pending").glob("*.mcap")}
        return len({row.episode_id for row in self.rows if row.episode_id} - there)


def one_night(task: str, tries: int, watch: str, episodes: int, seed: int) -> dict[str, object]:
    """One cell of `hours`."""
    began = time.monotonic()
    world = SimEnv(image_size=64)
    rng = np.random.default_rng([seed, 1])
    driver = ScriptedExpert(world, rng=np.random.default_rng([seed, 2]), **DRIVER)  # type: ignore[arg-type]
    watching: Watching | None = None if watch == "state" else lambda skill, pair: NoisyWatch(rng, skill, pair)
    with tempfile.TemporaryDirectory() as folder:
        night = Night(Path(folder), world, task, driver, watching, harm=HARM, seed=seed)
        state = night.run(tries=tries, episodes=episodes, sample=-1)
        lost = night.lost()
    world.close()
    wins = sum(row.success is True for row in night.rows)
    return {
        "task": task, "reset": RESET_OF[task], "tries": tries, "watch": watch, "episodes": state.episodes,
        "simulated_h": round(len(night.rows) * EPISODE_S / 3600, 2), "labelled_success": wins / max(1, state.episodes),
        "interventions": state.interventions, "per_100": round(100 * state.interventions / state.episodes, 2),
        "pages": dict(night.person.kinds), "wrong_pages": night.person.wrong, "harmed": dict(night.harmed),
        "restarts": night.restarts, "layouts": night.arm.layouts, "lost": lost, "cut": state.cut,
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def practised_with(
    policy: Policy, work: Path, task: str, episodes: int, tries: int, seed: int, sample: int
) -> dict[str, object]:
    """Practise a pair with a policy; its episodes are kept in work."""
    world = SimEnv()
    folder = work / f"practised-{task}"
    shutil.rmtree(folder, ignore_errors=True)
    night = Night(folder, world, task, policy, None, harm=HARM, seed=seed)
    state = night.run(tries=tries, episodes=episodes, sample=sample)
    world.close()
    return {
        "episodes": state.episodes, "interventions": state.interventions, "lost": night.lost(),
        "per_100": round(100 * state.interventions / state.episodes, 2), "wrong_pages": night.person.wrong,
        "successes": state.task.successes + state.reset.successes,
    }  # fmt: skip


def successes_of(work: Path, task: str) -> list[Episode]:
    """Successful recorded episodes, as small as a policy sees them."""
    found = []
    for path in sorted((work / f"practised-{task}" / "spool" / "pending").glob("*.mcap")):
        episode = read_episode(path)
        if episode.outcome is Outcome.SUCCESS:
            small = {name: np.stack([area_downsample(frame, 64) for frame in frames]) for name, frames in
                     episode.images.items()}  # fmt: skip
            found.append(replace(episode, images=small))
    return found


def scripted_successes(policy: Policy, tasks: Sequence[str], each: int, seed: int) -> list[Episode]:
    """Successful episodes of as many from start states that are laid out."""
    world = SimEnv()
    rng = np.random.default_rng(seed)
    rows = [row for task in tasks for row in collect(world, policy, task, range(980_000, 980_000 + each), rng=rng)]
    world.close()
    return [row for row in rows if row.outcome is Outcome.SUCCESS]


def success(policy: Policy, tasks: Sequence[str], starts: int) -> dict[str, object]:
    """Greedy success from laid-out start states that nothing was trained on."""
    world = SimEnv()
    trials = evaluate(world, policy, range(FIRST_EVALUATED, FIRST_EVALUATED + starts), tasks=tasks)
    world.close()
    wins = sum(trial.succeeded for trial in trials)
    each = {task: sum(t.succeeded for t in trials if t.task == task) / starts for task in tasks}
    interval = wilson_interval(wins, len(trials))
    return {"success": wins / len(trials), "low": interval.low, "high": interval.high, "n": len(trials), "tasks": each}


class Cells:
    """Results by name in one JSON file, each written when it is there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.values: dict[str, dict[str, object]] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, name: str, make: Callable[[], dict[str, object]]) -> dict[str, object]:
        """Return a cell, made if it is missing."""
        if name not in self.values:
            self.values[name] = make()
            self._path.write_text(json.dumps(self.values, indent=1))
            print(name, json.dumps(self.values[name]), flush=True)
        return self.values[name]


def hours(args: argparse.Namespace, cells: Cells) -> None:
    """Both pairs, few and many tries, seen by the state and by a planted judge."""
    for tries in args.tries:
        for watch in ("state", "judge"):
            for task in args.tasks:
                name = f"hours/{task}/{tries} tries/{watch}"
                cells.get(name, lambda t=task, k=tries, w=watch: one_night(t, k, w, args.episodes, args.seed))  # type: ignore[misc]


def learn(args: argparse.Namespace, cells: Cells) -> None:
    """Before, after practice, and after the same number of episodes from scripted resets."""
    from cloud_trainer.sft.trainer import train_sft
    from gymnast_core.jobs.imitate import SftConfig
    from gymnast_core.policies import load_policy

    use_threads()
    args.work.mkdir(parents=True, exist_ok=True)
    skills = [name for task in args.tasks for name in (task, RESET_OF[task])]
    base = load_policy(args.policy)
    cells.get("learn/before", lambda: success(base, skills, args.starts))
    for task in args.tasks:
        cells.get(f"learn/practise/{task}",
                  lambda task=task: practised_with(base, args.work, task, args.episodes, 8, args.seed, args.seed))  # type: ignore[misc]  # fmt: skip

    def taught(name: str, episodes: Sequence[Episode]) -> dict[str, object]:
        out = args.work / name
        shutil.rmtree(out, ignore_errors=True)
        config = SftConfig(iterations=args.iterations, seed=args.seed)
        train_sft(episodes, config, out, parent=args.policy, state=args.work / f"{name}.state")
        return {"imitated": len(episodes), **success(load_policy(out), skills, args.starts)}

    practised = [row for task in args.tasks for row in successes_of(args.work, task)]
    cells.get("learn/after practice", lambda: taught("after-practice", practised))
    each = args.episodes // 2
    cells.get("learn/after scripted resets",
              lambda: taught("after-scripted", scripted_successes(base, skills, each, args.seed)))  # fmt: skip


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("hours", "learn"))
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=["put", "drawer"], choices=sorted(RESET_OF))
    parser.add_argument("--tries", nargs="+", type=int, default=[3, 8, 0], help="0: by success")
    parser.add_argument("--episodes", type=int, default=520, help="of each pair and cell")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--policy", type=Path, help="learn: a policy that knows both skills of each pair")
    parser.add_argument("--work", type=Path, help="learn: recordings and checkpoints")
    parser.add_argument("--iterations", type=int, default=300, help="learn: of imitation")
    parser.add_argument("--starts", type=int, default=50, help="learn: start states a task of each evaluation")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    cells = Cells(args.json)
    if args.what == "learn" and (args.policy is None or args.work is None):
        parser.error("learn needs --policy and --work")
    {"hours": hours, "learn": learn}[args.what](args, cells)


if __name__ == "__main__":
    main()
